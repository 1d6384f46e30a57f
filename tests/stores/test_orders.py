"""Sealed orders: the newest genuine one counts, whatever a writer to the store puts in its place."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stores.orders import Order, Sealer, lifts, stopped

SEED, OLD = b"s" * 32, b"o" * 32
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
    assert SEALER.merged({"a": AGAIN}, {"a": late}) == {"a": late}


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

    assert SEALER.merged(orders(known), orders(told)) == orders(holds)


def test_of_two_orders_with_one_number_the_stop_holds() -> None:
    kill = SEALER.sealed("a", FACTS, after=None, now_s=5.0)
    lift = SEALER.sealed("a", None, after=None, now_s=5.0)
    assert kill["number"] == lift["number"]
    for known, told in ((kill, lift), (lift, kill)):
        assert SEALER.merged({"a": known}, {"a": told}) == {"a": kill}


def test_a_secret_that_was_rotated_out_still_counts() -> None:
    kill = Sealer(OLD).sealed("a", FACTS, after=None, now_s=1.0)
    assert not SEALER.genuine("a", kill)
    both = Sealer(SEED, [OLD])
    assert both.genuine("a", kill)
    lift = both.sealed("a", None, after=kill, now_s=2.0)
    assert SEALER.genuine("a", lift)


ODD: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just("0" * 64))


@given(st.dictionaries(st.sampled_from(["lifted", "number", "mac", "reason"]), ODD))
def test_nothing_that_was_made_up_lifts_a_stop(told: Mapping[str, Any]) -> None:
    assert "a" in stopped(SEALER.merged({"a": KILL}, {"a": told}))
