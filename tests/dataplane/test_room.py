"""Who makes way when a worker is full."""

from typing import Any

import pytest

from proxy.dataplane import room as module
from proxy.dataplane.dns_server import QUERIES_BURST, QueryRate
from proxy.dataplane.room import Room, connections_for


class Channel:
    """As much of a connection as the room sees."""

    def __init__(self) -> None:
        self.cut = False

    def abort(self) -> None:
        self.cut = True


def channels(count: int) -> list[Any]:
    return [Channel() for _ in range(count)]


def test_the_oldest_without_a_name_goes_first() -> None:
    room, (first, second, third, late) = Room(3), channels(4)
    assert all(room.enter(channel) for channel in (first, second, third))
    room.named(first)
    assert room.enter(late)
    assert [channel.cut for channel in (first, second, third, late)] == [False, True, False, False]


def test_then_the_one_that_has_been_idle_longest() -> None:
    room, (first, second, late) = Room(2), channels(3)
    for channel in (first, second):
        room.enter(channel)
        room.named(channel)
    room.waiting(second, idle=True)
    room.waiting(first, idle=True)
    room.waiting(second, idle=False)
    assert room.enter(late)
    assert (first.cut, second.cut) == (True, False)


def test_nobody_who_works_is_cut() -> None:
    room, (first, late, later) = Room(1), channels(3)
    room.enter(first)
    room.named(first)
    assert not room.enter(late)
    assert not first.cut
    room.leave(first)
    assert room.enter(later)


def test_connections_without_a_name_have_a_bound_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNNAMED", 2)
    room, made = Room(100), channels(3)
    assert all(room.enter(channel) for channel in made)
    assert [channel.cut for channel in made] == [True, False, False]


@pytest.mark.parametrize(
    ("limit", "used", "expected"), [(64, 20, 16), (1024, 30, 491), (64, 60, 4), (1 << 20, 30, 16_000)]
)
def test_descriptors_decide(limit: int, used: int, expected: int) -> None:
    assert connections_for(limit, used) == expected


def test_a_client_that_asks_without_end_is_slowed_down_alone() -> None:
    now_s = [0.0]
    rate = QueryRate(lambda: now_s[0])
    assert sum(rate.admit("10.0.0.1") for _ in range(QUERIES_BURST + 50)) == QUERIES_BURST
    assert rate.admit("10.0.0.2")
    now_s[0] += 1
    assert sum(rate.admit("10.0.0.1") for _ in range(200)) == 50
