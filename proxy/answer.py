"""What stands between the upstream's answer and the client: restores, meters, captures; sans-io.

Bytes that need no change are given out as they came. What must be read is decoded; what is only metered is decoded on
the side, so that the client still gets the upstream's own bytes.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.bodies.sse import Event, EventSplitter, EventTooLarge, parse_event
from proxy.decoding import StreamDecoder, answer_codings
from proxy.errors import Denied
from proxy.metering import estimated_output_tokens, usage_of
from proxy.model import Headers, ResponseHead, Usage
from proxy.plain_answer import PlainReader
from proxy.providers import NOTHING, Call, Provider, Reading, Tally
from proxy.providers._call import cache_directives
from proxy.restore import JsonRestorer, Placeholders, TextRestorer
from proxy.restore_stream import EventRestorer

# The largest event of a stream: a generated image in base64 is some MiB.
MAX_EVENT_BYTES = 16 << 20
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
# Fields that speak of the exact bytes (RFC 9530, RFC 9110 section 8.8.3), wrong once these change.
_OF_THE_BYTES = frozenset({b"content-md5", b"digest", b"content-digest", b"repr-digest", b"etag", b"accept-ranges"})


class AnswerTap:
    """One answer on its way to the client: `feed` and `finish` give the client's bytes, `abort` ends it early.

    After `finish`: `usage` (None when nothing was billed: no provider, or an error status), `complete` (the protocol's
    own end was seen), `cacheable`, `captured` (the decoded payload before restore, None when larger than the limit).
    `keeps_length`: the client gets exactly the upstream's bytes. Build it with `create`.
    """

    __slots__ = (
        "_capture_room", "_captured", "_codings", "_decoder", "_head", "_pipe", "_replaced", "_tally", "call",
        "complete", "keeps_length", "usage",
    )  # fmt: skip

    def __init__(
        self,
        head: ResponseHead,
        call: Call | None,
        pipe: "_Pipe | None",
        codings: tuple[str, ...],
        capture_limit_bytes: int,
    ) -> None:
        self.call = call
        self.usage: Usage | None = None
        self.complete = False
        self.keeps_length = pipe is None or pipe.keeps_bytes
        self._head = head
        self._pipe = pipe
        self._replaced = False
        self._codings = codings
        self._decoder = StreamDecoder(codings) if pipe is not None and codings else None
        self._capture_room = capture_limit_bytes
        self._captured: list[bytes] | None = [] if capture_limit_bytes and pipe is not None else None
        self._tally = pipe.tally if pipe is not None else None

    @classmethod
    def create(
        cls,
        provider: Provider | None,
        call: Call | None,
        head: ResponseHead,
        restore: Mapping[str, str],
        *,
        capture_limit_bytes: int,
    ) -> "AnswerTap":
        """The tap for one answer. An answer in a coding that cannot be undone passes as it is, metered by estimate."""
        if call is None and not restore:
            return cls(head, None, None, (), capture_limit_bytes)
        codings = answer_codings(head.all(b"content-encoding"))
        media_type = (head.first(b"content-type") or b"").partition(b";")[0].strip().lower()
        placeholders = Placeholders(restore)
        pipe: _Pipe | None = None
        if provider is not None and call is not None:
            readable = codings is not None and 200 <= head.status < 300
            if media_type == b"text/event-stream":
                pipe = _Events(call, placeholders)
            else:
                pipe = _Plain(call, placeholders, media_type, readable=readable)
        elif placeholders:
            pipe = _Plain(None, placeholders, media_type, readable=False)
        if codings is None and pipe is not None:
            pipe = _Sealed(pipe.tally)
        billed = call if 200 <= head.status < 300 else None
        return cls(head, billed, pipe, codings or (), capture_limit_bytes)

    @property
    def cacheable(self) -> bool:
        """Whether a later client may get this answer: whole, naturally ended, without tool calls and cookies, and not
        forbidden by the upstream (`no-store`; `private` is no reason, since entries belong to one app and one key)."""
        tally, call = self._tally, self.call
        if tally is None or call is None or not self.complete or call.no_store or tally.failed or tally.tool_calls:
            return False
        if self._head.status != 200 or self._head.first(b"set-cookie") is not None:
            return False
        if "no-store" in cache_directives(self._head):
            return False
        natural = call.provider.natural_ends
        return len(tally.finishes) == call.choices and all(end in natural for end in tally.finishes.values())

    @property
    def captured(self) -> bytes | None:
        return None if self._captured is None else b"".join(self._captured)

    @property
    def output_tokens_seen(self) -> int:
        """Output tokens so far: as reported, or estimated from the text seen."""
        if self._tally is None:
            return 0
        return max(self._tally.output_tokens or 0, estimated_output_tokens(self._tally))

    def headers(self, head: ResponseHead) -> Headers:
        """The client's fields: without those of framing, coding and digest when the bytes may change."""
        if self.keeps_length:
            return head.headers
        uncoded = self._replaced or self._decoder is not None
        dropped = _FRAMING | _OF_THE_BYTES | ({b"content-encoding"} if uncoded else set())
        if dropped.isdisjoint(head.names):
            return head.headers
        return tuple([field for field, name in zip(head.headers, head.names, strict=True) if name not in dropped])

    def replaced(self) -> None:
        """What will be fed is another body than the upstream's: without coding, its length and digests unknown."""
        self._replaced, self.keeps_length, self._decoder = True, False, None

    def feed(self, data: bytes) -> bytes:
        """Bytes for the client. Denied: upstream_malformed when a body that must be read cannot be."""
        pipe = self._pipe
        if pipe is None:
            return data
        payload = data
        if self._decoder is not None:
            payload = self._decoded(data, pipe)
        if self._captured is not None:
            self._capture(payload)
        out = pipe.feed(payload)
        return data if pipe.keeps_bytes else out

    def finish(self) -> bytes:
        """The last bytes for the client, at the proper end of the body."""
        pipe = self._pipe
        if pipe is None:
            self.complete = True
            return b""
        out = pipe.finish()
        self.complete = pipe.tally.ended
        if self.call is not None:
            self.usage = usage_of(self.call, pipe.tally)
        return b"" if pipe.keeps_bytes else out

    def abort(self) -> Usage | None:
        """Ends the answer early. Usage of what was seen, None when nothing is billed."""
        self.complete = False
        if self.call is None or self._tally is None:
            return None
        if self.usage is None:
            if self._pipe is not None:
                self._pipe.cut()
            self.usage = usage_of(self.call, self._tally)
        return self.usage

    def _decoded(self, data: bytes, pipe: "_Pipe") -> bytes:
        try:
            return self._decoder.feed(data) if self._decoder else data
        except Denied:
            if not pipe.keeps_bytes:
                raise
            # Nothing needs changing: the client may make of it what it can, and usage is estimated.
            self._decoder, self._captured = StreamDecoder(()), None
            return b""

    def _capture(self, payload: bytes) -> None:
        self._capture_room -= len(payload)
        if self._captured is None or self._capture_room < 0:
            self._captured = None
        else:
            self._captured.append(payload)


