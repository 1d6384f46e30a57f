"""A head that a client sends again is read once; what is kept for that is small."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.dataplane.lane_connection import REMEMBERED_HEAD_BYTES, Connection
from proxy.errors import Denied


def _connection() -> Connection:
    channel: Any = SimpleNamespace(info=lambda _name: ("10.0.0.9", 5))
    return Connection(cast("Any", None), channel, "explicit")


def _head(path: str, padding: int = 0) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a.test\r\nX-Pad: {'p' * padding}\r\n\r\n".encode()


def test_the_same_bytes_are_read_once_and_others_anew() -> None:
    connection = _connection()
    first = connection._parsed(_head("/a"))
    assert connection._parsed(_head("/a")) is first
    other = connection._parsed(_head("/b"))
    assert other.target == "/b"
    assert connection._parsed(_head("/a")) is not first


def test_a_large_head_is_not_kept() -> None:
    connection = _connection()
    connection._parsed(_head("/a", REMEMBERED_HEAD_BYTES))
    assert connection._last_head is None


def test_a_head_that_is_refused_is_refused_again() -> None:
    connection = _connection()
    connection._parsed(_head("/a"))
    for _ in range(2):
        with pytest.raises(Denied):
            connection._parsed(b"GET /a HTTP/1.1\r\nHost : a.test\r\n\r\n")
