"""Where the benchmark keeps things, and which core does what."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
LG_SOURCES: Final = ROOT / "loadtests" / "lg"
PEER_LOCKS: Final = ROOT / "loadtests" / "peers"

# The machine's first two cores: one for whatever is measured, one for what measures.
SERVED_CORE: Final = 0
LOAD_CORE: Final = 1


class Missing(Exception):
    """Something is not installed here. The message says what, and how to get it."""


def cache_dir() -> Path:
    """Environments of peers and the built load generator: `EGRESS_BENCH_CACHE`, else the user's cache directory."""
    chosen = os.environ.get("EGRESS_BENCH_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "egress-bench"
    base.mkdir(parents=True, exist_ok=True)
    return base


def load_generator() -> Path:
    """The built `lg`; builds it when its sources are newer. Missing without a C compiler or OpenSSL's headers."""
    built = cache_dir() / "lg"
    sources = [*LG_SOURCES.glob("*.c"), *LG_SOURCES.glob("*.h")]
    if built.exists() and built.stat().st_mtime > max(file.stat().st_mtime for file in sources):
        return built
    compiler = shutil.which("cc")
    if compiler is None:
        raise Missing("no C compiler: apt install gcc libc6-dev libssl-dev")
    fresh = built.with_suffix(f".{os.getpid()}")
    files = [str(file) for file in sorted(LG_SOURCES.glob("*.c"))]
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(fresh), *files, "-lssl", "-lcrypto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "openssl/" in done.stderr:
        raise Missing("no OpenSSL headers: apt install libssl-dev")
    if done.returncode:
        raise RuntimeError(f"the load generator does not compile:\n{done.stderr}")
    fresh.replace(built)
    return built


def program(name: str, package: str) -> str:
    """Path of an installed program; Missing names Debian's package."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(f"no {name}: apt install {package}")
    return found


def stream_server() -> list[str]:
    """The command of the streaming origin."""
    return [python(), "-m", "loadtests.dataplane.streams"]


def python() -> str:
    """The interpreter that the product runs on; peers get the same."""
    return sys.executable
