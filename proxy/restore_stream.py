"""Restores placeholders that a stream spreads over several events.

Text belongs to a channel (choice, content block, tool call); its tail is held back while it may be the beginning of a
placeholder, and comes out with the channel's next event or before the event that ends it. An event that needs no
change passes as the bytes it came in.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from proxy.bodies.sse import Event
from proxy.providers import Call, Delta, Reading
from proxy.restore import JsonRestorer, Placeholders, json_text

_TERMINATOR = re.compile(rb"(?:\r\n|\n|\r)+\Z")


class EventRestorer:
    """Restores in the events of one answer, fed in order."""

    __slots__ = ("_before", "_call", "_held", "_nested", "_placeholders")

    def __init__(self, placeholders: Placeholders, call: Call) -> None:
        self._placeholders = placeholders
        self._call = call
        self._nested = call.provider.nested_keys(call)
        # Channel -> what is held back, and the event and delta it came with.
        self._held: dict[tuple[Any, ...], tuple[bytes, Event, Mapping[str, Any], Delta]] = {}
        # Channel -> the last bytes that went out, as far as stand-ins need them.
        self._before: dict[tuple[Any, ...], bytes] = {}

    def event(self, event: Event, fields: Mapping[str, Any] | None, reading: Reading) -> bytes:
        """The bytes to give out for one event. `fields` is its parsed data, None when that is no JSON object."""
        data = event.data
        if not self._held and (data is None or not (self._placeholders.may_hold(data) or _ends_in_escape(reading))):
            return event.raw
        if fields is None or data is None:
            # The stream's own end (`[DONE]`); comments may come at any time and end nothing.
            return (self.flush() if data is not None else b"") + event.raw
        edits = {}
        for delta in reading.deltas:
            text = delta.text.encode("utf-8", "surrogatepass")
            new = self._advance(event, fields, delta, text, ends=reading.closes_all or delta.group in reading.closes)
            if new != text or self._placeholders.words is not None:  # decided here, where the channel's past is known
                edits[delta.path] = json_text(new.decode("utf-8", "surrogatepass"))
        flushed = self._flush(reading)
        json = JsonRestorer(self._placeholders, self._nested, self._call.provider.opaque_keys, edits)
        restored = json.feed(data) + json.finish()
        return flushed + (event.raw if restored == data else event.with_data(restored))

    def flush(self) -> bytes:
        """Events for all that is still held back."""
        return self._flush(Reading(closes_all=True))

    def _advance(self, event: Event, fields: Mapping[str, Any], delta: Delta, text: bytes, *, ends: bool) -> bytes:
        """What the channel gives out with this delta; keeps its tail."""
        channel = (*delta.group, delta.name)
        held = self._held.pop(channel, None)
        whole = held[0] + text if held else text
        before = self._before.pop(channel, b"")
        cut = len(whole) if ends else self._placeholders.split(whole, before)
        if cut < len(whole):
            self._held[channel] = (whole[cut:], event, fields, delta)
        if self._placeholders.words is not None and not ends:
            self._before[channel] = self._placeholders.context(before, whole[:cut])
        return self._placeholders.replace(whole[:cut], 1 if delta.nested else 0, before)

    def _flush(self, reading: Reading) -> bytes:
        out = []
        for channel, (text, event, fields, delta) in list(self._held.items()):
            if reading.closes_all or delta.group in reading.closes:
                del self._held[channel]
                last = self._placeholders.replace(text, 1 if delta.nested else 0, self._before.pop(channel, b""))
                again = self._call.provider.delta_event(fields, delta, last.decode("utf-8", "replace"))
                out.append(_render(event, orjson.dumps(again)))
        for channel in [channel for channel in self._before if reading.closes_all or channel[:-1] in reading.closes]:
            del self._before[channel]
        return b"".join(out)


def _ends_in_escape(reading: Reading) -> bool:
    """Whether a delta ends in a backslash escape that may yet become an escaped bracket."""
    return any("\\" in delta.text[-8:] for delta in reading.deltas)


def _render(like: Event, data: bytes) -> bytes:
    """An event named and framed like another."""
    end = _TERMINATOR.search(like.raw)
    line = b"\r\n" if end and end[0].startswith(b"\r\n") else b"\r" if end and end[0].startswith(b"\r") else b"\n"
    name = b"event: %b%b" % (like.name, line) if like.name else b""
    return b"%bdata: %b%b%b" % (name, data, line, line)
