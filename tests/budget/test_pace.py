"""How much a worker holds for an app: enough for the next half minute, and never more than a part of what is left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.budget import SLICE_PART
from proxy.pace import (
    AHEAD_S,
    BURST,
    STANDBY_PART,
    WINDOW_S,
    Pace,
    runs_low,
    standby_usd_nanos,
    target_usd_nanos,
)

AMPLE = 10**18


def steady(spent: int, peak: int, *, every_s: float, for_s: float) -> Pace:
    pace = Pace()
    for n in range(round(for_s / every_s) + 1):
        pace.note(spent, peak, n * every_s)
    return pace


@pytest.mark.parametrize("for_s", [6.0, 14.0, 16.0, 31.0, 100.0])
@pytest.mark.parametrize("every_s", [0.25, 1.0, 3.0])
def test_a_steady_spend_is_known_after_some_seconds(for_s: float, every_s: float) -> None:
    pace = steady(round(1000 * every_s), 50, every_s=every_s, for_s=for_s)
    # The window's first note counts too, so that a rate is rather over than under.
    assert 1000 <= pace.per_s <= 1000 * (1 + 1.01 * every_s / min(for_s, 5.0))
    assert target_usd_nanos(pace, AMPLE) >= 50 + 1000 * AHEAD_S


def test_one_dear_call_is_no_rate() -> None:
    pace = Pace()
    pace.note(1000, 1000, 0.0)
    assert pace.per_s == 200
    assert target_usd_nanos(pace, AMPLE) == 1000 + 200 * AHEAD_S


def test_what_was_in_flight_at_once_may_be_in_flight_again() -> None:
    pace = Pace()
    pace.note(0, 700, 0.0)
    assert target_usd_nanos(pace, AMPLE) == BURST * 700


def test_a_pause_neither_slows_nor_forgets() -> None:
    pace = steady(1000, 50, every_s=1.0, for_s=20)
    before = pace.per_s, pace.peak
    pace.note(0, 0, 110.0)
    assert (pace.per_s, pace.peak) == before


def test_after_a_pause_only_the_new_pace_counts() -> None:
    pace = steady(1000, 900, every_s=1.0, for_s=20)
    assert pace.settled
    pace.note(10, 10, 200.0)
    assert (pace.peak, pace.per_s, pace.settled) == (10, 2, False)


def test_a_clock_that_was_set_back_starts_anew() -> None:
    pace = steady(1000, 900, every_s=1.0, for_s=20)
    pace.note(10, 10, -500.0)
    assert (pace.peak, pace.per_s, pace.settled) == (10, 2, False)


def test_it_is_settled_after_a_whole_window() -> None:
    assert not steady(1, 1, every_s=1.0, for_s=WINDOW_S - 1).settled
    assert steady(1, 1, every_s=1.0, for_s=WINDOW_S).settled


def test_an_inherited_pace_is_the_one_that_was_measured() -> None:
    pace = Pace.inherited(700, 300, 1000.0)
    assert (pace.peak, pace.per_s) == (700, 300)
    pace.note(300, 100, 1001.0)
    assert (pace.peak, pace.per_s) == (700, 300)


def test_nothing_is_held_while_nothing_is_known() -> None:
    assert target_usd_nanos(Pace(), AMPLE) == standby_usd_nanos(Pace(), AMPLE) == 0
    busy = steady(1000, 50, every_s=1.0, for_s=20)
    assert target_usd_nanos(busy, None) == standby_usd_nanos(busy, None) == 0


@given(
    peak=st.integers(0, 10**12),
    per_s=st.integers(0, 10**12),
    left=st.none() | st.integers(-(10**15), 10**15),
)
def test_small_budgets_are_not_swallowed(peak: int, per_s: int, left: int | None) -> None:
    pace = Pace.inherited(peak, per_s, 0.0)
    target, standby = target_usd_nanos(pace, left), standby_usd_nanos(pace, left)
    assert 0 <= target <= max(0, left or 0) / SLICE_PART
    assert 0 <= standby <= max(0, left or 0) / STANDBY_PART
    assert standby <= max(target, 0)


@pytest.mark.parametrize(
    ("held", "target", "low"), [(0, 0, False), (0, 1, True), (74, 100, True), (75, 100, False), (500, 100, False)]
)
def test_when_to_ask(held: int, target: int, low: bool) -> None:
    assert runs_low(held, target) is low
