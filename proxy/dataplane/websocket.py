"""WebSocket between an app and an upstream, frame by frame (RFC 6455): whole messages are inspected and framed anew.

Sans-io but for the inspector's callback: bytes of one side in, bytes for both sides out. Nothing that a peer framed
is passed on as it stood. Control payloads would be a way round the inspector, so pings are answered here and never
relayed, pongs end here, and a close travels on as its code alone. No extension is offered upstream or accepted from
the client, so permessage-deflate never hides a payload: the simplest choice that is safe.
"""

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import orjson
from wsproto.frame_protocol import CloseReason, Frame, FrameProtocol, Opcode, ParseFailed

from proxy.dataplane.websocket_overlap import Overlap
from proxy.errors import Denied
from proxy.model import Inspection, Traffic
from proxy.restore import Placeholders

type Side = Literal["client", "upstream"]
type InspectMessage = Callable[[bytes, bool], Awaitable[Inspection]]
"""(payload, is_text) of one message that would go upstream -> verdict. May raise Denied."""
type RestoreMessage = Callable[[bytes, Mapping[str, str]], bytes]
"""(payload of a text message from upstream, placeholder -> original) -> payload for the client."""

# The default of the `websockets` library, both ways; realtime audio frames are far below it.
MAX_MESSAGE_BYTES: Final = 1 << 20
# RFC 6455 section 5.5: a control payload holds 125 bytes, two of them the close code.
_MAX_CLOSE_REASON_BYTES: Final = 123
# Placeholders kept for restoring on one connection; the oldest give way.
_MAX_RESTORE_ENTRIES: Final = 4096


@dataclass(frozen=True, slots=True)
class Message:
    """One whole message. A text payload is valid UTF-8."""

    payload: bytes
    is_text: bool


@dataclass(frozen=True, slots=True)
class Ping:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """`code` 1005: the peer gave none. `reason` is the peer's own text."""

    code: int
    reason: str


