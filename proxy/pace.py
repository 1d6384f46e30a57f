"""How much of a budget a worker should hold for an app: what its requests hold at once and what it spends in the next
half minute, as it did lately. Pure; money in nano-dollars, times in Unix seconds.

So a busy app outlives a store that is away, or restarts, for that long, and a quiet one holds little.
"""

from dataclasses import dataclass, field
from typing import Final

from proxy.budget import SLICE_PART

WINDOW_S: Final = 15.0
# What one or two calls of a new app cost says little of its rate.
_SHORTEST_S: Final = 5.0
# A store that is started anew, or fails over, is back by then.
AHEAD_S: Final = 30.0
# So many times what was in flight at once may be in flight next, before anybody had to ask the store.
BURST: Final = 4
# An idle worker keeps a few calls' worth, so that the next call need not ask; of all that is left, at most this part.
STANDBY_PART: Final = 64
STANDBY_S: Final = 120.0


@dataclass(slots=True)
class _Window:
    began_s: float
    ended_s: float
    spent: int = 0
    peak: int = 0


@dataclass(slots=True)
class Pace:
    """Two windows of an app's spend: the present one and, when it was busy then too, the one before."""

    _now: _Window | None = None
    _before: _Window | None = field(default=None)

    @classmethod
    def inherited(cls, peak: int, per_s: int, now_s: float) -> "Pace":
        """A pace that somebody else measured."""
        return cls(_Window(now_s - WINDOW_S, now_s, round(per_s * WINDOW_S), peak))

    @property
    def settled(self) -> bool:
        """Whether it has been watched long enough to call what it does not need a surplus."""
        return self._before is not None

    @property
    def peak(self) -> int:
        """The most that was reserved at once."""
        return max((window.peak for window in self._windows), default=0)

    @property
    def per_s(self) -> int:
        """Spend per second, up to the last activity: a pause does not slow it down."""
        windows = self._windows
        if not windows:
            return 0
        seconds = max(windows[-1].ended_s - windows[0].began_s, _SHORTEST_S)
        return round(sum(window.spent for window in windows) / seconds)

    def note(self, spent: int, peak: int, now_s: float) -> None:
        """Adds what was spent since the last note, and the most that was reserved at once."""
        if not (spent or peak):
            return
        window = self._now
        if window is None or not 0 <= now_s - window.began_s < WINDOW_S:
            follows = window is not None and 0 <= now_s - window.began_s < 2 * WINDOW_S
            self._before = window if follows else None
            window = self._now = _Window(now_s, now_s)
        window.spent += spent
        window.peak = max(window.peak, peak)
        window.ended_s = now_s

    @property
    def _windows(self) -> list[_Window]:
        return [window for window in (self._before, self._now) if window is not None]


def target_usd_nanos(pace: Pace, left: int | None) -> int:
    """What to hold in all, reserved or not, when `left` was left for everybody; 0 while that is not known."""
    wanted = max(BURST * pace.peak, pace.peak + round(pace.per_s * AHEAD_S))
    return max(0, min(wanted, (left or 0) // SLICE_PART))


def standby_usd_nanos(pace: Pace, left: int | None) -> int:
    """What to hold while the app is idle here."""
    return max(0, min(BURST * pace.peak, (left or 0) // STANDBY_PART))


def runs_low(held: int, target: int) -> bool:
    """Whether to ask for more: not at each call, and long before nothing is there."""
    return held * 4 < target * 3
