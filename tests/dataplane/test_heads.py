"""Heads that come again on other connections are read once, for a moment, and only small ones."""

from dataclasses import replace

import pytest

from proxy.dataplane import h1
from proxy.dataplane.heads import MAX_HEADS, REMEMBERED_BYTES, Heads, ReadHead, start_of
from proxy.errors import Denied
from proxy.head_memo import HeadMemo
from proxy.model import Authority, RequestHead


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


def post(length: str, *, more: str = "", path: str = "/v1/x") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a.test\r\ncontent-Length:  {length} \r\nX-A: b\r\n{more}\r\n".encode()


def settled(data: bytes) -> ReadHead:
    authority = Authority("https", "a.test", 443)
    read = Heads().read(data)
    raw = read.raw
    read.settle(authority, h1.request_framing(raw), RequestHead(raw.method, raw.target, authority, raw.headers))
    return read


@pytest.mark.parametrize("length", ["7", "90", "123456"])
def test_a_head_with_another_length_means_what_a_whole_reading_of_it_means(length: str) -> None:
    first = settled(post("90"))
    again = first.again(post(length))
    whole = settled(post(length))
    assert again is not None
    assert again.raw == whole.raw
    assert again.request == whole.request
    assert again.memo is first.memo
    third = again.again(post("8"))
    assert third is not None
    assert third.request == settled(post("8")).request


@pytest.mark.parametrize(
    "data",
    [
        post("007"),
        post("+7"),
        post("7 7"),
        post(""),
        post("7", more="Content-Length: 7\r\n"),
        post("7\r\nTransfer-Encoding: chunked\r\nX-Y: 1"),
        post("7\r\n\r\nGET / HTTP/1.1"),
        post("9" * 17),
        post("7", path="/v1/y"),
        b"POST /v1/x HTTP/1.1\r\nHost: a.test\r\ncontent-Length:  \r\nX-A: b\r\n\r\n",
        post("90")[:-4],
        b"",
    ],
)
def test_any_other_difference_is_read_whole(data: bytes) -> None:
    assert settled(post("90")).again(data) is None


def test_a_head_without_a_length_has_no_other() -> None:
    first = settled(head("/a"))
    assert first.again(head("/a")) is None
    assert Heads().read(post("5")).again(post("6")) is None


def test_what_was_found_at_one_authority_is_not_used_at_another() -> None:
    first = settled(post("5"))
    found = first.memo
    first.settle(Authority("https", "a.test", 443), *first.request[1:])  # type: ignore[index]  # settled above
    assert first.memo is found
    first.settle(Authority("http", "a.test", 80), *first.request[1:])  # type: ignore[index]  # settled above
    assert first.memo is not found


def test_the_start_of_a_request_is_made_anew_for_other_fields_and_targets() -> None:
    memo = HeadMemo()
    authority = Authority("https", "a.test", 443)
    one = RequestHead("POST", "/x", authority, ((b"Host", b"a.test"),))
    assert start_of(one, memo) == b"POST /x HTTP/1.1\r\nHost: a.test\r\n"
    assert start_of(one, memo) is start_of(one, memo)
    assert start_of(replace(one, target="/y"), memo) == b"POST /y HTTP/1.1\r\nHost: a.test\r\n"
    assert start_of(replace(one, headers=((b"Host", b"a.test"), (b"A", b"b"))), memo).endswith(b"A: b\r\n")
    assert start_of(one, None) == start_of(one, memo)
