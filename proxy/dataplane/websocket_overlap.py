"""Text that runs on from one WebSocket message into the next: what each alone would not show the inspector.

A secret cut in two passes message by message. The end of each text that left is kept per place (`$.delta` of JSON
messages, or the whole of plain ones), joined with the start of the next text at the same place, and inspected again.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from proxy.model import Finding

# Longer than every recogniser's longest one-line pattern (keys, IBAN, cards, tokens), twice over.
_WINDOW_CHARS: Final = 256
_MAX_PLACES: Final = 64
_SEPARATOR: Final = "\n\n"
# Keeps the joined text from being read as JSON, which would move the offsets.
_PREFIX: Final = "|\n"


@dataclass(frozen=True, slots=True)
class Seam:
    """`text` to inspect, and the character offsets in it where one message ends and the next begins."""

    text: str
    boundaries: tuple[int, ...]

    def first_crossing(self, findings: Sequence[Finding]) -> Finding | None:
        """The first enforced finding that lies on both sides of a boundary, or None."""
        for finding in findings:
            if finding.action == "allow" or finding.mode == "report":
                continue
            if any(finding.start < boundary < finding.end for boundary in self.boundaries):
                return finding
        return None


class Overlap:
    """The recent ends of what one side sent; at most 64 places of 256 characters."""

    def __init__(self) -> None:
        self._tails: OrderedDict[str, str] = OrderedDict()

    def seam(self, payload: bytes) -> Seam | None:
        """What to inspect between the earlier messages and this one (about to be sent), or None. Remembers its end."""
        text, boundaries = _PREFIX, []
        for place, value in _texts(payload):
            tail = self._tails.get(place, "")
            if tail:
                text += tail
                boundaries.append(len(text))
                text += value[:_WINDOW_CHARS] + _SEPARATOR
            self._tails[place] = (tail + value)[-_WINDOW_CHARS:]
            self._tails.move_to_end(place)
        while len(self._tails) > _MAX_PLACES:
            self._tails.popitem(last=False)
        return Seam(text, tuple(boundaries)) if boundaries else None


def _texts(payload: bytes) -> Iterator[tuple[str, str]]:
    """(place, text) of each string in a JSON message, or of the whole of any other text.

    Numbers are left out: counters and times, joined, look like account numbers in almost every protocol.
    """
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        text = payload.decode("utf-8", "replace")
        yield "", text
        return
    if not isinstance(value, dict | list):
        yield "", payload.decode("utf-8", "replace")
        return
    yield from _leaves(value)


def _leaves(root: object) -> Iterator[tuple[str, str]]:
    # Array positions are left out: the next part of a text often stands at the next position.
    pending: list[tuple[str, object]] = [("$", root)]
    while pending:
        place, value = pending.pop()
        match value:
            case dict():
                pending += [(f"{place}.{key}", item) for key, item in reversed(value.items())]
            case list():
                pending += [(f"{place}[]", item) for item in reversed(value)]
            case str():
                yield place, value
