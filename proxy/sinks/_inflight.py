"""Which exchanges are under way in a process, kept so that a kill -9 leaves their names behind.

A preallocated file of fixed slots beside the segments, mapped into memory; a slot is filled when an exchange begins
and emptied when its terminal record is on disk. Not synced: it survives the death of the process, not of the machine,
at a fraction of a microsecond per exchange and without a system call that would let another thread run. (A power cut
loses exchanges of the last moments with the segments' own tail.)
"""

import mmap
import os
from collections import deque
from pathlib import Path
from typing import Final

SLOT_BYTES: Final = 128
SLOTS: Final = 8192
"""More exchanges than one worker ever has under way: its connections are limited far below."""
_NAME: Final = "inflight"
_EMPTY: Final = bytes(SLOT_BYTES)


def read_inflight(directory: Path) -> dict[str, str]:
    """Exchange id -> app of the slots that are taken; empty when there is no such file."""
    try:
        fd = os.open(directory / _NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    with os.fdopen(fd, "rb") as file:
        return {exchange: app for _, exchange, app in _taken(file.read(SLOT_BYTES * SLOTS))}


def _taken(data: bytes) -> list[tuple[int, str, str]]:
    found = []
    for number in range(len(data) // SLOT_BYTES):
        text = data[number * SLOT_BYTES : (number + 1) * SLOT_BYTES].rstrip(b"\0").decode("ascii", "replace")
        exchange, _, app = text.partition(" ")
        if exchange:
            found.append((number, exchange, app))
    return found


class InFlight:
    """The slots of one writer. `begin` belongs to the event loop, `end` to the writer's thread."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self._map: mmap.mmap | None = None
        self._free: deque[int] = deque()
        self._taken: dict[str, int] = {}
        if self._path.exists():
            self._open()

    def _open(self) -> None:
        """Blocks are reserved at once, so that a full disk refuses here and never in mid-flight. Raises OSError."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, SLOT_BYTES * SLOTS)
            self._map = mmap.mmap(fd, SLOT_BYTES * SLOTS)
        finally:
            os.close(fd)
        taken = _taken(self._map[:])
        self._taken = {exchange: number for number, exchange, _ in taken}
        occupied = set(self._taken.values())
        self._free = deque(number for number in range(SLOTS) if number not in occupied)

    def begin(self, exchange: str, app: str) -> bool:
        """Takes a slot; False when none is free. Raises OSError when the file cannot be made or written."""
        if self._map is None:
            self._open()
        if not self._free or exchange in self._taken:
            return exchange in self._taken
        number = self._free.popleft()
        text = f"{exchange} {app}".encode("ascii", "replace")[:SLOT_BYTES]
        self._write(number, text.ljust(SLOT_BYTES, b"\0"))
        self._taken[exchange] = number
        return True

    def __contains__(self, exchange: str) -> bool:
        """Whether the exchange holds a slot."""
        return exchange in self._taken

    def end(self, exchange: str) -> None:
        """Empties the slot, if the exchange has one."""
        number = self._taken.pop(exchange, None)
        if number is not None:
            self._write(number, _EMPTY)
            self._free.append(number)

    def _write(self, number: int, data: bytes) -> None:
        if self._map is not None:
            self._map[number * SLOT_BYTES : (number + 1) * SLOT_BYTES] = data

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
