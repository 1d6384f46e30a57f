"""The worker's budget for bodies held in memory while they are inspected."""

from collections import Counter
from typing import Final

from proxy.errors import Denied

MAX_HELD_BYTES: Final = 128 << 20
# A body counts from its head on and may take long to come: one app must not hold all others' room with promises.
_SHARES: Final = 2


class BodiesHeld:
    """Counts bytes held; past the budget, or past half of it for one app, a request is told `overloaded` instead of the
    worker running out of memory."""

    def __init__(self, max_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_bytes = max_bytes
        self._of_app: Counter[str] = Counter()
        self.held_bytes = 0

    def hold(self, size: int, app: str) -> None:
        """Takes `size` bytes of the budget. Denied overloaded."""
        if self.held_bytes + size > self._max_bytes or self._of_app[app] + size > self._max_bytes // _SHARES:
            raise Denied("overloaded", "The proxy holds as many bodies as it may")
        self.held_bytes += size
        self._of_app[app] += size

    def release(self, size: int, app: str) -> None:
        """Gives `size` bytes back."""
        self.held_bytes -= size
        self._of_app[app] -= size
        if not self._of_app[app]:
            del self._of_app[app]
