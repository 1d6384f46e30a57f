"""HTTP/2 frames before anybody parses them: whole, a few at a time, and no more of a cheap kind than work explains.

A frame of control costs its sender a dozen bytes and us a walk through two libraries, so each kind has a budget that
refills with time and with what is sent the other way (RFC 9113 section 10.5; CVE-2019-9511 to -9518, CVE-2023-44487,
CVE-2024-27316, CVE-2025-8671). Resets count in both directions: what a peer makes us reset costs as much. Sans-io.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from h2.errors import ErrorCodes

from proxy.errors import Denied

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# RFC 9113 section 4.2: the smallest that may be announced; a frame is held whole before it counts.
CLIENT_FRAME_BYTES: Final = 1 << 14
# As mitmproxy announces it to upstreams.
UPSTREAM_FRAME_BYTES: Final = 1 << 17
# As the lane's: a head with its CONTINUATION frames, still compressed.
MAX_HEAD_BYTES: Final = 64 << 10
# Thirty-two heads are the most that run between two looks at other connections: a few milliseconds.
TURN_FRAMES: Final = 32
TURN_BYTES: Final = 64 << 10

# Time that has been idle must not lie in store: it would come on top of a full budget.
_REFILL_S: Final = 1.0
_HEADER_BYTES: Final = 9
# RFC 9113 section 6.
_DATA: Final = 0x0
_HEADERS: Final = 0x1
_RST_STREAM: Final = 0x3
_SETTINGS: Final = 0x4
_PUSH_PROMISE: Final = 0x5
_PING: Final = 0x6
_WINDOW_UPDATE: Final = 0x8
_CONTINUATION: Final = 0x9
_END_STREAM: Final = 0x1
_ACK: Final = 0x1
_END_HEADERS: Final = 0x4
_PADDED: Final = 0x8


class Flood(Exception):
    """The connection must end: GOAWAY with `error`. `denied`: what the trail is told, if anything."""

    def __init__(self, error: ErrorCodes, detail: str, denied: Denied | None = None) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail
        self.denied = denied


@dataclass(frozen=True, slots=True)
class Budget:
    """So many frames at once, and more: each second, for each DATA frame or KiB sent to the peer and message ended."""

    what: str
    burst: float
    per_s: float
    per_data: float = 0.0
    per_kib: float = 0.0
    per_message: float = 0.0


# A page that is left cancels every stream it has (100 at most); settings change once or twice; libraries measure the
# round trip with a PING per DATA frame; browsers order their streams. Windows are opened for bytes, not for frames:
# who opens them by single octets makes us send a frame for each (CVE-2019-9511).
CLIENT_BUDGETS: Final[Mapping[str, Budget]] = MappingProxyType(
    {
        "reset": Budget("resets", 200, 10, per_message=1),
        "settings": Budget("SETTINGS frames", 20, 0.5),
        "ping": Budget("PING frames", 50, 5, per_data=1),
        "window": Budget("WINDOW_UPDATE frames", 1000, 200, per_kib=8, per_message=4),
        "empty": Budget("empty DATA frames", 20, 1),
        "other": Budget("frames without effect", 300, 20, per_message=4),
    }
)
# Upstreams are of the policy's choosing: what a busy one does in good faith is more.
UPSTREAM_BUDGETS: Final[Mapping[str, Budget]] = MappingProxyType(
    {
        "reset": Budget("resets", 1000, 100, per_message=2),
        "settings": Budget("SETTINGS frames", 50, 1),
        "ping": Budget("PING frames", 100, 10, per_data=1),
        "window": Budget("WINDOW_UPDATE frames", 2000, 400, per_kib=8, per_message=4),
        "empty": Budget("empty DATA frames", 1000, 100),
        "other": Budget("frames without effect", 1000, 100, per_message=4),
    }
)
# What is earned is for the frames that go with the work, not for a flood long after it.
MOST_EARNED_BURSTS: Final = 40
_CONTROL: Final = {_RST_STREAM: "reset", _SETTINGS: "settings", _PING: "ping", _WINDOW_UPDATE: "window"}
_MESSAGES: Final = frozenset({_HEADERS, _CONTINUATION, _PUSH_PROMISE})


class FrameGuard:
    """One direction of one connection, and a look at what is sent the other way (`sent`).

    `preface`: the peer begins with the client's. `clock`: monotonic seconds. `ended`: heads and frames outside of heads
    that were whole. `sent_bytes`: DATA sent to the peer.
    """

    def __init__(
        self,
        budgets: Mapping[str, Budget],
        max_frame_bytes: int,
        clock: Callable[[], float],
        *,
        preface: bool = False,
    ) -> None:
        self._budgets = budgets
        self._max_frame_bytes = max_frame_bytes
        self._clock = clock
        self._preface = preface
        self._left = {kind: budget.burst for kind, budget in budgets.items()}
        self._at_s = clock()
        self._head_bytes = 0
        self._broken: Flood | None = None
        self.ended = 0
        self.sent_bytes = 0

    def unfinished(self, buffer: bytearray) -> bool:
        """The peer has begun something, the preface included, that it has not ended."""
        return self._preface or bool(buffer) or self._head_bytes > 0

    def turn(self, buffer: bytearray) -> int:
        """The bytes at the front of `buffer` to parse now, 0 when more must come first. They are counted, so the caller
        must take them. Raises Flood."""
        if self._broken is not None:
            raise self._broken
        if self._preface:
            if PREFACE.startswith(buffer):
                return self._greeted() if len(buffer) == len(PREFACE) else 0
            if not buffer.startswith(PREFACE):
                return len(buffer)  # the parser's to refuse
            return self._greeted()
        if self._clock() - self._at_s >= _REFILL_S:
            self._refill()
        at = 0
        for _ in range(TURN_FRAMES):
            if len(buffer) - at < _HEADER_BYTES:
                break
            length = int.from_bytes(buffer[at : at + 3])
            if length > self._max_frame_bytes:
                raise Flood(ErrorCodes.FRAME_SIZE_ERROR, "frame too large")
            end = at + _HEADER_BYTES + length
            if end > len(buffer) or (at and end > TURN_BYTES):
                break
            self._count(buffer, at, length)
            at = end
            if not self._head_bytes:
                self.ended += 1
        return at

    def _greeted(self) -> int:
        self._preface = False
        return len(PREFACE)

    def _count(self, buffer: bytearray, at: int, length: int) -> None:
        kind, flags = buffer[at + 3], buffer[at + 4]
        if kind in _MESSAGES:
            self._count_head(length, ended=bool(flags & _END_HEADERS))
        elif kind == _DATA:
            padding = 1 + buffer[at + _HEADER_BYTES] if flags & _PADDED and length else 0
            if length <= padding and not flags & _END_STREAM:
                self._spend("empty")
        else:
            acknowledges = kind in {_SETTINGS, _PING} and flags & _ACK
            if kind == _SETTINGS and acknowledges and length:
                # RFC 9113 section 6.5; h2 would call it PROTOCOL_ERROR.
                raise Flood(ErrorCodes.FRAME_SIZE_ERROR, "SETTINGS acknowledged with a payload")
            self._spend("other" if acknowledges else _CONTROL.get(kind, "other"))

    def _count_head(self, length: int, *, ended: bool) -> None:
        self._head_bytes += length
        if self._head_bytes > MAX_HEAD_BYTES:
            detail = f"A head has more than {MAX_HEAD_BYTES} bytes"
            raise Flood(ErrorCodes.ENHANCE_YOUR_CALM, "head too large", Denied("header_too_large", detail))
        if ended:
            self._head_bytes = 0
        elif not self._head_bytes:
            self._head_bytes = 1  # begun, if only with an empty frame

    def _spend(self, kind: str) -> None:
        if self._left[kind] < 1:
            self._refill()
        self._left[kind] -= 1
        if self._left[kind] < 0:
            raise self._too_many(kind)

    def _refill(self) -> None:
        now_s = self._clock()
        for kind, budget in self._budgets.items():
            # What was earned by work may stand above the burst; time alone never leads there.
            if self._left[kind] < budget.burst:
                self._left[kind] = min(budget.burst, self._left[kind] + (now_s - self._at_s) * budget.per_s)
        self._at_s = now_s

    def _too_many(self, kind: str) -> Flood:
        what = self._budgets[kind].what
        return Flood(
            ErrorCodes.ENHANCE_YOUR_CALM,
            f"too many {what}",
            Denied(
                "rate_limited",
                f"HTTP/2: more {what} than the connection's streams explain",
                remedy="Update the HTTP client, or let it use HTTP/1.1; ordinary clients stay far below.",
            ),
        )

    def sent(self, data: bytes) -> None:
        """Whole frames that go to the peer. A flood of resets that they complete is raised by the next `turn`."""
        frames = size = messages = resets = 0
        for kind, flags, length in _frames(data):
            if kind == _DATA:
                frames += 1
                size += length
            if kind in {_DATA, _HEADERS} and flags & _END_STREAM:
                messages += 1
            resets += kind == _RST_STREAM
        self.sent_bytes += size
        if frames or messages:
            for name, one in self._budgets.items():
                earned = frames * one.per_data + size / 1024 * one.per_kib + messages * one.per_message
                self._left[name] = min(self._left[name] + earned, one.burst * MOST_EARNED_BURSTS)
        try:
            for _ in range(resets):
                self._spend("reset")
        except Flood as flood:
            self._broken = flood


def _frames(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, flags and payload length of each."""
    at = len(PREFACE) if data.startswith(PREFACE) else 0
    while at + _HEADER_BYTES <= len(data):
        length = int.from_bytes(data[at : at + 3])
        yield data[at + 3], data[at + 4], length
        at += _HEADER_BYTES + length
