"""Audit lines on standard output, for a log shipper. Never waits for its reader: a slow one loses lines, counted."""

import errno
import os
import select
from pathlib import Path
from typing import Final

from proxy.sinks import Sink

# poll(2): a pipe that is writable takes PIPE_BUF bytes without blocking.
_CHUNK_BYTES: Final = select.PIPE_BUF
_PATIENCE_MS: Final = 50


class StandardOutput:
    """Writes to a file descriptor that somebody else may have stopped reading."""

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._mid_line = False

    def write(self, lines: bytes) -> None:
        """Raises OSError (EAGAIN) when the reader is too slow; the rest of these lines is dropped."""
        view = memoryview(b"\n" + lines if self._mid_line else lines)
        sent = 0
        try:
            while sent < len(view):
                if not self._poll.poll(_PATIENCE_MS):
                    raise OSError(errno.EAGAIN, "standard output is not being read")
                sent += os.write(self._fd, view[sent : sent + _CHUNK_BYTES])
        finally:
            if sent:
                self._mid_line = view[sent - 1] != 0x0A

    def close(self) -> None:
        """Standard output stays open: it is not ours alone."""


def _open(_directory: Path, _writer: str) -> StandardOutput:
    return StandardOutput()


SINK = Sink(name="stdout", help="JSON lines on standard output, for a log shipper", durable=False, open=_open)
