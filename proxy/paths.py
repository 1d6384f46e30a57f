"""Where the state directory keeps things. Every process is given the directory and finds the rest here.

Unix socket paths are limited to 107 bytes (`sun_path`, unix(7)) and valkey dies over it, so sockets of a deep state
directory live in a private directory under /tmp, named by a hash of the state directory.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOCKET_PATH_LIMIT_BYTES: Final = 100
DEFAULT_STATE_DIR: Final = "state"


class NotPrivate(Exception):
    """A directory that must be ours alone is not. `path` and the reason are in the message."""


@dataclass(frozen=True, slots=True)
class Paths:
    """All well-known places under one state directory (absolute)."""

    state_dir: Path

    @classmethod
    def of(cls, state_dir: str | os.PathLike[str] | None = None) -> "Paths":
        """`state_dir`, else `EGRESS_STATE_DIR`, else ./state; made absolute so that a later chdir changes nothing."""
        chosen = state_dir or os.environ.get("EGRESS_STATE_DIR") or DEFAULT_STATE_DIR
        return cls(Path(os.path.abspath(chosen)))  # noqa: PTH100 - resolve() would follow links and make paths longer

    @property
    def mounted_root_key(self) -> Path | None:
        """`EGRESS_ROOT_KEY`: a root key that somebody else keeps and mounts. It is read, and never made or written."""
        chosen = os.environ.get("EGRESS_ROOT_KEY")
        return Path(os.path.abspath(chosen)) if chosen else None  # noqa: PTH100 - as in `of`

    @property
    def root_key(self) -> Path:
        return self.mounted_root_key or self.state_dir / "root.key"

    @property
    def ca_dir(self) -> Path:
        return self.state_dir / "ca"

    @property
    def ca_cert(self) -> Path:
        """The certificate (PEM, public) that clients must trust."""
        return self.ca_dir / "ca.pem"

    @property
    def store_dir(self) -> Path:
        """The embedded store's append-only file."""
        return self.state_dir / "store"

    @property
    def audit_dir(self) -> Path:
        return self.state_dir / "audit"

    @property
    def journal_dir(self) -> Path:
        """Budget intents, one file per worker, replayed after a crash."""
        return self.state_dir / "journal"

    @property
    def pace_dir(self) -> Path:
        """What each worker's apps spent lately, for the first leases of the next one."""
        return self.state_dir / "pace"

    @property
    def last_good(self) -> Path:
        """Directory of the last accepted revision and manifest."""
        return self.state_dir / "last-good"

    @property
    def living_dir(self) -> Path:
        """One empty file per worker whose books (audit chain, budget) are not closed yet."""
        return self.state_dir / "living"

    @property
    def demo_dir(self) -> Path:
        return self.state_dir / "demo"

    @property
    def data_dir(self) -> Path:
        """Indexes of exact data match, for policies that come from a store."""
        return self.state_dir / "data"

    @property
    def log_dir(self) -> Path:
        """Standard error of the child processes."""
        return self.state_dir / "log"

    @property
    def limits_file(self) -> Path:
        """Counts per app that all workers of this machine share by mmap."""
        return self.state_dir / "limits.shm"

    @property
    def status_file(self) -> Path:
        """JSON of the running supervisor: pid and the addresses that it really listens on."""
        return self.state_dir / "egress.json"

    @property
    def lock_file(self) -> Path:
        return self.state_dir / "egress.lock"

    @property
    def socket_dir(self) -> Path:
        """Where unix sockets go. Make it with `private_dir` before binding."""
        near = self.state_dir / "run"
        longest = near / "inspector-000.sock"
        if len(os.fsencode(longest)) <= SOCKET_PATH_LIMIT_BYTES:
            return near
        name = hashlib.sha256(os.fsencode(self.state_dir)).hexdigest()[:16]
        return Path("/tmp") / f"egress-{os.getuid()}-{name}"  # noqa: S108 - private_dir checks owner and mode

    @property
    def store_socket(self) -> Path:
        return self.socket_dir / "store.sock"

    @property
    def admin_socket(self) -> Path:
        return self.socket_dir / "admin.sock"

    def inspector_socket(self, index: int) -> Path:
        return self.socket_dir / f"inspector-{index}.sock"


def private_dir(path: Path) -> Path:
    """Makes `path` (mode 0700) when missing and returns it; NotPrivate when others could get in or swap it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = path.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        raise NotPrivate(f"{path} is not a directory")
    if facts.st_uid != os.getuid():
        raise NotPrivate(f"{path} belongs to user {facts.st_uid}, not to {os.getuid()}")
    if stat.S_IMODE(facts.st_mode) & 0o077:
        raise NotPrivate(f"{path} has mode {stat.S_IMODE(facts.st_mode):04o}; it must be 0700")
    return path
