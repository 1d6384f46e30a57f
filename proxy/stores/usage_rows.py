"""What a usage row is made of: the dimensions that identify it and the counters that add up. Pure."""

import json
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Any, Final

DIMENSIONS: Final = ("day", "app", "owner", "cost_center", "provider", "model")
COUNTERS: Final = (
    "requests",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_tokens",
    "cost_usd_nanos",
    "saved_usd_nanos",
    "cache_hits",
    "estimated",
    "unpriced",
)
LONGEST_REPORT_DAYS: Final = 3700


def dimensions(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple([str(row.get(name, "")) for name in DIMENSIONS])


def counters(row: Mapping[str, Any]) -> dict[str, int]:
    """The counters of a row that are not zero. Integers only: money is never a float."""
    return {name: int(row[name]) for name in COUNTERS if row.get(name)}


def field_name(row: Mapping[str, Any]) -> str:
    """The dimensions below the day, as one unambiguous text."""
    return json.dumps(dimensions(row)[1:], separators=(",", ":"), ensure_ascii=False)


def row_from(day: str, name: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """The inverse of `field_name`. Raises ValueError on nonsense."""
    parts = json.loads(name)
    if not isinstance(parts, list) or len(parts) != len(DIMENSIONS) - 1:
        raise ValueError("not a usage field")
    labels = dict(zip(DIMENSIONS, (day, *map(str, parts)), strict=True))
    return labels | {counter: counts.get(counter, 0) for counter in COUNTERS}


def days(since: str, until: str) -> Iterable[str]:
    """Each day from `since` to `until`, both included (ISO dates). Raises ValueError on a bad or endless range."""
    first, last = date.fromisoformat(since), date.fromisoformat(until)
    if (last - first).days > LONGEST_REPORT_DAYS:
        raise ValueError(f"a usage report covers at most {LONGEST_REPORT_DAYS} days")
    return [(first + timedelta(n)).isoformat() for n in range((last - first).days + 1)]
