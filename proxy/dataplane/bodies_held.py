"""The worker's budget for request bodies held in memory while they are inspected."""

from proxy.errors import Denied

MAX_HELD_BYTES = 128 << 20


class BodiesHeld:
    """Counts bytes held; past the budget a request is told `overloaded` instead of the worker running out of memory."""

    def __init__(self, max_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_bytes = max_bytes
        self.held_bytes = 0

    def hold(self, size: int) -> None:
        """Takes `size` bytes of the budget. Denied overloaded."""
        if self.held_bytes + size > self._max_bytes:
            raise Denied("overloaded", "The proxy holds as many request bodies as it may")
        self.held_bytes += size

    def release(self, size: int) -> None:
        """Gives `size` bytes back."""
        self.held_bytes -= size
