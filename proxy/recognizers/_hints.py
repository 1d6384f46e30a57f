"""Which of several patterns could match a text, by pieces of text of which each needs one: one pass for all."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Final

from ahocorasick_rs import AhoCorasick

from proxy.recognizers._slices import SLICE_CHARS, slices
from proxy.recognizers.base import folds_oddly


class Hints:
    """`needed`: for each pattern the pieces (lower case) of which one occurs wherever it matches."""

    def __init__(self, needed: Sequence[Sequence[str]]) -> None:
        pieces = sorted({piece for row in needed for piece in row})
        self._automaton: Final = AhoCorasick(pieces)
        self._rows: Final = [[at for at, row in enumerate(needed) if piece in row] for piece in pieces]
        self._needed: Final = needed

    def stretches(self, text: str, before: int, after: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Each pattern that could match and where: disjoint stretches in order, `before` characters in front of where
        a piece begins to `after` behind it. A pattern's matches must fit."""
        if folds_oddly(text):
            yield from ((row, [(0, len(text))]) for row in range(len(self._needed)))
            return
        places: defaultdict[int, list[int]] = defaultdict(list)
        for piece, start, _ in occurrences(self._automaton, text.lower()):
            for row in self._rows[piece]:
                places[row].append(start)
        for row in sorted(places):
            yield row, list(joined(sorted(places[row]), before, after))

    def rows(self, text: str) -> Set[int]:
        """Patterns that could match; none that needs nothing."""
        if folds_oddly(text):
            return {row for row, needed in enumerate(self._needed) if needed}
        hits = {piece for piece, _, _ in occurrences(self._automaton, text.lower())}
        return {row for piece in hits for row in self._rows[piece]}


def occurrences(pieces: AhoCorasick, text: str) -> Iterable[tuple[int, int, int]]:
    """(which, start, end) of each, those that overlap too. In slices: the automaton keeps a number of eight
    bytes for each of the text's. The pieces are shorter than half of the slices' overlap."""
    if len(text) <= SLICE_CHARS:
        return pieces.find_matches_as_indexes(text, overlapping=True)
    return _in_slices(pieces, text)


def _in_slices(pieces: AhoCorasick, text: str) -> Iterator[tuple[int, int, int]]:
    for each in slices(len(text)):
        for which, start, end in pieces.find_matches_as_indexes(text[each.start : each.end], overlapping=True):
            if each.first <= start + each.start < each.last:
                yield which, start + each.start, end + each.start


def holds(text: str, pieces: AhoCorasick) -> bool:
    """Whether one of the pieces occurs, as it is written."""
    try:
        return any(pieces.find_matches_as_indexes(text[each.start : each.end]) for each in slices(len(text)))
    except UnicodeEncodeError:
        # A lone surrogate: the automaton reads UTF-8.
        return True


def joined(places: Iterable[int], before: int, after: int) -> Iterator[tuple[int, int]]:
    """Disjoint stretches around ascending places."""
    first = last = -1
    for place in places:
        start = max(0, place - before)
        if first >= 0 and start <= last:
            last = place + after
            continue
        if first >= 0:
            yield first, last
        first, last = start, place + after
    if first >= 0:
        yield first, last
