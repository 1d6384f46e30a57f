"""Other readings of a text: what it says once an encoding or a disguise is taken off. One module per reading.

Each module exports `VIEW`: a pure function from a text to its readings, empty when there is nothing to take off (the
usual case, which must cost next to nothing). Findings in a reading are mapped back by its `span`.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from proxy.bodies.offsets import Piece, substitute

_MARGIN_CHARS: Final = 96
"""What stands around a decoded piece in its reading: more than a value and its context words take."""

_LEAST_CHARS: Final = 5
"""No encoded value is shorter: `4.11e15` is the shortest way to write a card number."""

MAX_READINGS: Final = 20_000
"""Of one text. Each costs a call into the detector; a 4 MiB list of encoded rows has some 10,000."""


@dataclass(frozen=True, slots=True)
class Reading:
    """`text` as another reader would see it. `span` maps a span of `text` to the source.

    `whole`: the source span is an encoded run, which can only be replaced as a whole. `entities`: only these are
    believed in this reading, because its guess is borne out by their checksum or form; None: all. `cut`: `text` starts
    or ends inside the source, so that a finding at that edge may be a part of something else.
    """

    text: str
    span: Callable[[int, int], tuple[int, int]]
    whole: bool = False
    entities: frozenset[str] | None = None
    cut: tuple[bool, bool] = (False, False)

    def believes(self, entity: str, start: int, end: int) -> bool:
        """True when a finding of `entity` at `start:end` of the text counts."""
        if self.entities is not None and entity not in self.entities:
            return False
        return not (self.cut[0] and start == 0) and not (self.cut[1] and end == len(self.text))


type View = Callable[[str], Sequence[Reading]]


class TooManyReadings(Exception):
    """A text has more other readings than may be looked at."""


@cache
def views() -> tuple[View, ...]:
    """All views of this package, by module name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}").VIEW for name in names)


def readings(text: str, max_depth: int = 5) -> list[Reading]:
    """Every other reading of `text`, and the readings of those, `max_depth` deep; each text once.

    Raises TooManyReadings.
    """
    if len(text) < _LEAST_CHARS and text.isascii():
        return []
    out: list[Reading] = []
    seen = {text}
    layer = [Reading(text, same)]
    for _ in range(max_depth):
        layer = [deeper for reading in layer for deeper in _next(reading, seen)]
        if not layer:
            break
        out += layer
        if len(out) > MAX_READINGS:
            raise TooManyReadings
    return out


def _next(outer: Reading, seen: set[str]) -> list[Reading]:
    found = []
    for view in views():
        for inner in view(outer.text):
            if inner.text not in seen or inner.whole:
                seen.add(inner.text)
                found.append(_inside(outer, inner))
    return found


def _inside(outer: Reading, inner: Reading) -> Reading:
    if outer.span is same:
        return inner

    def span(start: int, end: int) -> tuple[int, int]:
        return outer.span(*inner.span(start, end))

    entities = inner.entities if outer.entities is None else outer.entities
    return Reading(inner.text, span, outer.whole or inner.whole, entities, inner.cut)


def same(start: int, end: int) -> tuple[int, int]:
    """The map of a text to itself."""
    return start, end


def constant(start: int, end: int) -> Callable[[int, int], tuple[int, int]]:
    """The map of a reading that can only be replaced as a whole."""

    def span(_start: int, _end: int) -> tuple[int, int]:
        return start, end

    return span


def replaced(
    pattern: re.Pattern[str],
    text: str,
    decode: Callable[[re.Match[str]], Iterator[Piece] | tuple[Piece, ...]],
    entities: frozenset[str] | None = None,
    spans: Iterable[tuple[int, int]] | None = None,
) -> Iterator[Reading]:
    """The text with each match decoded. Of a long text only the surroundings of matches: the rest reads as before.

    `spans`: those of the matches that make a difference, where not all do.
    """
    for start, end in _stretches(text, (m.span() for m in pattern.finditer(text)) if spans is None else spans):
        plain, offsets = substitute(pattern, text[start:end], decode)
        where = offsets.shifted(start).span if start else offsets.span
        yield Reading(plain, where, entities=entities, cut=(start > 0, end < len(text)))


def _stretches(text: str, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    begin = end = -1
    for first, last in spans:
        if begin >= 0 and first - end <= 2 * _MARGIN_CHARS:
            end = last
            continue
        if begin >= 0:
            yield _widened(text, begin, end)
        begin, end = first, last
    if begin >= 0:
        yield _widened(text, begin, end)


def _widened(text: str, begin: int, end: int) -> tuple[int, int]:
    """With the margin, cut at a space where there is one."""
    start, stop = max(0, begin - _MARGIN_CHARS), min(len(text), end + _MARGIN_CHARS)
    if start:
        space = text.find(" ", start, begin)
        start = space + 1 if space >= 0 else start
    if stop < len(text):
        space = text.rfind(" ", end, stop)
        stop = space if space >= 0 else stop
    return start, stop
