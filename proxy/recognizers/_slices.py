"""A long text in overlapping slices: what a model keeps for each word, it keeps for one slice at a time. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from proxy.model import Finding

# A model's words, tokens and numbers take about eighty bytes a character, so five MiB; and half a second where every
# word is a name, after which others have their turn.
SLICE_CHARS: Final = 64 << 10
# Twice what stands on both sides of a slice's own part, so that a name at its edge is seen whole and in its sentence.
OVERLAP_CHARS: Final = 1 << 10


@dataclass(frozen=True, slots=True)
class Slice:
    """text[start:end] is looked at; what begins in text[first:last] counts."""

    start: int
    end: int
    first: int
    last: int

    def own(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """Findings of the slice that count, at their places in the text."""
        for finding in findings:
            start = finding.start + self.start
            if self.first <= start < self.last:
                yield replace(finding, start=start, end=finding.end + self.start)


def slices(size: int, slice_chars: int = SLICE_CHARS, overlap_chars: int = OVERLAP_CHARS) -> Iterator[Slice]:
    """Slices of a text of `size` characters; their own parts join without gap or overlap."""
    half = overlap_chars // 2
    start = first = 0
    while True:
        end = min(start + slice_chars, size)
        last = size if end == size else end - half
        yield Slice(start, end, first, last)
        if end == size:
            return
        start, first = last - half, last
