"""The WebSocket lane: strict frames, whole messages inspected, nothing a peer framed passed on as it stood."""

import asyncio
import itertools
import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

from proxy.dataplane.websocket import (
    Close,
    Endpoint,
    Message,
    Output,
    Ping,
    Violation,
    WebSocketPump,
    fitting,
    restore_text,
)
from proxy.errors import REASONS, Denied
from proxy.model import Finding, Inspection

SECRET = "4111111111111111"
ALLOW = Inspection("allow")


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """One frame, built by hand so that it may break any rule."""
    size, key = len(payload), b"\x11\x22\x33\x44"
    mask_bit = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", fin << 7 | rsv << 4 | opcode, mask_bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", fin << 7 | rsv << 4 | opcode, mask_bit | 126, size)
    else:
        head = struct.pack("!BBQ", fin << 7 | rsv << 4 | opcode, mask_bit | 127, size)
    if not masked:
        return head + payload
    return head + key + bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def text(value: str, **options: bool) -> bytes:
    return frame(1, value.encode(), **options)


def upstream_saw(data: bytes) -> list[Message | Ping | Close]:
    """What a strict upstream reads: it accepts masked frames only."""
    return list(Endpoint("client", 1 << 30).receive(data))


def client_saw(data: bytes) -> list[Message | Ping | Close]:
    return list(Endpoint("upstream", 1 << 30).receive(data))


class Inspector:
    """Finds SECRET in text as the real one would: spans in characters, block or tokenize."""

    def __init__(self, action: str = "block") -> None:
        self.action = action
        self.seen: list[tuple[bytes, bool]] = []

    async def __call__(self, payload: bytes, is_text: bool) -> Inspection:
        self.seen.append((payload, is_text))
        words = payload.decode("utf-8", "replace")
        at = words.find(SECRET)
        if at < 0:
            return ALLOW
        finding = Finding("CREDIT_CARD", at, at + len(SECRET), 1.0, "test", "body", self.action)  # type: ignore[arg-type]
        if self.action == "block":
            return Inspection("block", (finding,), "pii", "CREDIT_CARD in the message")
        body = words.replace(SECRET, "<CREDIT_CARD_abcdefgh>").encode()
        return Inspection("transform", (finding,), body=body, restore={"<CREDIT_CARD_abcdefgh>": SECRET})


async def _feed(pump: WebSocketPump, steps: Sequence[tuple[str, bytes]]) -> Output:
    to_client, to_upstream = b"", b""
    for side, data in steps:
        output = await (pump.feed_client(data) if side == "client" else pump.feed_upstream(data))
        to_client += output.to_client
        to_upstream += output.to_upstream
    return Output(to_client, to_upstream, pump.finished)


def run(pump: WebSocketPump, *steps: tuple[str, bytes]) -> Output:
    return asyncio.run(_feed(pump, steps))


def client(*frames: bytes) -> tuple[str, bytes]:
    return ("client", b"".join(frames))


def upstream(*frames: bytes) -> tuple[str, bytes]:
    return ("upstream", b"".join(frames))


def test_messages_pass_both_ways_framed_anew() -> None:
    inspector = Inspector()
    pump = WebSocketPump(inspector)
    output = run(pump, client(text("hi"), frame(2, b"\x00\xff")), upstream(text("yo", masked=False)))
    assert upstream_saw(output.to_upstream) == [Message(b"hi", True), Message(b"\x00\xff", False)]
    assert client_saw(output.to_client) == [Message(b"yo", True)]
    assert inspector.seen[:2] == [(b"hi", True), (b"\x00\xff", False)]
    assert pump.traffic.sent_bytes == 4
    assert pump.traffic.received_bytes == 2
    assert pump.traffic.messages == 3
    assert not output.finished


def test_fragments_are_inspected_as_one_message_and_control_frames_may_lie_between() -> None:
    inspector = Inspector()
    output = run(
        WebSocketPump(inspector),
        client(text("4111 ", fin=False), frame(9, b"p"), frame(0, b"is ", fin=False), frame(0, b"not it")),
    )
    assert upstream_saw(output.to_upstream) == [Message(b"4111 is not it", True)]
    assert inspector.seen == [(b"4111 is not it", True)]


