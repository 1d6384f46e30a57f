"""Peers' Python environments: each its own, under the cache directory, every package pinned by hash."""

import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from loadtests.dataplane.places import PEER_LOCKS, ROOT, Missing, cache_dir, python


def locked(text: str) -> dict[str, str]:
    """Name to pinned requirement with its hashes, from a lock as pip-compile writes it."""
    pins = re.findall(r"^(\S+==\S+(?: ;[^\\\n]*)?(?: \\\n +--hash=\S+)+)", text, re.MULTILINE)
    return {str(canonicalize_name(re.split(r"[=\[]", pin, maxsplit=1)[0])): pin for pin in pins}


def closure(name: str) -> set[str]:
    """`name` and all that it needs, as installed in this environment."""
    found: set[str] = set()
    todo = [name]
    while todo:
        each = str(canonicalize_name(todo.pop()))
        if each in found:
            continue
        try:
            needed = requires(each) or []
        except PackageNotFoundError:
            continue
        found.add(each)
        parsed = map(Requirement, needed)
        todo += [need.name for need in parsed if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def subset(names: Iterable[str]) -> str:
    """The pins of these packages in the product's own lock: a peer of the same version gets the same files."""
    pins = locked((ROOT / "requirements.lock").read_text())
    return "\n".join(pins[name] for name in sorted(names) if name in pins) + "\n"


def environment(name: str, lock: str | None = None) -> Path:
    """The `bin` directory of the peer's environment, made and filled when missing or when its lock changed.

    `lock`: the pins; None reads loadtests/peers/NAME.txt. Missing when it cannot be installed.
    """
    lock = (PEER_LOCKS / f"{name}.txt").read_text() if lock is None else lock
    home = cache_dir() / name
    done = home / "installed.txt"
    if done.exists() and done.read_text() == lock:
        return home / "bin"
    print(f"installing {name} into {home}", flush=True)
    try:
        subprocess.run([python(), "-m", "venv", "--clear", str(home)], check=True, capture_output=True, text=True)
        wanted = home / "lock.txt"
        wanted.write_text(lock)
        install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "-r"]
        subprocess.run(
            [str(home / "bin/python"), "-m", "pip", *install, str(wanted)], check=True, capture_output=True, text=True
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
        raise Missing(f"{name} cannot be installed: {' '.join(last)}") from None
    done.write_text(lock)
    return home / "bin"
