"""Key files: who may read them, how they are written, and what is said when that is wrong."""

import os
import secrets
import stat
from pathlib import Path

OTHERS_ANY = 0o077
OTHERS_WRITE = 0o022


class KeyProblem(Exception):
    """Key material that must not be used. `what` happened, `where` (a path), and the `fix` to type."""

    def __init__(self, what: str, where: Path | str, fix: str) -> None:
        super().__init__(f"{what}: {where}. {fix}")
        self.what = what
        self.where = str(where)
        self.fix = fix


def make_private_directory(path: Path) -> None:
    """Creates `path` (0700) with its parents when missing, then checks it. Raises KeyProblem."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_directory(path)


def check_directory(path: Path) -> None:
    """Others could swap a file in a directory that they may write: refused (sticky /tmp included)."""
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode):
        raise KeyProblem("This is not a directory", path, "Replace it by a directory of mode 0700.")
    if info.st_uid not in (os.geteuid(), 0):
        raise KeyProblem("The directory belongs to another user", path, f"Run: chown {os.geteuid()} {path}")
    if info.st_mode & OTHERS_WRITE:
        raise KeyProblem(
            f"Others may write the directory (mode {stat.S_IMODE(info.st_mode):04o})", path, f"Run: chmod 700 {path}"
        )


def _check_place(path: Path) -> None:
    """The directory of `path`, and of the file that it links to. On a read-only mount nobody here can swap anything,
    whatever the modes say: a Kubernetes secret volume is 1777, and its files are links."""
    for directory in {path.parent, path.resolve(strict=True).parent}:
        if not os.statvfs(directory).f_flag & os.ST_RDONLY:
            check_directory(directory)


def _check_open_file(fd: int, path: Path, forbidden: int) -> None:
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise KeyProblem("This is not a regular file", path, "Put the real file there.")
    if info.st_uid not in (os.geteuid(), 0):
        raise KeyProblem("The file belongs to another user", path, f"Run: chown {os.geteuid()} {path}")
    # A Kubernetes secret volume with fsGroup arrives as root:group 0440; nothing narrower can be mounted there.
    mounted = info.st_uid == 0 and os.geteuid() != 0
    if info.st_mode & (forbidden & ~0o040 if mounted else forbidden):
        raise KeyProblem(
            f"Others may reach the file (mode {stat.S_IMODE(info.st_mode):04o})", path, f"Run: chmod 600 {path}"
        )


def read_file(path: Path, *, forbidden: int = OTHERS_ANY, limit_bytes: int = 1 << 20) -> bytes:
    """The bytes of a key file whose mode has none of the `forbidden` bits, where others cannot swap it. One that
    root owns, read by another user, may also be readable for its group (never for all).

    Raises KeyProblem for an unsafe file, FileNotFoundError when there is none.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        _check_place(path)
        _check_open_file(fd, path, forbidden)
        return file.read(limit_bytes)


def _temporary(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(data)
        file.flush()
        os.fsync(fd)
    return temporary


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create_file(path: Path, data: bytes, *, mode: int = 0o600) -> bool:
    """Writes a file that must not exist yet, whole or not at all. False: somebody else made it first."""
    temporary = _temporary(path, data, mode)
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_directory(path.parent)
    return True


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Swaps the content of a file in one step; readers see the old or the new one."""
    temporary = _temporary(path, data, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink()
        raise
    _sync_directory(path.parent)
