"""The durable sink: numbered segment files in a private directory per writer, synced before a write counts."""

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from proxy.sinks import Sink

_SEGMENT = re.compile(r"([0-9]{6})\.jsonl")
_WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafeAuditFile(Exception):
    """The audit trail must not be written there. The message says why and what to type."""


def segment_name(number: int) -> str:
    return f"{number:06d}.jsonl"


def open_directory(path: Path, *, create: bool) -> int:
    """A file descriptor of a directory that only we may enter. Raises UnsafeAuditFile, FileNotFoundError."""
    if create:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        fd = os.open(path, _DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise UnsafeAuditFile(f"{path} is a link or not a directory; replace it by a directory") from error
        raise
    info = os.fstat(fd)
    wrong = ""
    if info.st_uid != os.geteuid():
        wrong = f"{path} belongs to user {info.st_uid}; run: chown {os.geteuid()} {path}"
    elif info.st_mode & 0o077:
        wrong = f"{path} has mode {stat.S_IMODE(info.st_mode):04o}; run: chmod 700 {path}"
    if wrong:
        os.close(fd)
        raise UnsafeAuditFile(wrong)
    return fd


class SegmentFiles:
    """One writer's directory `<audit>/<writer>/NNNNNN.jsonl`, locked for this process.

    A segment is only ever appended to. `size_bytes` is how much of the current one is known to be on disk.
    """

    def __init__(self, directory: Path, writer: str) -> None:
        if not _WRITER.fullmatch(writer):
            raise UnsafeAuditFile(f"writer id {writer[:64]!r} is not a plain file name")
        os.close(open_directory(directory, create=True))
        self.path = directory / writer
        self._directory_fd = open_directory(self.path, create=True)
        self._fd = -1
        self.number = 0
        self.size_bytes = 0
        try:
            self._lock_fd = self._lock()
        except BaseException:
            os.close(self._directory_fd)
            raise

    def _lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open("lock", flags, 0o600, dir_fd=self._directory_fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise UnsafeAuditFile(
                f"{self.path} is in use by another process; each writer needs an id of its own"
            ) from error
        return fd

    def numbers(self) -> list[int]:
        """Segments that exist, in order."""
        return segment_numbers(self._directory_fd)

    def begin(self, number: int, header: bytes) -> None:
        """Starts a segment with its header line, durably. Raises OSError; then the old segment is still current."""
        fd = os.open(segment_name(number), _NEW_FILE, 0o600, dir_fd=self._directory_fd)
        try:
            _write_all(fd, header)
            os.fsync(fd)
            os.fsync(self._directory_fd)
        except OSError:
            os.close(fd)
            # Best effort: an empty or torn file left behind is what the verifier calls a torn start.
            with contextlib.suppress(OSError):
                os.unlink(segment_name(number), dir_fd=self._directory_fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self.number, self.size_bytes = fd, number, len(header)

    def write(self, lines: bytes) -> None:
        """Appends and syncs. Raises OSError after cutting the file back to what counted; when even that fails, or the
        sync did (pages may be lost and marked clean), the segment is left for good: `usable` turns False."""
        try:
            _write_all(self._fd, lines)
        except OSError:
            self._cut_back()
            raise
        try:
            os.fdatasync(self._fd)
        except OSError:
            self._cut_back()
            self._leave()
            raise
        self.size_bytes += len(lines)

    @property
    def usable(self) -> bool:
        return self._fd >= 0

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self._fd, self.size_bytes)
        except OSError:
            self._leave()

    def _leave(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        self._leave()
        for fd in (self._lock_fd, self._directory_fd):
            with contextlib.suppress(OSError):
                os.close(fd)


def segment_numbers(directory_fd: int) -> list[int]:
    """Numbers of the segment files in an open directory."""
    return sorted(int(match[1]) for name in os.listdir(directory_fd) if (match := _SEGMENT.fullmatch(name)))


def read_segment(directory_fd: int, number: int, *, start: int = 0, limit_bytes: int | None = None) -> bytes:
    """The bytes of a segment from `start` (at most `limit_bytes`). A link is refused: UnsafeAuditFile."""
    name = segment_name(number)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory_fd)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeAuditFile(f"{name} is a link") from error
        raise
    with os.fdopen(fd, "rb") as file:
        file.seek(start)
        return file.read() if limit_bytes is None else file.read(limit_bytes)


def writers(directory: Path) -> Sequence[str]:
    """Ids of all writers that have a directory. Raises UnsafeAuditFile, FileNotFoundError."""
    fd = open_directory(directory, create=False)
    try:
        return sorted(entry.name for entry in os.scandir(fd) if _WRITER.fullmatch(entry.name) and entry.is_dir())
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


SINK = Sink(
    name="file",
    help="segment files under the state directory, synced to disk; the chain that `egress audit verify` checks",
    durable=True,
    open=SegmentFiles,
)
