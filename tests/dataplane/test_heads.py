"""Heads that come again on other connections are read once, for a moment, and only small ones."""

import pytest

from proxy.dataplane.heads import MAX_HEADS, REMEMBERED_BYTES, Heads
from proxy.errors import Denied


def head(path: str, padding: int = 0) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a.test\r\nX-Pad: {'p' * padding}\r\n\r\n".encode()


def test_the_same_bytes_are_read_once_and_others_anew() -> None:
    heads = Heads()
    first = heads.read(head("/a"))
    assert heads.read(head("/a")) is first
    assert heads.read(head("/b")).raw.target == "/b"


def test_a_sweep_forgets_them() -> None:
    heads = Heads()
    first = heads.read(head("/a"))
    heads.forget()
    assert heads.read(head("/a")) is not first


def test_large_heads_and_too_many_are_not_kept() -> None:
    heads = Heads()
    large = heads.read(head("/a", REMEMBERED_BYTES))
    assert not large.small
    assert heads.read(head("/a", REMEMBERED_BYTES)) is not large
    kept = [heads.read(head(f"/{number}")) for number in range(MAX_HEADS + 1)]
    assert heads.read(head("/0")) is kept[0]
    assert heads.read(head(f"/{MAX_HEADS}")) is not kept[MAX_HEADS]


def test_a_head_that_is_refused_is_refused_again() -> None:
    heads = Heads()
    for _ in range(2):
        with pytest.raises(Denied):
            heads.read(b"GET /a HTTP/1.1\r\nHost : a.test\r\n\r\n")
