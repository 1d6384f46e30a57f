"""Sealed orders: the newest genuine one counts, whatever a writer to the store puts in its place."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stores.orders import AHEAD_S, Order, Sealer, lifts, stopped

SEED, OLD = b"s" * 32, b"o" * 32
NOW_S = 10.0
SEALER = Sealer(SEED)
FACTS = {"reason": "incident", "by": "alice", "time_s": 1.5}
KILL = SEALER.sealed("a", FACTS, after=None, now_s=1.0)
LIFT = SEALER.sealed("a", None, after=KILL, now_s=2.0)
AGAIN = SEALER.sealed("a", FACTS, after=LIFT, now_s=3.0)
FORGED = {"lifted": True, "number": 10**15, "mac": "0" * 64}
UNSEALED = {"reason": "by hand"}
OF_ANOTHER = SEALER.sealed("b", None, after=None, now_s=9.0)


def test_an_order_says_what_it_was_given_and_is_newer_than_the_last() -> None:
    assert {name: KILL[name] for name in FACTS} == FACTS
    assert lifts(LIFT)
    assert not lifts(KILL)
    # Also on a clock that was set back.
    late = SEALER.sealed("a", None, after=AGAIN, now_s=0.0)
    assert late["number"] == AGAIN["number"] + 1
    assert SEALER.merged({"a": AGAIN}, {"a": late}, NOW_S) == {"a": late}


@pytest.mark.parametrize(
    ("known", "told", "holds"),
    [
        (None, KILL, KILL),
        (KILL, LIFT, LIFT),
        (LIFT, KILL, LIFT),
        (KILL, None, KILL),
        (LIFT, None, LIFT),
        (AGAIN, LIFT, AGAIN),
        (AGAIN, KILL, AGAIN),
        (LIFT, AGAIN, AGAIN),
        (KILL, FORGED, KILL),
        (KILL, OF_ANOTHER, KILL),
        (KILL, {**LIFT, "number": LIFT["number"] + 1}, KILL),
        (KILL, {**LIFT, "by": "mallory"}, KILL),
        (KILL, {**KILL, "lifted": True}, KILL),
        (None, FORGED, None),
        # Anybody may stop an app.
        (None, UNSEALED, UNSEALED),
        (LIFT, UNSEALED, UNSEALED),
        (KILL, UNSEALED, KILL),
        # What has no seal is there for as long as the store says so.
        (UNSEALED, None, None),
        (UNSEALED, LIFT, LIFT),
        (FORGED, None, None),
    ],
)
def test_which_order_holds(known: Order | None, told: Order | None, holds: Order | None) -> None:
    def orders(order: Order | None) -> dict[str, Order]:
        return {} if order is None else {"a": order}

    assert SEALER.merged(orders(known), orders(told), NOW_S) == orders(holds)


def test_of_two_orders_with_one_number_the_stop_holds() -> None:
    kill = SEALER.sealed("a", FACTS, after=None, now_s=5.0)
    lift = SEALER.sealed("a", None, after=None, now_s=5.0)
    assert kill["number"] == lift["number"]
    for known, told in ((kill, lift), (lift, kill)):
        assert SEALER.merged({"a": known}, {"a": told}, NOW_S) == {"a": kill}


def test_a_secret_that_was_rotated_out_still_counts() -> None:
    kill = Sealer(OLD).sealed("a", FACTS, after=None, now_s=1.0)
    assert not SEALER.genuine("a", kill)
    both = Sealer(SEED, [OLD])
    assert both.genuine("a", kill)
    lift = both.sealed("a", None, after=kill, now_s=2.0)
    assert SEALER.genuine("a", lift)


FAST_S = NOW_S + AHEAD_S + 1
FAST_KILL = SEALER.sealed("a", FACTS, after=None, now_s=FAST_S)
FAST_LIFT = SEALER.sealed("a", None, after=None, now_s=FAST_S)
OVER_FAST_LIFT = SEALER.sealed("a", FACTS, after=FAST_LIFT, now_s=NOW_S)


@pytest.mark.parametrize(
    ("known", "told", "holds"),
    [
        # A lift from the future would outrank every stop until then.
        (KILL, FAST_LIFT, KILL),
        (FAST_LIFT, KILL, KILL),
        (None, FAST_LIFT, None),
        (FAST_LIFT, None, None),
        # A stop from there holds, also against who takes it out of the store, until the next lift.
        (None, FAST_KILL, FAST_KILL),
        (LIFT, FAST_KILL, FAST_KILL),
        (FAST_KILL, None, FAST_KILL),
        (FAST_KILL, UNSEALED, FAST_KILL),
        (FAST_KILL, KILL, FAST_KILL),
        (FAST_KILL, OVER_FAST_LIFT, OVER_FAST_LIFT),
        (FAST_KILL, LIFT, LIFT),
    ],
)
def test_orders_from_a_clock_that_is_fast(known: Order | None, told: Order | None, holds: Order | None) -> None:
    test_which_order_holds(known, told, holds)


def test_a_stop_is_numbered_above_a_lift_from_the_future_and_a_lift_is_not() -> None:
    """On the machine with the fast clock its own lift holds; the stop has to hold there too."""
    assert SEALER.merged({"a": FAST_LIFT}, {"a": OVER_FAST_LIFT}, FAST_S) == {"a": OVER_FAST_LIFT}
    assert SEALER.sealed("a", None, after=FAST_KILL, now_s=NOW_S)["number"] == NOW_S * 1000


def test_no_number_is_taken_from_what_has_no_seal() -> None:
    for poison in ({"reason": "x", "number": 10**18}, {**KILL, "number": 10**18}):
        assert SEALER.sealed("a", None, after=poison, now_s=NOW_S)["number"] == NOW_S * 1000
        assert SEALER.last("a", poison, None, KILL, LIFT) == LIFT


@pytest.mark.parametrize("odd", [{"mac": "\ud800"}, {"mac": "é" * 64}, {"mac": "0" * 64, "n": 10**5000}])
def test_an_order_that_cannot_be_sealed_is_not_genuine_and_stops(odd: Order) -> None:
    assert not SEALER.genuine("a", odd)
    assert SEALER.merged({"a": LIFT}, {"a": odd}, NOW_S) == {"a": odd}


ODD: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just("0" * 64))


@given(st.dictionaries(st.sampled_from(["lifted", "number", "mac", "reason"]), ODD))
def test_nothing_that_was_made_up_lifts_a_stop(told: Mapping[str, Any]) -> None:
    assert "a" in stopped(SEALER.merged({"a": KILL}, {"a": told}, NOW_S))
