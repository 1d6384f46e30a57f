"""Server-sent events, sans-io, every byte kept (WHATWG HTML section 9.2.6): LF, CR and CRLF, comments, multi-line data.

Feed bytes, get whole events; an event's `raw` bytes joined in order are the input, so what is not understood can be
passed on as it came.
"""

import re

from proxy.values import dataclass

# After LF or CRLF a lone CR at the end of the buffer is half a line end: the LF belongs to the same event. After a CR
# it ends the event at once, since a stream framed by CR alone may pause there.
_BLANK_LINE = re.compile(rb"(?:\r\n|(?<!\r)\n)(?:\r\n|\n|\r(?=[^\n]))|\r(?!\n)(?>\r\n|\n|\r)")
_LINE = re.compile(rb"\r\n(?:\r\n|\n|\r(?=[^\n]))|(?>(?<!\r)\n|\r(?!\n))(?>\r\n|\n|\r)")
_LINE = re.compile(rb"([^\r\n]*)(\r\n|\n|\r|\Z)")
_DATA_FIELD = re.compile(rb"(?:\xef\xbb\xbf)?data(?:: ?|\Z)")
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """One event exceeds the limit. Holds no content."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `data`: its data lines joined by LF, None when it has none (comment, keep-alive)."""

    raw: bytes
    name: bytes
    data: bytes | None

    def with_data(self, data: bytes) -> bytes:
        """The event's bytes with other data of as many lines; all other lines and the line ends stay."""
        if self.data and self.raw.count(self.data) == 1:
            return self.raw.replace(self.data, data)
        lines = iter(data.split(b"\n"))
        out = []
        for text, end in _LINE.findall(self.raw):
            prefix = _DATA_FIELD.match(text)
            out.append((prefix[0] + next(lines, b"") if prefix else text) + end)
        return b"".join(out)


class EventSplitter:
    """Cuts a byte stream into events. `max_event_bytes` bounds what is kept while an event is incomplete."""

    __slots__ = ("_chunks", "_max_event_bytes", "_size")

    def __init__(self, max_event_bytes: int) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self._max_event_bytes = max_event_bytes

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. EventTooLarge when one grows past the limit."""
        if self._chunks:
            # Two line ends of up to four bytes may straddle the seam; a long event is joined once, at its end.
            seam = b"".join(self._chunks[-3:])[-3:]
            if not _BLANK_LINE.search(seam + data):
                self._keep(data)
                return []
            data = b"".join((*self._chunks, data))
        events = []
        start = max(0, self._size - 3)
        self._chunks, self._size = [], 0
        cut = 0
        while found := _BLANK_LINE.search(data, start):
            start = found.end()
            events.append(parse_event(data[cut:start]))
            cut = start
        if cut < len(data):
            self._keep(data[cut:])
        return events

    def _keep(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        if self._size > self._max_event_bytes:
            raise EventTooLarge(f"an event is larger than {self._max_event_bytes} bytes")

    def rest(self) -> bytes:
        """What came after the last whole event."""
        rest = b"".join(self._chunks)
        self._chunks, self._size = [], 0
        return rest


def parse_event(raw: bytes) -> Event:
    """Reads one event's fields. Fields other than `event` and `data` are left to the reader of `raw`."""
    name = b""
    data: list[bytes] = []
    for line in raw.removeprefix(_BOM).splitlines():
        if line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            name = line[6:].strip()
        elif line == b"data":
            data.append(b"")
    return Event(raw, name, b"\n".join(data) if data else None)
