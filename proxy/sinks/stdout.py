"""Audit lines on standard output, for a log shipper. Never waits for its reader: a slow one loses lines, counted.

Supervisor and workers share one standard output, so each takes the lock of the audit directory while it writes.
"""

import contextlib
import errno
import fcntl
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.sinks import Sink

# poll(2): a pipe that is writable takes PIPE_BUF bytes without blocking.
_CHUNK_BYTES: Final = select.PIPE_BUF
_PATIENCE_MS: Final = 50
_WHOLE: Final = b"0"
_BROKEN: Final = b"1"


class StandardOutput:
    """Writes to a file descriptor that somebody else may have stopped reading. `lock_fd`: an open file that all who
    write there lock, and in which they leave word of a line that broke off; -1 where there are no others."""

    def __init__(self, fd: int = 1, lock_fd: int = -1) -> None:
        self._fd = fd
        self._lock_fd = lock_fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._mid_line = False

    def write(self, lines: bytes) -> None:
        """Raises OSError (EAGAIN) when the reader is too slow; the rest of these lines is dropped."""
        with self._alone():
            data = memoryview(b"\n" + lines if self._mid_line else lines)
            sent = 0
            try:
                while sent < len(data):
                    if not self._poll.poll(_PATIENCE_MS):
                        raise OSError(errno.EAGAIN, "standard output is not being read")
                    sent += os.write(self._fd, data[sent : sent + _CHUNK_BYTES])
            finally:
                if sent:
                    self._mid_line = data[sent - 1] != 0x0A

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self._lock_fd < 0:
            yield
            return
        self._lock()
        try:
            self._mid_line = os.pread(self._lock_fd, 1, 0) == _BROKEN
            yield
        finally:
            os.pwrite(self._lock_fd, _BROKEN if self._mid_line else _WHOLE, 0)
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _lock(self) -> None:
        """Not for ever: a process that was stopped while it wrote must not hold up the trail of the others."""
        for _ in range(_PATIENCE_MS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.001)
        raise OSError(errno.EAGAIN, "another process holds standard output")

    def close(self) -> None:
        """Standard output stays open: it is not ours alone."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _open(directory: Path, _writer: str) -> StandardOutput:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return StandardOutput(lock_fd=os.open(directory / "stdout.lock", flags, 0o600))


SINK = Sink(name="stdout", help="JSON lines on standard output, for a log shipper", durable=False, open=_open)
