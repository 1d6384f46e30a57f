"""Budget arithmetic: periods in the budget's time zone, sizes of leased slices, and when to come back. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

# Every zone's offset has been a multiple of 15 minutes for decades, so a period never changes inside such a step.
_STEP_S: Final = 900
# One lease holds at most this part of what is left, so that idle workers cannot starve a busy one...
SLICE_PART: Final = 16
# ...and at most this many requests' worth, so that a crash strands little.
SLICE_REQUESTS: Final = 1024
# What a caller is told when the money is only held by requests in flight: they settle within seconds.
HELD_RETRY_S: Final = 5


@dataclass(frozen=True, slots=True)
class Periods:
    """The day (`2026-11-24`) and month (`2026-11`) that an instant belongs to, and when each ends (Unix seconds)."""

    day: str
    month: str
    day_ends_s: float
    month_ends_s: float


def periods(now_s: float, time_zone: str) -> Periods:
    """Raises zoneinfo.ZoneInfoNotFoundError for a zone that does not exist (a loaded policy has none)."""
    return _periods(int(now_s) // _STEP_S, time_zone)


@lru_cache(maxsize=1024)
def _periods(step: int, time_zone: str) -> Periods:
    zone = ZoneInfo(time_zone)
    local = datetime.fromtimestamp(step * _STEP_S, UTC).astimezone(zone)
    midnight = datetime(local.year, local.month, local.day, tzinfo=zone)
    # Calendar arithmetic on wall time: a day across a clock change has 23 or 25 hours and still ends at midnight.
    tomorrow = midnight + timedelta(days=1)
    first = midnight.replace(day=1)
    next_month = (first + timedelta(days=32)).replace(day=1)
    return Periods(f"{local:%Y-%m-%d}", f"{local:%Y-%m}", tomorrow.timestamp(), next_month.timestamp())


def slice_usd_nanos(need: int, left: int | None) -> int:
    """How much to ask for when `need` is missing and `left` was left at the last grant (None: not known yet).

    Between `need` and SLICE_REQUESTS times that; shrinks to `need` itself near the limit and when nothing is known.
    """
    if left is None:
        return need
    return max(need, min(need * SLICE_REQUESTS, left // SLICE_PART))


def is_tight(need: int, left: int | None) -> bool:
    """True when what is left asks for single requests: money that is not in use should go back at once."""
    return left is not None and left // SLICE_PART < need


def least_left(*lefts: int | None) -> int | None:
    """The tighter of several limits; None when there is no limit at all."""
    known = [left for left in lefts if left is not None]
    return min(known) if known else None


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a budget does not cover a request. `period` is `daily` or `monthly`; `held`: requests in flight hold the
    rest, so that it may come back soon."""

    period: str
    limit_usd_nanos: int
    spent_usd_nanos: int
    held: bool
    retry_after_s: int


def shortage(
    need: int,
    *,
    day_limit: int | None,
    month_limit: int | None,
    day_spent: int,
    month_spent: int,
    at: Periods,
    now_s: float,
) -> Shortage:
    """The limit that stands in the way longest. Neither does by spend alone: the rest is held by leases."""
    for name, limit, spent, ends_s in (
        ("monthly", month_limit, month_spent, at.month_ends_s),
        ("daily", day_limit, day_spent, at.day_ends_s),
    ):
        if limit is not None and spent + need > limit:
            return Shortage(name, limit, spent, False, max(1, int(ends_s - now_s) + 1))
    if day_limit is not None:
        return Shortage("daily", day_limit, day_spent, True, HELD_RETRY_S)
    return Shortage("monthly", month_limit or 0, month_spent, True, HELD_RETRY_S)


def usd(nanos: int) -> str:
    """Dollars for people, exact: `0.0000015`, `20.00`."""
    whole, part = divmod(abs(nanos), 1_000_000_000)
    digits = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanos < 0 else ''}{whole}.{digits}"
