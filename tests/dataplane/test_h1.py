"""Strict HTTP/1.1: what passes, what is refused, and that no split of the bytes changes either."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dataplane import h1
from proxy.errors import Denied
from proxy.model import ResponseHead

GOOD = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\nX-A:  b c\t \r\n\r\n"


def parse(raw: bytes) -> tuple[h1.RawHead, h1.Framing]:
    end = h1.find_head_end(bytearray(raw))
    if end < 0:
        raise Denied("malformed", "no whole head")
    head = h1.parse_request_head(raw[:end])
    return head, h1.request_framing(head)


def test_good_head() -> None:
    head, framing = parse(GOOD)
    assert (head.method, head.target, head.version) == ("POST", "/v1/x?y=1", "1.1")
    assert head.headers == ((b"Host", b"a.test"), (b"Content-Length", b"2"), (b"X-A", b"b c"))
    assert framing == h1.Framing(2)
    assert head.keep_alive


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"GET /\r\n\r\n", "malformed"),
        (b"GET  / HTTP/1.1\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1 \r\n\r\n", "malformed"),
        (b"GET / HTTP/1.2\r\n\r\n", "malformed"),
        (b"GET / HTTP/2.0\r\n\r\n", "malformed"),
        (b"GET / http/1.1\r\n\r\n", "malformed"),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", "malformed"),
        (b"get / HTTP/1.1\r\n\r\n", "method_denied"),
        (b"FOO / HTTP/1.1\r\n\r\n", "method_denied"),
        (b"TRACE / HTTP/1.1\r\n\r\n", "method_denied"),
        (b"GE\0T / HTTP/1.1\r\n\r\n", "malformed"),
        (b"GET /#a HTTP/1.1\r\n\r\n", "malformed"),
        (b"GET /\\a HTTP/1.1\r\n\r\n", "malformed"),
        (b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\nHost: a\n\n", "malformed"),
        (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\nX-A: v\rSmuggled: yes\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\nX-A: v\0alue\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\n: a\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\nTransfer_Encoding: chunked\r\n\r\n", "malformed"),
        (b"GET / HTTP/1.1\r\nContent.Length: 3\r\n\r\n", "malformed"),
        (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n\r\n", "header_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 201 + b"\r\n", "header_too_large"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 65536, "header_too_large"),
    ],
)
def test_refused_heads(raw: bytes, code: str) -> None:
    with pytest.raises(Denied) as caught:
        parse(raw)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 6\r\nTransfer-Encoding: chunked",
        b"Content-Length: 6\r\nContent-Length: 6",
        b"Content-Length: 6, 6",
        b"Content-Length: -1",
        b"Content-Length: +6",
        b"Content-Length: 0x6",
        b"Content-Length: 06",
        b"Content-Length: 6_0",
        b"Content-Length: ",
        b"Content-Length: 99999999999999999999",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked;a=b",
        b"Transfer-Encoding:",
    ],
)
def test_ambiguous_framing(fields: bytes) -> None:
    with pytest.raises(Denied) as caught:
        parse(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\n")
    assert caught.value.code == "malformed"
    with pytest.raises(Denied) as caught:
        h1.response_framing(h1.parse_response_head(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n"), "GET")
    assert caught.value.code == "upstream_malformed"


def test_chunked_needs_http_1_1() -> None:
    with pytest.raises(Denied):
        parse(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")


CHUNKED = b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"


@given(st.lists(st.integers(1, len(CHUNKED)), max_size=8))
def test_chunks_over_any_split(cuts: list[int]) -> None:
    reader, buffer, out = h1.ChunkedReader(), bytearray(), b""
    edges = [0, *sorted(set(cuts)), len(CHUNKED)]
    for start, end in itertools.pairwise(edges):
        buffer += CHUNKED[start:end]
        out += reader.feed(buffer)
    assert (out, reader.done, reader.trailers, bytes(buffer)) == (b"hello world", True, ((b"X-Sum", b"1"),), b"")


def test_what_follows_a_chunked_body_stays() -> None:
    buffer = bytearray(b"0\r\n\r\nGET /next")
    reader = h1.ChunkedReader()
    assert reader.feed(buffer) == b""
    assert reader.done
    assert buffer == b"GET /next"


@pytest.mark.parametrize(
    "raw",
    [
        b"0x3\r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b"0_3\r\nabc\r\n",
        b"-1\r\n",
        b"\r\nabc",
        b" 3\r\nabc\r\n",
        b"3 \r\nabc\r\n",
        b"3\nabc\n",
        b"3\r\nabcd\r\n",
        b"3;a\nb\r\nabc\r\n",
        b"10000000000000003\r\nabc",
        b"3;" + b"a" * 300 + b"\r\nabc",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\nTransfer-Encoding : x\r\n\r\n",
    ],
)
def test_bad_chunks(raw: bytes) -> None:
    with pytest.raises(Denied):
        h1.ChunkedReader().feed(bytearray(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x01K\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
    ],
)
def test_bad_response_heads(raw: bytes) -> None:
    with pytest.raises(Denied) as caught:
        h1.parse_response_head(raw)
    assert caught.value.code == "upstream_malformed"


@pytest.mark.parametrize(
    ("status", "method", "headers", "expected"),
    [
        (200, "GET", (), h1.Framing(None)),
        (200, "HEAD", ((b"Content-Length", b"9"),), h1.Framing(0)),
        (204, "GET", (), h1.Framing(0)),
        (304, "GET", ((b"Content-Length", b"9"),), h1.Framing(0)),
        (200, "GET", ((b"Content-Length", b"9"),), h1.Framing(9)),
        (200, "GET", ((b"transfer-encoding", b"Chunked"),), h1.Framing(None, chunked=True)),
    ],
)
def test_response_framing(
    status: int, method: str, headers: tuple[tuple[bytes, bytes], ...], expected: h1.Framing
) -> None:
    assert h1.response_framing(ResponseHead(status, "", headers), method) == expected


def test_encoded_request_is_read_back() -> None:
    raw = h1.encode_request("POST", "/a", ((b"Host", b"a.test"),), b"hi")
    head, framing = parse(raw)
    assert (head.target, framing, raw[-2:]) == ("/a", h1.Framing(2), b"hi")
    raw = h1.encode_request("POST", "/a", ((b"Host", b"a.test"),), b"hi", ((b"X-T", b"1"),))
    end = h1.find_head_end(bytearray(raw))
    reader, rest = h1.ChunkedReader(), bytearray(raw[end:])
    assert (reader.feed(rest), reader.trailers) == (b"hi", ((b"X-T", b"1"),))


@given(st.binary(max_size=300))
def test_any_bytes_end_in_a_head_or_a_denial(data: bytes) -> None:
    try:
        parse(data + b"\r\n\r\n")
    except Denied as denied:
        assert denied.status in {400, 405, 414, 431, 505}


def test_a_chunk_over_the_limit_is_refused_by_its_size_line() -> None:
    with pytest.raises(Denied) as caught:
        h1.ChunkedReader(1000).feed(bytearray(b"100000003\r\nabc"))
    assert caught.value.code == "too_large"
    reader = h1.ChunkedReader(5)
    assert reader.feed(bytearray(b"5\r\nhello\r\n0\r\n\r\n")) == b"hello"


@pytest.mark.parametrize("field", [b"Content-Length: 5", b"Host: evil.test", b"Transfer-Encoding: x", b"Cookie: a=b"])
def test_fields_that_may_not_stand_in_trailers(field: bytes) -> None:
    with pytest.raises(Denied) as caught:
        h1.ChunkedReader().feed(bytearray(b"0\r\n" + field + b"\r\n\r\n"))
    assert caught.value.code == "malformed"


def test_a_credential_that_stands_twice_is_no_credential() -> None:
    two = (b"Proxy-Authorization", b"Bearer a"), (b"proxy-authorization", b"Bearer b")
    head = h1.RawHead("CONNECT", "a.test:443", "1.1", two)
    with pytest.raises(Denied, match="twice"):
        head.only(b"proxy-authorization")
    assert h1.RawHead("CONNECT", "a.test:443", "1.1", two[:1]).only(b"proxy-authorization") == b"Bearer a"
    assert h1.RawHead("CONNECT", "a.test:443", "1.1", ()).only(b"proxy-authorization") is None
