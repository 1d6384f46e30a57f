"""What must stand before anything listens: one supervisor per state directory, keys, CA, store, a first policy.

Each refusal is a `StartRefused` with what, where and fix; nothing is half started when one is raised.
"""

import asyncio
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.paths import Paths, private_dir
from proxy.supervisor.environment import foreign_owners
from proxy.supervisor.options import Options

if TYPE_CHECKING:
    from proxy.keys.ca import CertificateAuthority
    from proxy.keys.root import RootKey
    from proxy.supervisor.child import Child

DEMO_DEADLINE_S: Final = 30.0
DEMO_ADDRESS: Final = ("127.0.0.1", 9443)


class StartRefused(Exception):
    """Why `egress run` does not start: what, where, fix."""

    def __init__(self, what: str, where: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Keys:
    """The root secret and the CA made or loaded with it."""

    root: "RootKey"
    ca: "CertificateAuthority"


def refuse_strangers() -> None:
    """StartRefused when another distribution owns one of our import names."""
    for package, others in foreign_owners().items():
        raise StartRefused(
            f"another installed package also provides `{package}`: {', '.join(others)}",
            "this Python environment",
            f"use an environment of its own (`make venv`), or `pip uninstall {' '.join(others)}` and install again",
        )


def lock_state(paths: Paths) -> int:
    """Takes the state directory for this process until the returned descriptor is closed."""
    private_dir(paths.state_dir)
    private_dir(paths.socket_dir)
    descriptor = os.open(paths.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartRefused(
            "another supervisor already runs with this state directory",
            str(paths.state_dir),
            "`egress status` shows it; stop it, or give this one another directory with --state",
        ) from None
    return descriptor


def load_keys(paths: Paths) -> Keys:
    """Root secret and CA, made at the very first start. Raises KeyProblem, StartRefused."""
    from proxy.keys.ca import CertificateAuthority
    from proxy.keys.root import RootKey

    now_s = time.time()
    root = _mounted(paths) or RootKey.load_or_create(paths.root_key, now_s=now_s)
    return Keys(root, CertificateAuthority.load_or_create(paths.ca_dir, root, now_s))


def _mounted(paths: Paths) -> "RootKey | None":
    """The mounted root key, when one is named. A missing one is never replaced: a second key would open nothing."""
    from proxy.keys.root import RootKey

    if paths.mounted_root_key is None:
        return None
    try:
        return RootKey.load(paths.root_key)
    except FileNotFoundError:
        raise StartRefused(
            "the root key that EGRESS_ROOT_KEY names is not there",
            str(paths.root_key),
            "mount the secret there, or unset EGRESS_ROOT_KEY to keep the key in the state directory",
        ) from None
    except PermissionError:
        raise StartRefused(
            "the root key that EGRESS_ROOT_KEY names may not be read",
            str(paths.root_key),
            f"mount it so that user {os.geteuid()} may: its own with mode 0400, or root's with mode 0440 and its group",
        ) from None


def write_status_file(paths: Paths, listen: dict[str, str]) -> None:
    """The addresses that are really bound (ports 0 resolved), for `egress env` and the tests. Replaced whole."""
    facts = {"pid": os.getpid(), "started_s": time.time(), "listen": listen}
    temporary = paths.status_file.with_suffix(".tmp")
    temporary.write_text(json.dumps(facts, indent=2) + "\n")
    temporary.replace(paths.status_file)


def directory_of(options: Options) -> Path | None:
    """The policy directory when it exists; a named one that does not is refused."""
    if options.directory is not None and not options.directory.is_dir():
        raise StartRefused(
            f"there is no policy directory {options.directory.name}",
            str(options.directory),
            "give one with --directory, or `--directory none` to take the policy from the store alone",
        )
    return options.directory


async def wait_for_demo(demo: "Child", ca: Path) -> None:
    """Until the look-alikes accept and their CA is on disk: the example policy names both."""
    for _ in range(int(DEMO_DEADLINE_S / 0.05)):
        if demo.restarts:
            raise StartRefused("the demo providers do not start", str(demo.log), _last_line(demo.log))
        if demo.pid is not None and ca.exists() and await _accepts(*DEMO_ADDRESS):  # noqa: ASYNC240 - local
            return
        await asyncio.sleep(0.05)
    raise StartRefused(f"the demo providers were not ready within {DEMO_DEADLINE_S:g} s", str(demo.log), "see the log")


async def _accepts(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip().removeprefix("fix: ") if lines else "see the log"