@pytest.mark.parametrize(
    "frames",
    [
        [text(f"card {SECRET}")],
        [text("card 41111111", fin=False), frame(0, b"11111111")],
        [frame(1, b"", fin=False), *(frame(0, bytes([c]), fin=False) for c in SECRET.encode()), frame(0, b"")],
        [frame(2, SECRET.encode())],
        [text("card 41111111"), text("11111111 end")],
        [text("card 41111111"), frame(2, b"11111111 end")],
        [text('{"t":"41111111"}'), text('{"t":"11111111"}')],
        [text('{"a":[{"t":"41111111"}]}'), text('{"a":[1,{"t":"11111111"}]}')],
        [text(c) for c in SECRET],
        [text(SECRET[:5]), text('{"other":1}'), text(SECRET[5:])],
    ],
    ids=["whole", "fragments", "byte-fragments", "binary", "two-messages", "text-then-binary", "json-two-messages",
         "json-array", "one-digit-each", "with-another-between"],
)  # fmt: skip
def test_a_secret_never_leaves_whole(frames: list[bytes]) -> None:
    pump = WebSocketPump(Inspector())
    output = run(pump, client(*frames))
    sent = b"".join(e.payload for e in upstream_saw(output.to_upstream) if isinstance(e, Message))
    assert SECRET.encode() not in sent
    assert output.finished
    assert pump.denied is not None
    assert pump.denied.code == "pii"
    closed = client_saw(output.to_client)[-1]
    assert isinstance(closed, Close)
    assert closed.code == 1008
    assert closed.reason.startswith("pii: CREDIT_CARD")
    assert upstream_saw(output.to_upstream)[-1] == Close(1001, "")
    assert pump.traffic.findings >= 1
    assert pump.traffic.close_code == 1008


@pytest.mark.parametrize(
    "frames",
    [
        [text("41111111 x"), text("x 11111111")],
        [text('{"n":41111111}'), text('{"n":11111111}')],  # counters and times
        [text('{"a":"41111111"}'), text('{"b":"11111111"}')],
    ],
)
def test_neighbours_that_do_not_join_pass(frames: list[bytes]) -> None:
    output = run(WebSocketPump(Inspector()), client(*frames))
    assert not output.finished
    assert len(upstream_saw(output.to_upstream)) == len(frames)


@pytest.mark.parametrize("kind", [{"action": "allow"}, {"mode": "report"}])
def test_a_crossing_finding_that_policy_lets_pass_does_not_close(kind: dict[str, str]) -> None:
    async def lenient(payload: bytes, is_text: bool) -> Inspection:
        at = payload.decode().find(SECRET)
        found = Finding("CREDIT_CARD", at, at + 16, 1.0, "test", **kind)  # type: ignore[arg-type]
        return Inspection("allow", (found,)) if at >= 0 else ALLOW

    assert not run(WebSocketPump(lenient), client(text("41111111"), text("11111111"))).finished


def test_tokenized_text_is_restored_in_the_answer_and_its_end_is_the_tail() -> None:
    pump = WebSocketPump(Inspector("tokenize"))
    output = run(
        pump,
        client(text(f"pay {SECRET}")),
        upstream(
            text("got <CREDIT_CARD_abcdefgh>!", masked=False),
            frame(2, b"<CREDIT_CARD_abcdefgh>", masked=False),
        ),
    )
    assert upstream_saw(output.to_upstream) == [Message(b"pay <CREDIT_CARD_abcdefgh>", True)]
    assert client_saw(output.to_client) == [
        Message(f"got {SECRET}!".encode(), True),
        Message(b"<CREDIT_CARD_abcdefgh>", False),
    ]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"a":"<PERSON_abcdefgh>"}', b'{"a":"A \\"B\\"\\n"}'),
        (b'{"a":"\\u003cPERSON_abcdefgh\\u003e"}', b'{"a":"A \\"B\\"\\n"}'),
        (b'{"a":"\\u003CPERSON_abcdefgh\\u003E"}', b'{"a":"A \\"B\\"\\n"}'),
        (b"plain <PERSON_abcdefgh>", b'plain A "B"\n'),
        (b"plain \\u003cPERSON_abcdefgh\\u003e", b"plain \\u003cPERSON_abcdefgh\\u003e"),
        (b"<PERSON_zzzzzzzz>", b"<PERSON_zzzzzzzz>"),
        (b"nothing", b"nothing"),
    ],
)
def test_restoring_keeps_json_valid_and_leaves_unknown_placeholders(payload: bytes, expected: bytes) -> None:
    assert restore_text(payload, {"<PERSON_abcdefgh>": 'A "B"\n'}) == expected


