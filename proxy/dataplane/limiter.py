"""Requests per minute and open connections per app, counted over all workers of this machine.

One file, mapped by every worker: a directory of apps (by hash), one total per worker, one region per worker. A worker
writes only its own region, so nothing is locked on the hot path; everybody sums over the regions. A region belongs to
whoever holds the lock on its slot, and the kernel drops that lock when its owner dies: a crash frees the worker's
connections.

When all places are taken, one that has no open connection and no request of the last minute goes to the next app. So
a worker looks each time whether a place still is its app's, and once more after it has counted a connection there.

A region's record per app, in unsigned 64-bit words: open connections, the last second counted, and a ring of counts
per second. The window is the last 60 seconds, the oldest second weighted by the part of it that is still inside.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from proxy.config.snapshot import AppPolicy
from proxy.errors import Denied
from proxy.paths import Paths

WINDOW_S: Final = 60
SLOTS: Final = 64
APPS: Final = 1024
_RING: Final = 64
_OPEN, _LAST, _COUNTS = 0, 1, 2
_RECORD: Final = _COUNTS + _RING
_REGION: Final = APPS * _RECORD
_WORD: Final = 8
_TOTALS: Final = APPS
_REGIONS: Final = APPS + SLOTS
# How many slots were ever in use: only their counts need be looked at.
_USED: Final = _REGIONS + SLOTS * _REGION
_SIZE_BYTES: Final = (_USED + 1) * _WORD
# Two descriptors and some 30 KB per proxied connection: 16,000 are half a gigabyte per machine.
MAX_CONNECTIONS: Final = 16_000
# The last part of the room is for apps that have few connections, so that one app cannot shut out all others.
RESERVE_PART: Final = 10
FEW_CONNECTIONS: Final = 8


class Limiter:
    """For one worker and its event loop's thread. Raises OSError when the file cannot be mapped.

    `max_connections` is for the machine, over all apps.
    """

    def __init__(
        self, paths: Paths, *, max_connections: int = MAX_CONNECTIONS, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_connections = max_connections
        self._clock = clock
        self._locks_dir = paths.limits_file.with_suffix(".slots")
        self._locks_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(paths.limits_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._fd).st_size < _SIZE_BYTES:
            os.ftruncate(self._fd, _SIZE_BYTES)
        self._map = mmap.mmap(self._fd, _SIZE_BYTES)
        self._words = memoryview(self._map).cast("Q")
        self._places: dict[str, tuple[int, int]] = {}
        self._sums: dict[int, tuple[int, int, int]] = {}
        self._slot, self._slot_fd = self._claim()
        self._widen()
        self._clear(self._slot)

    def admit_request(self, app: AppPolicy, now_s: float) -> None:
        """Counts one request. Denied rate_limited with `retry_after_s` when the app has used up its minute."""
        limit = app.limits.requests_per_minute
        if limit is None:
            return
        index = self._index(app.app)
        if self._window(index, now_s) >= limit:
            raise Denied(
                "rate_limited",
                f"{limit} requests per minute are allowed and have been used",
                where=app.at,
                retry_after_s=self._retry_after_s(index, limit, now_s),
            )
        self._count(index, int(now_s))

    def open_connection(self, app: AppPolicy) -> None:
        """Counts one connection; pair it with `close_connection`. Denied rate_limited (the app's own limit) or
        overloaded (the machine's)."""
        index = self._index(app.app)
        mine, everyone = self._connections(index)
        limit = app.limits.connections
        if self._refused(mine, everyone, limit):
            # Before anybody is turned away, connections of workers that died are taken off.
            self._sweep()
            mine, everyone = self._connections(index)
        if limit is not None and mine >= limit:
            raise Denied(
                "rate_limited",
                f"{limit} connections at a time are allowed and are open",
                where=app.at,
                remedy="Close idle connections, or ask the admin to raise `limits.connections`.",
                retry_after_s=1,
            )
        if self._refused(mine, everyone, None):
            raise Denied("overloaded", f"{everyone} connections are open on this machine", retry_after_s=1)
        self._count_connection(app.app)

    def _count_connection(self, app: str) -> None:
        while True:
            index = self._index(app)
            at = self._record(self._slot, index) + _OPEN
            self._words[at] += 1
            if self._words[index] == self._places[app][1]:
                break
            self._words[at] -= 1
        self._words[_TOTALS + self._slot] += 1

    def close_connection(self, app: str) -> None:
        """The end of a connection that `open_connection` let in."""
        at = self._record(self._slot, self._index(app)) + _OPEN
        if self._words[at]:
            self._words[at] -= 1
            self._words[_TOTALS + self._slot] -= 1

    def connections(self, app: str) -> int:
        """Open connections of an app on this machine."""
        return self._connections(self._index(app))[0]

    def close(self) -> None:
        """Gives the slot back."""
        self._clear(self._slot)
        self._words.release()
        self._map.close()
        os.close(self._fd)
        os.close(self._slot_fd)

    def _refused(self, mine: int, everyone: int, limit: int | None) -> bool:
        if limit is not None and mine >= limit:
            return True
        if mine < FEW_CONNECTIONS:
            return everyone >= self._max_connections
        return everyone >= self._max_connections - self._max_connections // RESERVE_PART

    # --- the map ------------------------------------------------------------------------------------------------

    @staticmethod
    def _record(slot: int, index: int) -> int:
        return _REGIONS + slot * _REGION + index * _RECORD

    def _connections(self, index: int) -> tuple[int, int]:
        """The app's and everybody's."""
        mine = sum(self._words[self._record(0, index) + _OPEN : _USED : _REGION])
        return mine, sum(self._words[_TOTALS : _TOTALS + SLOTS])

    def _records_of(self, index: int) -> range:
        """Where the app's records of all workers are."""
        first = self._record(0, index)
        return range(first, first + self._words[_USED] * _REGION, _REGION)

    def _history(self, index: int, second: int) -> list[int]:
        """Requests of an app in each second of the window, the oldest first."""
        counts = [0] * (WINDOW_S + 1)
        oldest = second - WINDOW_S
        for at in self._records_of(index):
            last = self._words[at + _LAST]
            # Counts from the future were made before the clock was set back: they would never grow old.
            if oldest <= last <= second + WINDOW_S:
                ring = self._words[at + _COUNTS : at + _COUNTS + _RING].tolist()
                for n in range(oldest, min(last, second) + 1):
                    counts[n - oldest] += ring[n % _RING]
        return counts

    def _window(self, index: int, now_s: float) -> int:
        """Requests of an app in the last minute. Seconds before the last one do not change any more: their sum is
        made once a second."""
        second = int(now_s)
        known = self._sums.get(index)
        if known is None or known[0] != second:
            history = self._history(index, second)
            known = self._sums[index] = second, history[0], sum(history[1:-2])
        _, oldest, total = known
        total += int(oldest * (1 - (now_s - second)))
        words = self._words
        for at in self._records_of(index):
            last = words[at + _LAST]
            if second - 1 <= last <= second + WINDOW_S:
                total += words[at + _COUNTS + (second - 1) % _RING]
                if last >= second:
                    total += words[at + _COUNTS + second % _RING]
        return total

    def _count(self, index: int, second: int) -> None:
        at = self._record(self._slot, index)
        words = self._words
        last = words[at + _LAST]
        if last > second + WINDOW_S:
            last = 0
        for skipped in range(max(last + 1, second - _RING + 1), second + 1):
            words[at + _COUNTS + skipped % _RING] = 0
        # A clock that was set back counts on in the second it had reached.
        now = words[at + _LAST] = max(second, last)
        words[at + _COUNTS + now % _RING] += 1

    def _retry_after_s(self, index: int, limit: int, now_s: float) -> int:
        history = self._history(index, int(now_s))
        inside = 1 - (now_s - int(now_s))
        for wait_s in range(1, WINDOW_S):
            if sum(history[wait_s + 1 :]) + int(history[wait_s] * inside) < limit:
                return wait_s
        return WINDOW_S

    def _index(self, app: str) -> int:
        index, name = self._places.get(app, (0, 0))
        if not name or self._words[index] != name:
            index, name = self._places[app] = self._register(app)
        return index

    def _register(self, app: str) -> tuple[int, int]:
        """The app's place in the shared directory, and its name there. Names are hashed; two that share a place share
        their limits, which is the safe side, and needs 2^64 names."""
        name = int.from_bytes(hashlib.sha256(app.encode()).digest()[:_WORD]) | 1
        with self._directory_lock():
            names = self._words[:APPS].tolist()
            place = next((names.index(wanted) for wanted in (name, 0) if wanted in names), None)
            if place is None:
                place = self._unused()
            self._words[place] = name
        return place, name

    def _unused(self) -> int:
        """A place that may be given away. Denied: overloaded when every app that has one needs it."""
        self._sweep()
        oldest_s = int(self._clock()) - WINDOW_S - 1
        for place in range(APPS):
            first = self._record(0, place)
            if any(self._words[first + _OPEN : _USED : _REGION].tolist()):
                continue
            if not any(
                oldest_s <= last <= oldest_s + 2 * WINDOW_S + 1 for last in self._words[first + _LAST : _USED : _REGION]
            ):
                return place
        raise Denied(
            "overloaded", f"{APPS} other apps have connections or requests of the last minute", retry_after_s=60
        )

    @contextlib.contextmanager
    def _directory_lock(self) -> Iterator[None]:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    # --- slots --------------------------------------------------------------------------------------------------

    def _claim(self) -> tuple[int, int]:
        for slot in range(SLOTS):
            fd = self._try_lock(slot)
            if fd is not None:
                return slot, fd
        raise OSError(f"more than {SLOTS} workers share {self._locks_dir}")

    def _widen(self) -> None:
        """Locks stay behind, so they tell of workers of a version that did not count the slots."""
        with self._directory_lock():
            ever = max(int(path.name) for path in self._locks_dir.iterdir()) + 1
            self._words[_USED] = max(self._words[_USED], ever)

    def _try_lock(self, slot: int) -> int | None:
        fd = os.open(self._lock_path(slot), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def _lock_path(self, slot: int) -> Path:
        return self._locks_dir / str(slot)

    def _sweep(self) -> None:
        """Clears the connections of slots that nobody holds."""
        for slot in range(SLOTS):
            if slot != self._slot and self._words[_TOTALS + slot]:
                fd = self._try_lock(slot)
                if fd is not None:
                    self._clear(slot)
                    os.close(fd)

    def _clear(self, slot: int) -> None:
        """Open connections only: requests of the last minute were made, whoever made them."""
        self._words[_TOTALS + slot] = 0
        for index in range(APPS):
            at = self._record(slot, index) + _OPEN
            if self._words[at]:
                self._words[at] = 0
