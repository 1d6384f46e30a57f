"""Which of several patterns could match a text, by pieces of text of which each needs one: one pass for all."""

from collections.abc import Sequence
from typing import Final

from ahocorasick_rs import AhoCorasick

from proxy.recognizers.base import mentions


class Hints:
    """`needed`: for each pattern the pieces (lower case) of which one occurs wherever it matches."""

    def __init__(self, needed: Sequence[Sequence[str]]) -> None:
        pieces = sorted({piece for row in needed for piece in row})
        self._automaton: Final = AhoCorasick(pieces)
        self._rows: Final = [[at for at, row in enumerate(needed) if piece in row] for piece in pieces]
        self._all: Final = frozenset(range(len(needed)))

    def possible(self, text: str) -> frozenset[int]:
        """Indexes of the patterns that could match."""
        if mentions(text, ()):
            return self._all
        hits = {which for which, _, _ in self._automaton.find_matches_as_indexes(text.lower(), overlapping=True)}
        return frozenset(at for which in hits for at in self._rows[which])