class Violation(Exception):
    """The peer broke RFC 6455 or a limit: close with `code`."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class Endpoint:
    """One side's frames to events and back. `side` names the peer: a client's frames must be masked, ours to an
    upstream are. Holds at most one message of `max_message_bytes` and one network read."""

    def __init__(self, side: Side, max_message_bytes: int) -> None:
        self._frames = FrameProtocol(client=side == "upstream", extensions=[])
        self._max_message_bytes = max_message_bytes
        self._parts = bytearray()
        self.closed = False  # the peer's Close has arrived
        self.close_sent = False

    def receive(self, data: bytes) -> Iterator[Message | Ping | Close]:
        """Events that `data` completes, lazily. Raises Violation; the endpoint is of no use afterwards."""
        if self.closed:
            return  # RFC 6455 section 5.5.1: nothing after a Close counts
        self._frames.receive_bytes(data)
        try:
            for frame in self._frames.received_frames():
                event = self._event(frame)
                if event is not None:
                    yield event
        except ParseFailed as failed:
            raise Violation(int(failed.code), str(failed).partition(":")[0]) from None

    def _event(self, frame: Frame) -> Message | Ping | Close | None:
        payload = frame.payload
        if isinstance(payload, tuple):
            self.closed = True
            self._parts = bytearray()
            return Close(int(payload[0]), payload[1])
        data = payload.encode() if isinstance(payload, str) else bytes(payload)
        if frame.opcode is Opcode.PING:
            return Ping(data)
        if frame.opcode is Opcode.PONG:
            return None
        if len(self._parts) + len(data) > self._max_message_bytes:
            self._parts = bytearray()
            raise Violation(CloseReason.MESSAGE_TOO_BIG, f"A message may hold {self._max_message_bytes} bytes")
        self._parts += data
        if not frame.message_finished:
            return None
        whole, self._parts = bytes(self._parts), bytearray()
        return Message(whole, frame.opcode is Opcode.TEXT)

    def message(self, message: Message) -> bytes:
        """One unfragmented frame. Raises UnicodeDecodeError for a text that is none."""
        return bytes(self._frames.send_data(message.payload.decode() if message.is_text else message.payload))

    def pong(self, payload: bytes) -> bytes:
        return bytes(self._frames.pong(payload))

    def close(self, code: int, reason: str = "") -> bytes:
        """A Close frame, once; nothing the second time. `reason` is cut to what a frame holds."""
        if self.close_sent:
            return b""
        self.close_sent = True
        if code == CloseReason.NO_STATUS_RCVD:
            return bytes(self._frames.close())
        return bytes(self._frames.close(code, fitting(reason)))


def fitting(text: str) -> str:
    """`text` cut at a word to the bytes that a close reason may hold (RFC 6455 section 5.5)."""
    raw = text.encode()
    if len(raw) <= _MAX_CLOSE_REASON_BYTES:
        return text
    return raw[: _MAX_CLOSE_REASON_BYTES - 3].decode(errors="ignore").rpartition(" ")[0] + "…"


@dataclass(frozen=True, slots=True)
class Output:
    """What to send now. `finished`: send it, then close both connections."""

    to_client: bytes = b""
    to_upstream: bytes = b""
    finished: bool = False


class WebSocketPump:
    """One connection's two sides. At most one `feed_client` and one `feed_upstream` may be under way at a time: wait
    for the result before reading on, which is also the back-pressure.

    `denied` tells why the pump itself ended the connection (None: the peers did). `traffic` counts what passed.
    """

    def __init__(
        self,
        inspect: InspectMessage,
        *,
        restore: RestoreMessage | None = None,
        placeholders: Mapping[str, str] | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._inspect = inspect
        self._restore = restore or restore_text
        self._placeholders = OrderedDict(placeholders or {})
        self._client = Endpoint("client", max_message_bytes)
        self._upstream = Endpoint("upstream", max_message_bytes)
        self._overlap = Overlap()
        self._sent_bytes = self._received_bytes = self._messages = self._findings = 0
        self._close_code: int | None = None
        self.denied: Denied | None = None
        self.finished = False

    @property
    def traffic(self) -> Traffic:
        """Payload bytes and messages that passed, findings in them, and the code that closed the connection."""
        return Traffic(self._sent_bytes, self._received_bytes, self._messages, self._findings, self._close_code)

    async def feed_client(self, data: bytes) -> Output:
        """Bytes that the client sent."""
        to_client, to_upstream = bytearray(), bytearray()
        try:
            for event in self._client.receive(data):
                if self.finished or self._upstream.close_sent:
                    break
                match event:
                    case Message():
                        to_upstream += await self._outbound(event)
                    case Ping(payload):
                        to_client += self._client.pong(payload)
                    case Close(code):
                        to_upstream += self._pass_close(self._upstream, code, "")
        except Violation as violation:
            return self._broken(violation, "client", to_client, to_upstream)
        except Denied as denied:
            return self._refused(denied, to_client, to_upstream)
        except Exception:  # noqa: BLE001 - whatever broke, the message is not sent
            return self._refused(Denied("internal"), to_client, to_upstream)
        return self._output(to_client, to_upstream)

    async def feed_upstream(self, data: bytes) -> Output:
        """Bytes that the upstream sent."""
        to_client, to_upstream = bytearray(), bytearray()
        try:
            for event in self._upstream.receive(data):
                if self.finished or self._client.close_sent:
                    break
                match event:
                    case Message():
                        to_client += self._inbound(event)
                    case Ping(payload):
                        to_upstream += self._upstream.pong(payload)
                    case Close(code, reason):
                        to_client += self._pass_close(self._client, code, reason)
        except Violation as violation:
            return self._broken(violation, "upstream", to_client, to_upstream)
        except Exception:  # noqa: BLE001 - an answer that cannot be restored is not relayed
            return self._refused(Denied("internal"), to_client, to_upstream)
        return self._output(to_client, to_upstream)

    def deny(self, denied: Denied) -> Output:
        """Ends the connection from outside (policy revoked, app killed, worker draining)."""
        return Output(finished=True) if self.finished else self._refused(denied, bytearray(), bytearray())

    def eof(self, side: Side) -> Output:
        """`side` closed its connection. Without a Close before, the other side is told 1001 (client) or 1011."""
        if self.finished:
            return Output(finished=True)
        self.finished = True
        if side == "client":
            return Output(to_upstream=self._upstream.close(CloseReason.GOING_AWAY), finished=True)
        if self._client.closed:  # it began to close; its own code answers it
            return Output(to_client=self._client.close(self._close_code or CloseReason.NORMAL_CLOSURE), finished=True)
        ended = self._client.close(CloseReason.INTERNAL_ERROR, "The upstream closed the connection")
        return Output(to_client=ended, finished=True)

    async def _outbound(self, message: Message) -> bytes:
        verdict = await self._inspect(message.payload, message.is_text)
        self._judge(verdict)
        sent = message if verdict.body is None else Message(verdict.body, message.is_text)
        await self._check_overlap(sent)
        if self.finished or self._upstream.close_sent:
            return b""  # the other side ended the connection while the inspector looked
        for placeholder, original in verdict.restore.items():
            self._remember(placeholder, original)
        framed = self._upstream.message(sent)
        self._messages += 1
        self._sent_bytes += len(sent.payload)
        return framed

    def _judge(self, verdict: Inspection) -> None:
        self._findings += len(verdict.findings)
        if verdict.action == "block":
            raise Denied(verdict.code or "pii", verdict.detail, where=verdict.where)

    async def _check_overlap(self, message: Message) -> None:
        seam = self._overlap.seam(message.payload)
        if seam is None:
            return
        verdict = await self._inspect(seam.text.encode(), True)
        crossing = seam.first_crossing(verdict.findings)
        if crossing is not None:
            self._findings += 1
            raise Denied("pii", f"{crossing.entity} is spread over successive messages")

    def _remember(self, placeholder: str, original: str) -> None:
        self._placeholders[placeholder] = original
        self._placeholders.move_to_end(placeholder)
        if len(self._placeholders) > _MAX_RESTORE_ENTRIES:
            self._placeholders.popitem(last=False)

    def _inbound(self, message: Message) -> bytes:
        payload = message.payload
        if message.is_text and self._placeholders:
            payload = self._restore(payload, self._placeholders)
        self._messages += 1
        self._received_bytes += len(payload)
        return self._client.message(Message(payload, message.is_text))

    def _pass_close(self, other: Endpoint, code: int, reason: str) -> bytes:
        self._close_code = self._close_code or code
        return other.close(code, reason)

    def _broken(self, violation: Violation, side: Side, to_client: bytearray, to_upstream: bytearray) -> Output:
        if side == "client":
            code = "too_large" if violation.code == CloseReason.MESSAGE_TOO_BIG else "malformed"
            self.denied = Denied(code, f"WebSocket: {violation.detail}")
            codes = (violation.code, int(CloseReason.GOING_AWAY))
        else:
            self.denied = Denied("upstream_malformed", f"WebSocket: {violation.detail}")
            codes = (int(CloseReason.INTERNAL_ERROR), violation.code)
        return self._end(*codes, to_client, to_upstream)

    def _refused(self, denied: Denied, to_client: bytearray, to_upstream: bytearray) -> Output:
        self.denied = denied
        return self._end(int(CloseReason.POLICY_VIOLATION), int(CloseReason.GOING_AWAY), to_client, to_upstream)

    def _end(self, client_code: int, upstream_code: int, to_client: bytearray, to_upstream: bytearray) -> Output:
        if self.finished:
            return Output(finished=True)
        self.finished = True
        self._close_code = client_code
        self._placeholders.clear()
        self._overlap = Overlap()
        text = f"{self.denied.code}: {self.denied.detail}. {self.denied.remedy}" if self.denied else ""
        to_client += self._client.close(client_code, text)
        # The upstream learns nothing of our policy, nor of the data that offended it.
        to_upstream += self._upstream.close(upstream_code)
        return Output(bytes(to_client), bytes(to_upstream), finished=True)

    def _output(self, to_client: bytearray, to_upstream: bytearray) -> Output:
        if self.finished:  # ended from the other side meanwhile: nothing may follow its Close frames
            return Output(finished=True)
        self.finished = self._client.closed and self._upstream.closed
        return Output(bytes(to_client), bytes(to_upstream), self.finished)


# Some encoders write < and > as escapes (Go's encoding/json does).
_PLACEHOLDER: Final = re.compile(rb"(?:<|\\u003[cC])([A-Z][A-Z0-9_]*_[a-z2-7]{8})(?:>|\\u003[eE])")


def restore_text(payload: bytes, placeholders: Mapping[str, str]) -> bytes:
    """Puts originals back into one text message; inside JSON they are escaped as JSON strings are."""
    words = {text: original for text, original in placeholders.items() if not text.startswith("<")}
    if not words and not _PLACEHOLDER.search(payload):
        return payload
    in_json = _is_json(payload)
    if words:
        payload = Placeholders(words).replace(payload, 1 if in_json else 0)

    def original(match: re.Match[bytes]) -> bytes:
        value = placeholders.get(f"<{match[1].decode()}>")
        if value is None or (match[0][:1] == b"\\" and not in_json):
            return match[0]
        return orjson.dumps(value)[1:-1] if in_json else value.encode()

    return _PLACEHOLDER.sub(original, payload)


def _is_json(payload: bytes) -> bool:
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        return False
    return True
