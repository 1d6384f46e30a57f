"""A head that a client sends again is read once; what is kept for that is small."""

from types import SimpleNamespace
from typing import Any

from proxy.dataplane.heads import REMEMBERED_BYTES, Heads
from proxy.dataplane.lane_connection import Connection
from tests.dataplane.test_heads import head


def _connection(heads: Heads) -> Connection:
    channel: Any = SimpleNamespace(info=lambda _name: ("10.0.0.9", 5))
    server: Any = SimpleNamespace(heads=heads)
    return Connection(server, channel, "explicit")


def test_a_connection_keeps_its_last_head_when_others_are_forgotten() -> None:
    heads = Heads()
    connection = _connection(heads)
    first = connection._parsed(head("/a"))
    heads.forget()
    assert connection._parsed(head("/a")) is first
    assert connection._parsed(head("/b")).target == "/b"
    assert connection._parsed(head("/a")) is not first


def test_connections_share_what_they_read() -> None:
    heads = Heads()
    assert _connection(heads)._parsed(head("/a")) is _connection(heads)._parsed(head("/a"))


def test_a_large_head_is_not_kept() -> None:
    connection = _connection(Heads())
    connection._parsed(head("/a"))
    connection._parsed(head("/a", REMEMBERED_BYTES))
    assert connection._last_head is None
