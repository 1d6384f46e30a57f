"""When the store was heard last: what bounds the life of a policy that nobody confirms any more."""

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_FILE: Final = "contact"
# The mark is as old as this at most: what a restart may give away of the limit.
MARK_EVERY_S: Final = 1.0


class Contact:
    """Of one process. The time of a file beside the last good revision carries it over restarts, so that starting again
    makes no policy younger; `clock` is the wall clock for that, all else is monotonic."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = directory / _FILE
        self._clock = clock
        self._heard_s = -math.inf
        self._marked_s = -math.inf

    def remember(self) -> None:
        """Takes over what an earlier process heard. A mark from the future is one of a clock that was set back: it
        proves nothing."""
        with contextlib.suppress(OSError):
            age_s = self._clock() - self._path.stat().st_mtime
            if age_s >= 0:
                self._heard_s = max(self._heard_s, time.monotonic() - age_s)

    def heard(self, *, mark: bool) -> None:
        """The store has just answered. `mark`: leave it for the next process. A full disk costs only the mark."""
        now_s = self._heard_s = time.monotonic()
        if mark and now_s - self._marked_s >= MARK_EVERY_S:
            self._marked_s = now_s
            with contextlib.suppress(OSError):
                self._path.touch(mode=0o600)
                at_s = self._clock()
                os.utime(self._path, (at_s, at_s))

    @property
    def silent_s(self) -> float:
        """Seconds since then; infinite when nobody knows."""
        return time.monotonic() - self._heard_s
