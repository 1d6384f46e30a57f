"""The opening handshake: only RFC 6455 section 4 gets through, on both sides."""

import pytest

from proxy.dataplane.websocket_handshake import (
    accept_value,
    answered,
    check_accept,
    check_handshake,
    wants_upgrade,
    with_own_key,
)
from proxy.errors import Denied
from proxy.model import Authority, Headers, RequestHead, ResponseHead

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # the RFC's own example
GOOD: dict[bytes, bytes] = {
    b"Host": b"a.test",
    b"Upgrade": b"websocket",
    b"Connection": b"keep-alive, Upgrade",
    b"Sec-WebSocket-Version": b"13",
    b"Sec-WebSocket-Key": KEY,
    b"Sec-WebSocket-Protocol": b"chat, realtime",
}
ANSWER: dict[bytes, bytes] = {
    b"Upgrade": b"WebSocket",
    b"Connection": b"upgrade",
    b"Sec-WebSocket-Accept": b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
}


def request(
    changes: dict[bytes, bytes | None], extra: Headers = (), method: str = "GET", version: str = "1.1"
) -> RequestHead:
    merged = {**GOOD, **changes}
    headers = tuple((name, value) for name, value in merged.items() if value is not None)
    return RequestHead(method, "/ws", Authority("https", "a.test", 443), (*headers, *extra), "websocket", version)


def answer(changes: dict[bytes, bytes | None], status: int = 101, extra: Headers = ()) -> ResponseHead:
    merged = {**ANSWER, **changes}
    headers = tuple((name, value) for name, value in merged.items() if value is not None)
    return ResponseHead(status, "Switching Protocols", (*headers, *extra))


def code_of(head: RequestHead) -> str | None:
    try:
        check_handshake(head)
    except Denied as denied:
        return denied.code
    return None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {b"Upgrade": b"WebSocket"},
        {b"Connection": b"upgrade"},
        {b"Sec-WebSocket-Protocol": None},
        {b"Sec-WebSocket-Extensions": b"permessage-deflate; client_max_window_bits"},
        {b"Content-Length": b"0"},
    ],
)
def test_real_handshakes_pass(changes: dict[bytes, bytes | None]) -> None:
    assert code_of(request(changes)) is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({b"Upgrade": b"labproto"}, "proto_denied"),
        ({b"Upgrade": b"h2c"}, "proto_denied"),
        ({b"Upgrade": b"websocket, h2c"}, "proto_denied"),
        ({b"Upgrade": b""}, "proto_denied"),
        ({b"Upgrade": None}, "proto_denied"),
        ({b"Connection": None}, "malformed"),
        ({b"Connection": b"keep-alive"}, "malformed"),
        ({b"Connection": b"x-upgrade"}, "malformed"),
        ({b"Sec-WebSocket-Version": b"777"}, "malformed"),
        ({b"Sec-WebSocket-Version": b"8"}, "malformed"),
        ({b"Sec-WebSocket-Version": b"13, 8"}, "malformed"),
        ({b"Sec-WebSocket-Version": None}, "malformed"),
        ({b"Sec-WebSocket-Key": None}, "malformed"),
        ({b"Sec-WebSocket-Key": b""}, "malformed"),
        ({b"Sec-WebSocket-Key": b"short"}, "malformed"),
        ({b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25j"}, "malformed"),  # 15 bytes
        ({b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZSE="}, "malformed"),  # 17 bytes
        ({b"Sec-WebSocket-Key": b"dGhl-HNhbXBsZSBub25jZQ=="}, "malformed"),
        ({b"Content-Length": b"5"}, "malformed"),
        ({b"Transfer-Encoding": b"chunked"}, "malformed"),
        ({b"Sec-WebSocket-Protocol": b"has space"}, "malformed"),
        ({b"Sec-WebSocket-Protocol": b"a,,b"}, "malformed"),
        ({b"Sec-WebSocket-Protocol": b'"quoted"'}, "malformed"),
    ],
)
def test_near_misses_are_refused(changes: dict[bytes, bytes | None], code: str) -> None:
    assert code_of(request(changes)) == code


@pytest.mark.parametrize("method", ["POST", "get", "CONNECT", "PUT"])
def test_only_get_opens(method: str) -> None:
    assert code_of(request({}, method=method)) == "malformed"


def test_only_http_1_1_opens() -> None:
    assert code_of(request({}, version="1.0")) == "malformed"


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ((b"Upgrade", b"websocket"), "proto_denied"),
        ((b"Sec-WebSocket-Version", b"13"), "malformed"),
        ((b"Sec-WebSocket-Key", KEY), "malformed"),
    ],
)
def test_repeated_fields_are_refused(extra: tuple[bytes, bytes], code: str) -> None:
    assert code_of(request({}, (extra,))) == code


def test_the_accept_value_is_the_rfcs() -> None:
    assert accept_value(KEY) == ANSWER[b"Sec-WebSocket-Accept"]


@pytest.mark.parametrize("changes", [{}, {b"Sec-WebSocket-Protocol": b"realtime"}])
def test_an_answer_to_our_key_is_accepted(changes: dict[bytes, bytes | None]) -> None:
    check_accept(request({}), answer(changes))


@pytest.mark.parametrize(
    ("changes", "status", "extra"),
    [
        ({}, 200, ()),
        ({b"Upgrade": b"labproto"}, 101, ()),
        ({b"Upgrade": None}, 101, ()),
        ({b"Connection": None}, 101, ()),
        ({b"Sec-WebSocket-Accept": None}, 101, ()),
        ({b"Sec-WebSocket-Accept": b"AAAAAAAAAAAAAAAAAAAAAAAAAAA="}, 101, ()),
        ({}, 101, ((b"Sec-WebSocket-Accept", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),)),
        ({b"Sec-WebSocket-Extensions": b"permessage-deflate"}, 101, ()),
        ({b"Sec-WebSocket-Protocol": b"other"}, 101, ()),
        ({b"Sec-WebSocket-Protocol": b"chat"}, 101, ((b"Sec-WebSocket-Protocol", b"realtime"),)),
    ],
)
def test_any_other_answer_is_the_upstreams_fault(
    changes: dict[bytes, bytes | None], status: int, extra: Headers
) -> None:
    with pytest.raises(Denied) as caught:
        check_accept(request({}), answer(changes, status, extra))
    assert caught.value.code == "upstream_malformed"


def test_any_upgrade_field_is_noticed() -> None:
    assert wants_upgrade(request({b"Upgrade": b"anything"}))
    assert not wants_upgrade(request({b"Upgrade": None}))


def test_the_upstream_gets_a_key_of_ours_and_the_client_its_own_answer() -> None:
    asked = request({})
    sent = with_own_key(asked)
    key = sent.first(b"sec-websocket-key") or b""
    assert code_of(sent) is None
    assert key != KEY
    assert key != with_own_key(asked).first(b"sec-websocket-key")
    assert [name for name, _ in sent.headers] == [name for name, _ in asked.headers]
    theirs = answer({b"Sec-WebSocket-Accept": accept_value(key)})
    check_accept(sent, theirs)
    check_accept(asked, answered(theirs, asked))
    with pytest.raises(Denied, match="upstream_malformed"):
        check_accept(sent, answer({}))
