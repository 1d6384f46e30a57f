"""Budget arithmetic against tables and against the calendar."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.budget import (
    HELD_RETRY_S,
    SLICE_REQUESTS,
    Shortage,
    is_tight,
    least_left,
    periods,
    shortage,
    slice_usd_nanos,
    usd,
)

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati", "Australia/Lord_Howe")


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("when", "zone", "day", "month", "day_ends", "month_ends"),
    [
        ("2026-11-24T00:00:00Z", "UTC", "2026-11-24", "2026-11", "2026-11-25T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("2026-11-24T23:59:59.9Z", "UTC", "2026-11-24", "2026-11", "2026-11-25T00:00:00Z", "2026-12-01T00:00:00Z"),
        (
            "2026-12-31T23:30:00Z",
            "Europe/Berlin",
            "2027-01-01",
            "2027-01",
            "2027-01-01T23:00:00Z",
            "2027-01-31T23:00:00Z",
        ),
        (
            "2026-10-25T12:00:00Z",
            "Europe/Berlin",
            "2026-10-25",
            "2026-10",
            "2026-10-25T23:00:00Z",
            "2026-10-31T23:00:00Z",
        ),
        (
            "2026-03-29T00:30:00Z",
            "Europe/Berlin",
            "2026-03-29",
            "2026-03",
            "2026-03-29T22:00:00Z",
            "2026-03-31T22:00:00Z",
        ),
        (
            "2026-11-24T18:29:59Z",
            "Asia/Kolkata",
            "2026-11-24",
            "2026-11",
            "2026-11-24T18:30:00Z",
            "2026-11-30T18:30:00Z",
        ),
        (
            "2026-11-24T18:30:00Z",
            "Asia/Kolkata",
            "2026-11-25",
            "2026-11",
            "2026-11-25T18:30:00Z",
            "2026-11-30T18:30:00Z",
        ),
        ("2028-02-29T12:00:00Z", "UTC", "2028-02-29", "2028-02", "2028-03-01T00:00:00Z", "2028-03-01T00:00:00Z"),
    ],
)
def test_periods(when: str, zone: str, day: str, month: str, day_ends: str, month_ends: str) -> None:
    found = periods(at(when), zone)
    assert (found.day, found.month) == (day, month)
    assert (found.day_ends_s, found.month_ends_s) == (at(day_ends), at(month_ends))


@given(st.floats(1.6e9, 2.2e9), st.sampled_from(ZONES))
def test_periods_agree_with_the_calendar(now_s: float, zone: str) -> None:
    local = datetime.fromtimestamp(now_s, UTC).astimezone(ZoneInfo(zone))
    found = periods(now_s, zone)
    assert found.day == local.date().isoformat()
    assert found.month == found.day[:7]
    assert now_s < found.day_ends_s <= found.month_ends_s
    assert periods(found.day_ends_s, zone).day > found.day
    assert periods(found.day_ends_s - 1, zone).day == found.day
    assert periods(found.month_ends_s, zone).month > found.month
    assert periods(found.month_ends_s - 1, zone).month == found.month


@given(st.integers(1, 10**12), st.none() | st.integers(-(10**12), 10**15))
def test_slices_are_bounded_and_shrink_to_single_requests(need: int, left: int | None) -> None:
    want = slice_usd_nanos(need, left)
    assert need <= want <= need * SLICE_REQUESTS
    if left is None or is_tight(need, left):
        assert want == need
    else:
        assert want <= left


def test_least_left() -> None:
    assert least_left(None, None) is None
    assert least_left(5, None) == 5
    assert least_left(5, -1) == -1


@pytest.mark.parametrize(
    ("need", "day", "month", "spent", "expected"),
    [
        (10, 100, None, (91, 91), Shortage("daily", 100, 91, False, 43201)),
        (10, 100, None, (90, 90), Shortage("daily", 100, 90, True, HELD_RETRY_S)),
        (10, None, 100, (0, 95), Shortage("monthly", 100, 95, False, 6 * 86400 + 43201)),
        (10, None, 100, (0, 50), Shortage("monthly", 100, 50, True, HELD_RETRY_S)),
        (10, 100, 100, (95, 95), Shortage("monthly", 100, 95, False, 6 * 86400 + 43201)),
        (10, 100, 200, (95, 95), Shortage("daily", 100, 95, False, 43201)),
    ],
)
def test_shortage_names_the_limit_that_lasts_longest(
    need: int, day: int | None, month: int | None, spent: tuple[int, int], expected: Shortage
) -> None:
    now_s = at("2026-11-24T12:00:00Z")
    found = shortage(
        need,
        day_limit=day,
        month_limit=month,
        day_spent=spent[0],
        month_spent=spent[1],
        at=periods(now_s, "UTC"),
        now_s=now_s,
    )
    assert found == expected


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0.00"), (1, "0.000000001"), (20 * 10**9, "20.00"), (1_500_000, "0.0015"), (-1_200_000_000, "-1.20")],
)
def test_usd_is_exact(nanos: int, text: str) -> None:
    assert usd(nanos) == text
