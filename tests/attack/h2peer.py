"""A client that speaks HTTP/2 frame by frame, whatever a library would refuse to write, and judges what comes back."""

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import hpack
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

WAIT_S: Final = 5.0
type Fields = list[tuple[str, str]]


class Unexpected(AssertionError):
    """The proxy did not do what the description wants."""


def frame_bytes(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame as its octets, for those that a library would not write."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


@dataclass
class Peer:
    """The client's end. `authority`: of a legal request; `path`: holds a token that must not reach an upstream."""

    sock: socket.socket
    authority: str
    path: str
    seen: list[Frame] = field(default_factory=list)
    ended: bool = False
    _buffer: bytearray = field(default_factory=bytearray)
    _encoder: hpack.Encoder = field(default_factory=hpack.Encoder)

    # -- sending

    def send(self, *frames: Frame | bytes) -> None:
        """Frames as they are. A proxy that has already ended the connection is no error of ours."""
        whole = b"".join(one if isinstance(one, bytes) else one.serialize() for one in frames)
        with contextlib.suppress(OSError):
            self.sock.sendall(whole)

    def preface(self, settings: dict[int, int] | None = None) -> None:
        """Our preface, and the proxy's SETTINGS acknowledged."""
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SettingsFrame(0, settings=settings or {}))
        self.until(lambda one: isinstance(one, SettingsFrame) and "ACK" not in one.flags, "SETTINGS")
        self.send(SettingsFrame(0, flags=["ACK"]))

    def fields(self, **changes: str | None) -> Fields:
        """A legal GET; a name with None is left out."""
        whole = {"method": "GET", "scheme": "https", "authority": self.authority, "path": self.path} | changes
        return [(f":{name}", value) for name, value in whole.items() if value is not None]

    def block(self, fields: Fields) -> bytes:
        """The fields, compressed."""
        return bytes(self._encoder.encode(fields, huffman=False))

    def headers(self, stream: int, fields: Fields | None = None, *, end: bool = True, whole: bool = True) -> Frame:
        """HEADERS with END_STREAM and END_HEADERS as said."""
        flags = ["END_STREAM"] * end + ["END_HEADERS"] * whole
        return HeadersFrame(stream, self.block(fields or self.fields()), flags=flags)

    # -- receiving

    def until(self, wanted: Callable[[Frame], bool], what: str) -> Frame:
        """The first frame that is wanted, from now on; what came before it stays in `seen`."""
        at = 0
        until_s = time.monotonic() + WAIT_S
        while True:
            while at < len(self.seen):
                at += 1
                if wanted(self.seen[at - 1]):
                    return self.seen[at - 1]
            if self.ended or time.monotonic() > until_s:
                raise Unexpected(f"no {what}; {'the end' if self.ended else 'nothing'} after {self.seen}")
            self._read(until_s)

    def _read(self, until_s: float) -> None:
        self.sock.settimeout(max(until_s - time.monotonic(), 0.01))
        try:
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            data = b""
        self.ended = not data
        self._buffer += data
        while len(self._buffer) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(bytes(self._buffer[:9])))
            if len(self._buffer) < 9 + length:
                return
            frame.parse_body(memoryview(bytes(self._buffer[9 : 9 + length])))
            del self._buffer[: 9 + length]
            self.seen.append(frame)

    # -- judging

    def connection_error(self, *codes: int) -> None:
        """GOAWAY with one of the codes, or the end of the connection."""
        try:
            frame = self.until(lambda one: isinstance(one, GoAwayFrame), "GOAWAY")
        except Unexpected:
            if self.ended:
                return
            raise
        if not isinstance(frame, GoAwayFrame) or frame.error_code not in codes:
            raise Unexpected(f"{frame}, expected a code of {codes}")

    def stream_error(self, stream: int, *codes: int) -> None:
        """RST_STREAM of the stream with one of the codes, or a connection error."""

        def over(one: Frame) -> bool:
            return isinstance(one, GoAwayFrame) or (isinstance(one, RstStreamFrame) and one.stream_id == stream)

        try:
            frame = self.until(over, f"RST_STREAM of {stream} or GOAWAY")
        except Unexpected:
            if self.ended:
                return
            raise
        code = frame.error_code if isinstance(frame, GoAwayFrame | RstStreamFrame) else None
        if code not in codes:
            raise Unexpected(f"{frame}, expected a code of {codes}")

    def answered(self, stream: int) -> None:
        """Response HEADERS of the stream."""
        self.until(lambda one: isinstance(one, HeadersFrame) and one.stream_id == stream, f"answer on {stream}")

    def data(self, stream: int, nth: int = 0) -> int:
        """The length of the nth DATA frame of the stream."""

        def ours() -> list[DataFrame]:
            return [one for one in self.seen if isinstance(one, DataFrame) and one.stream_id == stream and one.data]

        self.until(lambda _: len(ours()) > nth, f"DATA {nth + 1} on {stream}")
        return len(ours()[nth].data)

    def pong(self) -> None:
        """The connection is alive and has worked off all that was sent before."""
        self.send(PingFrame(0, opaque_data=b"h2spec!!"))
        self.until(lambda one: isinstance(one, PingFrame) and "ACK" in one.flags, "PING acknowledged")
