"""The h2spec descriptions of sections 5.1, 6.5, 6.9, 6.10 and 8.1.2, each as frames against the running proxy.

A check is registered under its section and description, word for word, so that a test can compare them with the list.
As h2spec has it, a stream error may also be answered by ending the whole connection (RFC 9113 section 5.4.2).
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import hpack
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from tests.attack.h2peer import Fields, Peer, Unexpected, frame_bytes

PROTOCOL, FLOW, CLOSED, SIZE, REFUSED = 1, 3, 5, 6, 7
MOST_WINDOW: Final = 2**31 - 1
type Check = Callable[[Peer], None]
CHECKS: dict[tuple[str, str], Check] = {}


def check(section: str, *descriptions: str) -> Callable[[Check], Check]:
    """Registers one check."""

    def mark(act: Check) -> Check:
        CHECKS.update(dict.fromkeys(((section, one) for one in descriptions), act))
        return act

    return mark


def after_preface(section: str, description: str, *codes: int, frames: Iterable[Frame | bytes]) -> None:
    """A check that these frames, right after the preface, are a connection error."""
    sent = tuple(frames)

    def act(peer: Peer) -> None:
        peer.preface()
        peer.send(*sent)
        peer.connection_error(*codes)

    check(section, description)(act)


def malformed(section: str, description: str, fields: Callable[[Peer], Fields]) -> None:
    """A check that a request of these fields is a stream error."""

    def act(peer: Peer) -> None:
        peer.preface()
        peer.send(peer.headers(1, fields(peer)))
        peer.stream_error(1, PROTOCOL)

    check(section, description)(act)


# ---------------------------------------------------------------- 5.1 stream states

_SOME_FIELDS = hpack.Encoder().encode([("x-more", "1")], huffman=False)

after_preface("5.1", "idle: Sends a DATA frame", PROTOCOL, frames=[DataFrame(1, b"test", flags=["END_STREAM"])])
after_preface("5.1", "idle: Sends a RST_STREAM frame", PROTOCOL, frames=[RstStreamFrame(1, 8)])
after_preface("5.1", "idle: Sends a WINDOW_UPDATE frame", PROTOCOL, frames=[WindowUpdateFrame(1, 100)])
after_preface(
    "5.1", "idle: Sends a CONTINUATION frame", PROTOCOL,
    frames=[ContinuationFrame(1, _SOME_FIELDS, flags=["END_HEADERS"])],
)  # fmt: skip


def _more(kind: str, peer: Peer) -> Frame:
    """One more frame on stream 1."""
    match kind:
        case "DATA":
            return DataFrame(1, b"test", flags=["END_STREAM"])
        case "HEADERS":
            return peer.headers(1)
        case _:
            return ContinuationFrame(1, peer.block([("x-more", "1")]), flags=["END_HEADERS"])


def _half_closed(peer: Peer, kind: str) -> None:
    # A window of nothing keeps the answer's body back, so that the proxy's half of the stream stays open.
    peer.preface({SettingsFrame.INITIAL_WINDOW_SIZE: 0})
    peer.send(peer.headers(1), _more(kind, peer))
    peer.stream_error(1, CLOSED, *([PROTOCOL] if kind == "CONTINUATION" else []))


def _closed_by_reset(peer: Peer, kind: str) -> None:
    peer.preface()
    peer.send(peer.headers(1, end=False), RstStreamFrame(1, 8), _more(kind, peer))
    peer.stream_error(1, CLOSED, *([PROTOCOL] if kind == "CONTINUATION" else []))


def _closed_by_end(peer: Peer, kind: str) -> None:
    peer.preface()
    peer.send(peer.headers(1))
    peer.until(lambda one: one.stream_id == 1 and "END_STREAM" in one.flags, "end of the answer")
    peer.send(_more(kind, peer))
    peer.stream_error(1, CLOSED, *([PROTOCOL] if kind == "CONTINUATION" else []))


def _states() -> None:
    for state, act in (
        ("half closed (remote): Sends a {} frame", _half_closed),
        ("closed: Sends a {} frame after sending RST_STREAM frame", _closed_by_reset),
        ("closed: Sends a {} frame", _closed_by_end),
    ):
        for kind in ("DATA", "HEADERS", "CONTINUATION"):
            check("5.1", state.format(kind))(partial(act, kind=kind))


_states()


@check("5.1.1", "Sends even-numbered stream identifier")
def _even(peer: Peer) -> None:
    peer.preface()
    peer.send(peer.headers(2))
    peer.connection_error(PROTOCOL)


@check("5.1.1", "Sends stream identifier that is numerically smaller than previous")
def _smaller(peer: Peer) -> None:
    peer.preface()
    peer.send(peer.headers(5), peer.headers(3))
    peer.connection_error(PROTOCOL)


@check("5.1.2", "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded")
def _too_many(peer: Peer) -> None:
    peer.preface()
    first = next(one for one in peer.seen if isinstance(one, SettingsFrame))
    limit = first.settings.get(SettingsFrame.MAX_CONCURRENT_STREAMS)
    if limit is None:
        raise Unexpected("no limit is advertised")
    last = 2 * limit + 1
    peer.send(*(peer.headers(stream, end=False) for stream in range(1, last + 1, 2)))
    peer.stream_error(last, PROTOCOL, REFUSED)


# ---------------------------------------------------------------- 6.5 SETTINGS


def _setting(identifier: int, value: int) -> bytes:
    return identifier.to_bytes(2) + value.to_bytes(4)


for _name, _identifier, _value, _code in (
    ("SETTINGS_ENABLE_PUSH (0x2): Sends the value other than 0 or 1", 2, 2, PROTOCOL),
    ("SETTINGS_INITIAL_WINDOW_SIZE (0x4): Sends the value above the maximum flow control window size", 4, 2**31, FLOW),
    ("SETTINGS_MAX_FRAME_SIZE (0x5): Sends the value below the initial value", 5, 16383, PROTOCOL),
    ("SETTINGS_MAX_FRAME_SIZE (0x5): Sends the value above the maximum allowed frame size", 5, 2**24, PROTOCOL),
):
    after_preface("6.5.2", _name, _code, frames=[frame_bytes(4, 0, 0, _setting(_identifier, _value))])
after_preface(
    "6.9.2", "Sends a SETTINGS_INITIAL_WINDOW_SIZE settings with an exceeded maximum window size value", FLOW,
    frames=[frame_bytes(4, 0, 0, _setting(4, 2**31))],
)  # fmt: skip
after_preface("6.5", "Sends a SETTINGS frame with ACK flag and payload", SIZE, frames=[frame_bytes(4, 1, 0, b"\0")])
after_preface(
    "6.5", "Sends a SETTINGS frame with a stream identifier other than 0x0", PROTOCOL,
    frames=[frame_bytes(4, 0, 1, _setting(3, 100))],
)  # fmt: skip
after_preface(
    "6.5", "Sends a SETTINGS frame with a length other than a multiple of 6 octets", SIZE,
    frames=[frame_bytes(4, 0, 0, _setting(3, 100)[:3])],
)  # fmt: skip


@check("6.5.2", "Sends a SETTINGS frame with unknown identifier")
def _unknown_setting(peer: Peer) -> None:
    peer.preface()
    peer.send(frame_bytes(4, 0, 0, _setting(0xFF, 1)))
    peer.pong()


@check("6.5.3", "Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE")
def _in_order(peer: Peer) -> None:
    peer.preface()
    peer.send(frame_bytes(4, 0, 0, _setting(4, 100) + _setting(4, 1)), peer.headers(1))
    if peer.data(1) != 1:
        raise Unexpected(f"the first DATA frame is of {peer.data(1)} bytes, expected 1")


@check("6.5.3", "Sends a SETTINGS frame without ACK flag")
def _acknowledged(peer: Peer) -> None:
    peer.preface()
    before = sum(isinstance(one, SettingsFrame) and "ACK" in one.flags for one in peer.seen)
    peer.send(SettingsFrame(0, settings={SettingsFrame.ENABLE_PUSH: 0}))
    peer.until(
        lambda _: sum(isinstance(one, SettingsFrame) and "ACK" in one.flags for one in peer.seen) > before,
        "SETTINGS acknowledged",
    )


# ---------------------------------------------------------------- 6.9 WINDOW_UPDATE

after_preface(
    "6.9", "Sends a WINDOW_UPDATE frame with a flow control window increment of 0", PROTOCOL,
    frames=[frame_bytes(8, 0, 0, bytes(4))],
)  # fmt: skip
after_preface(
    "6.9", "Sends a WINDOW_UPDATE frame with a length other than 4 octets", SIZE,
    frames=[frame_bytes(8, 0, 0, b"\0\0\1")],
)  # fmt: skip
after_preface(
    "6.9.1", "Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1", FLOW,
    frames=[WindowUpdateFrame(0, MOST_WINDOW), WindowUpdateFrame(0, MOST_WINDOW)],
)  # fmt: skip


@check("6.9", "Sends a WINDOW_UPDATE frame with a flow control window increment of 0 on a stream")
def _nothing_more(peer: Peer) -> None:
    peer.preface()
    peer.send(peer.headers(1, end=False), frame_bytes(8, 0, 1, bytes(4)))
    peer.stream_error(1, PROTOCOL)


@check("6.9.1", "Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a stream")
def _too_much(peer: Peer) -> None:
    peer.preface()
    update = WindowUpdateFrame(1, MOST_WINDOW)
    peer.send(peer.headers(1, end=False), update, update)
    peer.stream_error(1, FLOW)


@check("6.9.1", "Sends SETTINGS frame to set the initial window size to 1 and sends HEADERS frame")
def _one_byte(peer: Peer) -> None:
    peer.preface({SettingsFrame.INITIAL_WINDOW_SIZE: 1})
    peer.send(peer.headers(1))
    if peer.data(1) != 1:
        raise Unexpected(f"DATA of {peer.data(1)} bytes in a window of 1")


@check("6.9.2", "Changes SETTINGS_INITIAL_WINDOW_SIZE after sending HEADERS frame")
def _grown(peer: Peer) -> None:
    peer.preface({SettingsFrame.INITIAL_WINDOW_SIZE: 0})
    peer.send(peer.headers(1))
    peer.answered(1)
    peer.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1}))
    if peer.data(1) != 1:
        raise Unexpected(f"DATA of {peer.data(1)} bytes in a window of 1")


@check("6.9.2", "Sends a SETTINGS frame for window size to be negative")
def _negative(peer: Peer) -> None:
    peer.preface({SettingsFrame.INITIAL_WINDOW_SIZE: 3})
    peer.send(peer.headers(1))
    if peer.data(1) != 3:
        raise Unexpected(f"DATA of {peer.data(1)} bytes in a window of 3")
    peer.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2}), WindowUpdateFrame(1, 2))
    if peer.data(1, 1) != 1:
        raise Unexpected(f"DATA of {peer.data(1, 1)} bytes where -1 and 2 make 1")


# ---------------------------------------------------------------- 6.10 CONTINUATION


@check("6.10", "Sends multiple CONTINUATION frames preceded by a HEADERS frame")
def _continued(peer: Peer) -> None:
    peer.preface()
    more = peer.headers(1, whole=False)
    rest = ContinuationFrame(1, peer.block([("x-one", "1")]))
    peer.send(more, rest, ContinuationFrame(1, peer.block([("x-two", "2")]), flags=["END_HEADERS"]))
    peer.answered(1)


def _broken_off(description: str, *codes: int, frames: Callable[[Peer], Iterable[Frame | bytes]]) -> None:
    def act(peer: Peer) -> None:
        peer.preface()
        peer.send(*frames(peer))
        peer.connection_error(*codes)

    check("6.10", description)(act)


def _rest(peer: Peer, stream: int = 1, *, whole: bool = True) -> Frame:
    return ContinuationFrame(stream, peer.block([("x-more", "1")]), flags=["END_HEADERS"] * whole)


_broken_off(
    "Sends a CONTINUATION frame followed by any frame other than CONTINUATION", PROTOCOL,
    frames=lambda peer: (peer.headers(1, end=False, whole=False), _rest(peer, whole=False), DataFrame(1, b"test")),
)  # fmt: skip
_broken_off(
    "Sends a CONTINUATION frame with 0x0 stream identifier", PROTOCOL,
    frames=lambda peer: (peer.headers(1, end=False, whole=False), _zero(peer)),
)  # fmt: skip
_broken_off(
    "Sends a CONTINUATION frame preceded by a HEADERS frame with END_HEADERS flag", PROTOCOL,
    frames=lambda peer: (peer.headers(1, end=False), _rest(peer)),
)  # fmt: skip
_broken_off(
    "Sends a CONTINUATION frame preceded by a CONTINUATION frame with END_HEADERS flag", PROTOCOL,
    frames=lambda peer: (peer.headers(1, end=False, whole=False), _rest(peer), _rest(peer)),
)  # fmt: skip
_broken_off(
    "Sends a CONTINUATION frame preceded by a DATA frame", PROTOCOL,
    frames=lambda peer: (peer.headers(1, end=False), DataFrame(1, b"test"), _rest(peer)),
)  # fmt: skip


def _zero(peer: Peer) -> bytes:
    return frame_bytes(9, 4, 0, peer.block([("x-more", "1")]))


# ---------------------------------------------------------------- 8.1.2 fields

malformed(
    "8.1.2", "Sends a HEADERS frame that contains the header field name in uppercase letters",
    lambda peer: [*peer.fields(), ("X-TEST", "ok")],
)  # fmt: skip
_REQUIRED: Final = ("method", "scheme", "path")


def _without(peer: Peer, name: str) -> Fields:
    return peer.fields(**{name: None})


def _twice(peer: Peer, name: str) -> Fields:
    return [*peer.fields(), *(pair for pair in peer.fields() if pair[0] == f":{name}")]


_FIELDS: dict[tuple[str, str], Callable[[Peer], Fields]] = {
    ("8.1.2.1", "contains a unknown pseudo-header field"): lambda peer: [*peer.fields(), (":test", "ok")],
    ("8.1.2.1", "contains the pseudo-header field defined for response"): lambda p: [*p.fields(), (":status", "200")],
    ("8.1.2.1", "contains a pseudo-header field that appears in a header block after a regular header field"): (
        lambda peer: [*peer.fields(path=None), ("x-test", "ok"), (":path", peer.path)]
    ),
    ("8.1.2.2", "contains the connection-specific header field"): lambda p: [*p.fields(), ("connection", "keep-alive")],
    ("8.1.2.2", 'contains the TE header field with any value other than "trailers"'): (
        lambda peer: [*peer.fields(), ("trailers", "test"), ("te", "trailers, deflate")]
    ),
    ("8.1.2.3", 'with empty ":path" pseudo-header field'): lambda peer: peer.fields(path=""),
    **{("8.1.2.3", f'omits ":{name}" pseudo-header field'): partial(_without, name=name) for name in _REQUIRED},
    **{("8.1.2.3", f'with duplicated ":{name}" pseudo-header field'): partial(_twice, name=name) for name in _REQUIRED},
}
for (_section, _rest_of_it), _build in _FIELDS.items():
    _that = "" if _rest_of_it.startswith("with ") else "that "
    malformed(_section, f"Sends a HEADERS frame {_that}{_rest_of_it}", _build)


@check("8.1.2.1", "Sends a HEADERS frame that contains a pseudo-header field as trailers")
def _pseudo_trailers(peer: Peer) -> None:
    peer.preface()
    start = peer.headers(1, peer.fields(method="POST"), end=False)
    peer.send(start, DataFrame(1, b"test"), peer.headers(1, [(":method", "200")]))
    peer.stream_error(1, PROTOCOL)


def _counted(peer: Peer, *parts: bytes) -> None:
    peer.preface()
    fields = [*peer.fields(method="POST"), ("content-length", "1")]
    *first, last = parts
    frames = [*(DataFrame(1, part) for part in first), DataFrame(1, last, flags=["END_STREAM"])]
    peer.send(peer.headers(1, fields, end=False), *frames)
    peer.stream_error(1, PROTOCOL)


_LENGTH = 'Sends a HEADERS frame with the "content-length" header field which does not equal the'
check("8.1.2.6", f"{_LENGTH} DATA frame payload length")(lambda peer: _counted(peer, b"test"))
check("8.1.2.6", f"{_LENGTH} sum of the multiple DATA frames payload length")(
    lambda peer: _counted(peer, b"test", b"test")
)
