"""A collected event stream as a document that can be inspected: one JSON text a line, each channel's text in one piece.

A stream spreads every value over many events, where nobody would find it. As the answer is held whole anyway, the text
of a channel (choice, content block, tool call) is put into its first event, and the later ones keep empty texts.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import orjson

from proxy.bodies.sse import EventSplitter, parse_event
from proxy.errors import Denied
from proxy.providers import NOTHING, Call, Delta, Tally
from proxy.restore import JsonRestorer, Placeholders, json_text
from proxy.values import dataclass

# What an event may be called: the client's own names, no place for data.
_NAME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_NOTHING_TO_RESTORE: Final = Placeholders({})


@dataclass(frozen=True, slots=True)
class CollectedEvents:
    """The events that carry data. Comments and other fields are left behind: nobody inspected them, and they mean
    nothing once the stream is whole. `lines`: the data as it came, as JSON; `whole`: with whole texts; `wrapped`: whose
    data is no JSON and stands as a string."""

    names: tuple[bytes, ...]
    wrapped: tuple[bool, ...]
    lines: tuple[bytes, ...]
    whole: tuple[bytes, ...]

    @classmethod
    def read(cls, body: bytes, call: Call | None) -> "CollectedEvents":
        """`body` is the stream without content coding; with `call` its API tells which texts belong together."""
        splitter = EventSplitter(len(body) + 1)
        events = [*splitter.feed(body), parse_event(splitter.rest())]
        held = [(event.name if _NAME.fullmatch(event.name) else b"", event.data) for event in events]
        names = tuple(name for name, data in held if data is not None)
        read = [_line(data) for _, data in held if data is not None]
        lines = tuple(line for line, _ in read)
        wrapped = tuple(no_json for _, no_json in read)
        return cls(names, wrapped, lines, tuple(_gathered(lines, call)) if call is not None else lines)

    @property
    def document(self) -> bytes:
        """NDJSON."""
        return b"\n".join(self.whole)

    def rendered(self, document: bytes | None) -> bytes:
        """The stream for the client: as it came, or with the lines of a changed `document`. Denied: response_blocked
        when that has not a line for every event."""
        lines = self.lines if document is None else document.split(b"\n")
        if len(lines) != len(self.names):
            raise Denied("response_blocked", "What was taken out of the answer's stream left it unreadable")
        return b"".join(map(_event, self.names, lines, self.wrapped))


def _line(data: bytes) -> tuple[bytes, bool]:
    """The data as one line of JSON: itself, or as a string (`[DONE]`), which is then True."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return b'"%b"' % json_text(data.decode("utf-8", "replace")), True
    return data.replace(b"\n", b" ").replace(b"\r", b" "), False


def _event(name: bytes, line: bytes, wrapped: bool) -> bytes:
    data = orjson.loads(line).encode("utf-8", "replace") if wrapped else line
    named = b"event: %b\n" % name if name else b""
    return named + b"".join(b"data: %b\n" % part for part in data.split(b"\n")) + b"\n"


def _gathered(lines: Sequence[bytes], call: Call) -> list[bytes]:
    tally = Tally()
    readings = [_deltas(line, call, tally) for line in lines]
    texts: dict[tuple[Any, ...], list[str]] = {}
    for deltas in readings:
        for delta in deltas:
            texts.setdefault((*delta.group, delta.name), []).append(delta.text)
    out = []
    for line, deltas in zip(lines, readings, strict=True):
        edits = {delta.path: json_text("".join(_taken(texts, delta))) for delta in deltas}
        json = JsonRestorer(_NOTHING_TO_RESTORE, edits=edits)
        out.append(json.feed(line) + json.finish() if edits else line)
    return out


def _taken(texts: dict[tuple[Any, ...], list[str]], delta: Delta) -> list[str]:
    """All of the channel's text the first time, then nothing."""
    channel = (*delta.group, delta.name)
    found = texts[channel]
    texts[channel] = []
    return found


def _deltas(line: bytes, call: Call, tally: Tally) -> tuple[Delta, ...]:
    fields = orjson.loads(line)
    reading = call.provider.read_event(fields, call, tally) if isinstance(fields, dict) else NOTHING
    return reading.deltas