class _Pipe:
    """How one kind of body is read. `keeps_bytes`: its output is its input, so the original bytes are relayed."""

    __slots__ = ("keeps_bytes", "tally")

    def __init__(self, *, keeps_bytes: bool) -> None:
        self.tally = Tally()
        self.keeps_bytes = keeps_bytes

    def feed(self, data: bytes) -> bytes:
        raise NotImplementedError

    def finish(self) -> bytes:
        raise NotImplementedError

    def cut(self) -> None:
        """The body ended early: takes what can be told from the part that came."""


class _Sealed(_Pipe):
    """A body in an unknown coding: relayed, not read."""

    __slots__ = ()

    def __init__(self, tally: Tally) -> None:
        super().__init__(keeps_bytes=True)
        self.tally = tally

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


class _Plain(_Pipe):
    """A body that is not an event stream."""

    __slots__ = ("_reader", "_restorer")

    def __init__(self, call: Call | None, placeholders: Placeholders, media_type: bytes, *, readable: bool) -> None:
        super().__init__(keeps_bytes=not placeholders)
        self._reader = PlainReader(call, self.tally) if call is not None and readable else None
        self._restorer = _restorer_for(call, placeholders, media_type) if placeholders else None

    def feed(self, data: bytes) -> bytes:
        if self._reader is not None:
            self._reader.feed(data)
        return self._restorer.feed(data) if self._restorer is not None else data

    def finish(self) -> bytes:
        if self._reader is not None:
            self._reader.finish()
        return self._restorer.finish() if self._restorer is not None else b""

    def cut(self) -> None:
        if self._reader is not None:
            self._reader.cut()


def _restorer_for(call: Call | None, placeholders: Placeholders, media_type: bytes) -> JsonRestorer | TextRestorer:
    if media_type == b"application/json" or media_type.endswith((b"+json", b"ndjson", b"jsonl")):
        if call is None:
            return JsonRestorer(placeholders)
        return JsonRestorer(placeholders, call.provider.nested_keys(call), call.provider.opaque_keys)
    # Events of an unknown API carry JSON as a rule; escaped once, an original cannot break an event's lines either.
    return TextRestorer(placeholders, 1 if media_type == b"text/event-stream" else 0)


class _Events(_Pipe):
    """An event stream of a known API."""

    __slots__ = ("_call", "_hides", "_restorer", "_splitter")

    def __init__(self, call: Call, placeholders: Placeholders) -> None:
        hides = call.can_ask_usage and not call.wants_usage
        super().__init__(keeps_bytes=not placeholders and not hides)
        self._call = call
        self._hides = hides
        self._splitter = EventSplitter(MAX_EVENT_BYTES)
        self._restorer = EventRestorer(placeholders, call) if placeholders else None

    def feed(self, data: bytes) -> bytes:
        try:
            events = self._splitter.feed(data)
        except EventTooLarge as error:
            raise Denied("upstream_malformed", f"The answer's stream is not usable: {error}") from None
        if len(events) == 1:
            return self._event(events[0])
        return b"".join([self._event(event) for event in events])

    def finish(self) -> bytes:
        # A last event without its blank line: some servers end so, and so does every stream that is cut.
        rest = self._splitter.rest()
        last = self._event(parse_event(rest)) if rest else b""
        return last + (self._restorer.flush() if self._restorer is not None else b"")

    def _event(self, event: Event) -> bytes:
        fields, reading = self._read(event.data)
        if self._hides and fields is not None and self._call.provider.is_usage_only(fields):
            return b""
        return self._restorer.event(event, fields, reading) if self._restorer is not None else event.raw

    def _read(self, data: bytes | None) -> tuple[dict[str, Any] | None, Reading]:
        if data == b"[DONE]":
            self.tally.ended = True
        if data is None or not data.startswith(b"{"):
            return None, NOTHING
        try:
            fields: dict[str, Any] = orjson.loads(data)
        except orjson.JSONDecodeError:
            return None, NOTHING
        return fields, self._call.provider.read_event(fields, self._call, self.tally)
