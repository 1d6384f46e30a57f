"""How many client connections one worker can carry, and who makes way when it is full.

A proxied request needs two descriptors. Whoever has not named its app yet, and then whoever waits between requests,
is cut before a newcomer is turned away: a flood of silent connections must not shut the door.
"""

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.dataplane.channel import Channel

MAX_UNNAMED: Final = 1024
# Stores, audit segments, inspectors and DNS open more while the worker runs.
SPARE_DESCRIPTORS: Final = 12
_PER_CONNECTION: Final = 2
_MOST: Final = 16_000
_FEWEST: Final = 4


def connections_for(limit: int, used: int) -> int:
    """Client connections that fit into `limit` descriptors, of which `used` are taken."""
    return max(_FEWEST, min(_MOST, (limit - used - SPARE_DESCRIPTORS) // _PER_CONNECTION))


def connections_here() -> int:
    """As `connections_for`, for this process now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _MOST * _PER_CONNECTION * 2 if soft == resource.RLIM_INFINITY else soft
    try:
        used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        used = int(os.sysconf("SC_OPEN_MAX") > 0) * 32
    return connections_for(limit, used)


class Room:
    """The connections of one worker: all, those without a name, and those between requests."""

    def __init__(self, most: int | None = None) -> None:
        self.most = connections_here() if most is None else most
        self._unnamed: dict[Channel, None] = {}
        self._idle: dict[Channel, None] = {}
        self._open: set[Channel] = set()

    def enter(self, channel: "Channel") -> bool:
        """A new connection, which has no name yet. False when nobody can make way for it."""
        if len(self._unnamed) >= MAX_UNNAMED:
            self._cut(self._unnamed)
        elif len(self._open) >= self.most and not self._cut(self._unnamed or self._idle):
            return False
        self._open.add(channel)
        self._unnamed[channel] = None
        return True

    def named(self, channel: "Channel") -> None:
        """Its app is known."""
        self._unnamed.pop(channel, None)

    def waiting(self, channel: "Channel", *, idle: bool) -> None:
        """It waits for its next request, or no longer does; a drain may end those that wait."""
        if idle:
            self._idle[channel] = None
        else:
            self._idle.pop(channel, None)

    def leave(self, channel: "Channel") -> None:
        """It is gone."""
        self._open.discard(channel)
        self._unnamed.pop(channel, None)
        self._idle.pop(channel, None)

    def idle(self) -> "tuple[Channel, ...]":
        """Those between requests."""
        return tuple(self._idle)

    def _cut(self, candidates: "dict[Channel, None]") -> bool:
        """Ends the one that has waited longest."""
        victim = next(iter(candidates), None)
        if victim is None:
            return False
        self.leave(victim)
        victim.abort()
        return True