def test_pings_are_answered_here_and_no_control_payload_is_relayed() -> None:
    inspector = Inspector()
    output = run(
        WebSocketPump(inspector),
        client(frame(9, SECRET.encode()), frame(10, SECRET.encode())),
        upstream(frame(9, b"are you there", masked=False), frame(10, b"x", masked=False)),
    )
    pong = FrameProtocol(client=True, extensions=[])
    pong.receive_bytes(output.to_client)
    assert [(f.opcode, f.payload) for f in pong.received_frames()] == [(Opcode.PONG, SECRET.encode())]
    pong = FrameProtocol(client=False, extensions=[])
    pong.receive_bytes(output.to_upstream)
    assert [(f.opcode, f.payload) for f in pong.received_frames()] == [(Opcode.PONG, b"are you there")]
    assert inspector.seen == []


# every rule that a client may break: (frames, close code); RFC 6455 sections 5.1, 5.2, 5.4, 5.5, 7.4, 8.1
BROKEN = {
    "unmasked": (frame(1, b"x", masked=False), 1002),
    "rsv1": (frame(1, b"x", rsv=4), 1002),
    "rsv2": (frame(1, b"x", rsv=2), 1002),
    "rsv3": (frame(1, b"x", rsv=1), 1002),
    "rsv1-control": (frame(9, b"x", rsv=4), 1002),
    **{f"opcode-{code}": (frame(code, b"x"), 1002) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented-ping": (frame(9, b"x", fin=False), 1002),
    "fragmented-close": (frame(8, b"", fin=False), 1002),
    "control-126": (frame(9, b"x" * 126), 1002),
    "continuation-first": (frame(0, b"x"), 1002),
    "text-inside-text": (frame(1, b"x", fin=False) + frame(1, b"y"), 1002),
    "bad-utf8": (frame(1, b"\xff\xfe"), 1007),
    "bad-utf8-across-fragments": (frame(1, b"\xe2\x82", fin=False) + frame(0, b"A"), 1007),
    "unfinished-utf8": (frame(1, b"\xe2\x82"), 1007),
    "surrogate": (frame(1, b"\xed\xa0\x80"), 1007),
    "overlong": (frame(1, b"\xc0\xaf"), 1007),
    "long-form-for-short-16": (b"\x81\xfe\x00\x7d" + b"\0" * 4 + b"x" * 125, 1002),
    "long-form-for-short-64": (b"\x81\xff" + struct.pack("!Q", 125) + b"\0" * 4 + b"x" * 125, 1002),
    "length-top-bit": (b"\x81\xff" + struct.pack("!Q", 1 << 63) + b"\0" * 4, 1002),
    "close-1-byte": (frame(8, b"\x03"), 1002),
    **{
        f"close-{code}": (frame(8, struct.pack("!H", code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "close-bad-utf8": (frame(8, b"\x03\xe8\xff"), 1007),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_frames_close_with_the_rfc_code_and_nothing_leaves(name: str) -> None:
    data, code = BROKEN[name]
    inspector = Inspector()
    pump = WebSocketPump(inspector)
    output = run(pump, client(data))
    closed = client_saw(output.to_client)[-1]
    assert isinstance(closed, Close)
    assert closed.code == code
    assert closed.reason.startswith("malformed: WebSocket: ")
    assert upstream_saw(output.to_upstream) == [Close(1001, "")]
    assert output.finished
    assert inspector.seen == []


def test_an_upstream_that_breaks_the_rules_is_cut_and_blamed() -> None:
    pump = WebSocketPump(Inspector())
    output = run(pump, upstream(frame(1, b"x", masked=True)))
    assert pump.denied is not None
    assert pump.denied.code == "upstream_malformed"
    assert upstream_saw(output.to_upstream) == [Close(1002, "")]
    closed = client_saw(output.to_client)[-1]
    assert isinstance(closed, Close)
    assert closed.code == 1011


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 4999])
def test_a_client_close_travels_as_its_code_alone(code: int) -> None:
    pump = WebSocketPump(Inspector())
    output = run(pump, client(frame(8, struct.pack("!H", code) + SECRET.encode())))
    assert upstream_saw(output.to_upstream) == [Close(code, "")]
    assert output.to_client == b""
    assert not output.finished
    output = run(pump, upstream(frame(8, struct.pack("!H", code), masked=False)))
    assert client_saw(output.to_client) == [Close(code, "")]
    assert output.finished
    assert pump.traffic.close_code == code
    assert pump.denied is None


def test_an_upstream_close_keeps_its_reason_and_waits_for_the_client() -> None:
    pump = WebSocketPump(Inspector())
    output = run(pump, upstream(frame(8, b"\x0f\xa0bye", masked=False), text("late", masked=False)))
    assert client_saw(output.to_client) == [Close(4000, "bye")]
    assert not output.finished
    assert run(pump, client(frame(8, b"\x0f\xa0"))).finished


def test_an_empty_close_stays_empty() -> None:
    assert upstream_saw(run(WebSocketPump(Inspector()), client(frame(8))).to_upstream) == [Close(1005, "")]


def test_nothing_counts_after_a_close() -> None:
    inspector = Inspector()
    output = run(WebSocketPump(inspector), client(frame(8, b"\x03\xe8"), text("late")), client(text("later")))
    assert upstream_saw(output.to_upstream) == [Close(1000, "")]
    assert inspector.seen == []


@pytest.mark.parametrize("size", [100, 101])
def test_the_message_cap_counts_all_fragments(size: int) -> None:
    half = size // 2
    pump = WebSocketPump(Inspector(), max_message_bytes=100)
    output = run(pump, client(frame(2, b"x" * half, fin=False), frame(0, b"x" * (size - half))))
    if size == 100:
        assert upstream_saw(output.to_upstream) == [Message(b"x" * 100, False)]
        return
    closed = client_saw(output.to_client)[-1]
    assert isinstance(closed, Close)
    assert closed.code == 1009
    assert pump.denied is not None
    assert pump.denied.code == "too_large"


def test_a_message_that_never_ends_is_cut_at_the_cap_while_it_arrives() -> None:
    endpoint = Endpoint("client", 1 << 20)
    head = b"\x82\xff" + struct.pack("!Q", 100 << 20) + b"\0" * 4
    assert list(endpoint.receive(head)) == []
    taken = 0
    code = 0
    while taken < 100 << 20 and not code:
        taken += 65536
        try:
            list(endpoint.receive(b"\0" * 65536))
        except Violation as violation:
            code = violation.code
    assert code == 1009
    assert taken <= (1 << 20) + 65536
    assert len(endpoint._parts) == 0


@pytest.mark.parametrize("error", [ValueError("x"), Denied("inspector_unavailable"), TimeoutError(), RecursionError()])
def test_whatever_the_inspector_raises_nothing_leaves(error: Exception) -> None:
    async def broken(payload: bytes, is_text: bool) -> Inspection:
        raise error

    pump = WebSocketPump(broken)
    output = run(pump, client(text("hello")))
    assert upstream_saw(output.to_upstream) == [Close(1001, "")]
    assert output.finished
    assert pump.denied is not None
    assert pump.denied.code in {"internal", "inspector_unavailable"}


def test_a_broken_restore_cuts_the_answer() -> None:
    def broken(payload: bytes, placeholders: object) -> bytes:
        raise KeyError

    pump = WebSocketPump(Inspector(), restore=broken, placeholders={"<A_abcdefgh>": "x"})
    output = run(pump, upstream(text("hi", masked=False)))
    assert [type(event) for event in client_saw(output.to_client)] == [Close]
    assert output.finished


def test_the_upstreams_end_during_inspection_stops_the_message() -> None:
    gate = asyncio.Event()

    async def slow(payload: bytes, is_text: bool) -> Inspection:
        await gate.wait()
        return ALLOW

    async def scenario() -> None:
        pump = WebSocketPump(slow)
        sending = asyncio.create_task(pump.feed_client(text("hello")))
        await asyncio.sleep(0)
        ended = pump.eof("upstream")
        gate.set()
        assert await sending == Output(finished=True)
        assert [type(event) for event in client_saw(ended.to_client)] == [Close]

    asyncio.run(scenario())


def test_denying_from_outside_closes_once() -> None:
    pump = WebSocketPump(Inspector())
    first = pump.deny(Denied("killed"))
    assert client_saw(first.to_client)[0] == Close(
        1008, fitting(f"killed: {REASONS['killed'].title}. {REASONS['killed'].remedy}")
    )
    assert pump.deny(Denied("killed")) == Output(finished=True)
    assert run(pump, client(text("late"))).to_upstream == b""


@pytest.mark.parametrize(
    ("side", "before", "expected"),
    [
        ("client", [], ([], [Close(1001, "")])),
        ("upstream", [], ([Close(1011, "The upstream closed the connection")], [])),
        ("upstream", [client(frame(8, b"\x03\xe8"))], ([Close(1000, "")], [])),
    ],
)
def test_a_lost_side_tells_the_other(
    side: str, before: list[tuple[str, bytes]], expected: tuple[object, object]
) -> None:
    pump = WebSocketPump(Inspector())
    run(pump, *before)
    output = pump.eof(side)  # type: ignore[arg-type]
    assert output.finished
    assert client_saw(output.to_client) == expected[0]
    assert upstream_saw(output.to_upstream) == expected[1]


@pytest.mark.parametrize("code", REASONS)
def test_every_denial_fits_a_close_frame_and_names_its_code(code: str) -> None:
    output = WebSocketPump(Inspector()).deny(Denied(code, "é" * 200))
    closed = client_saw(output.to_client)[0]
    assert isinstance(closed, Close)
    assert closed.reason.startswith(f"{code}:")
    assert len(closed.reason.encode()) <= 123


@given(st.text(max_size=300))
def test_fitting_never_splits_a_character(words: str) -> None:
    assert len(fitting(words).encode()) <= 123


MESSAGES = st.lists(
    st.tuples(st.booleans(), st.text(alphabet="aé🙂4", max_size=300), st.lists(st.integers(0, 300), max_size=3)),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(MESSAGES, st.lists(st.integers(1, 700), max_size=12))
def test_any_fragmentation_and_any_split_give_the_same_messages(
    messages: list[tuple[bool, str, list[int]]], cuts: list[int]
) -> None:
    wire, expected = b"", []
    for is_text, words, at in messages:
        payload = words.encode()
        edges = sorted({0, len(payload), *(cut for cut in at if cut < len(payload))})
        pieces = [payload[a:b] for a, b in itertools.pairwise(edges)] or [b""]
        for number, piece in enumerate(pieces):
            opcode = (1 if is_text else 2) if number == 0 else 0
            wire += frame(opcode, piece, fin=number == len(pieces) - 1) + frame(9, b"beat")
        expected.append(Message(payload, is_text))
    points = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    reads = [client(wire[a:b]) for a, b in itertools.pairwise(points)]
    output = run(WebSocketPump(Inspector()), *reads)
    assert upstream_saw(output.to_upstream) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 400))
def test_noise_never_raises_and_never_leaves_uninspected(data: bytes, cut: int) -> None:
    inspector = Inspector()
    output = run(WebSocketPump(inspector), client(data[:cut]), client(data[cut:]))
    seen = [payload for payload, _ in inspector.seen]
    for event in upstream_saw(output.to_upstream):
        assert not isinstance(event, Message) or event.payload in seen


def _split_everywhere(data: bytes, check: Callable[[Output], None]) -> None:
    for cut in range(1, len(data)):
        check(run(WebSocketPump(Inspector()), client(data[:cut]), client(data[cut:])))


def test_every_split_point_of_a_blocked_message_blocks() -> None:
    data = text("card 4111", fin=False) + frame(9, b"x") + frame(0, SECRET[4:].encode())
    _split_everywhere(data, lambda output: _assert_blocked(output))


def _assert_blocked(output: Output) -> None:
    assert output.finished
    assert upstream_saw(output.to_upstream) == [Close(CloseReason.GOING_AWAY, "")]


def test_masks_of_our_frames_to_the_upstream_are_fresh() -> None:
    first, second = (run(WebSocketPump(Inspector()), client(text("same"))).to_upstream for _ in range(2))
    assert first != second
