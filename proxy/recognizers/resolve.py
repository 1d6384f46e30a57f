"""Overlaps: who keeps which characters. The stronger finding keeps its span, the weaker one what is left of its own,
so that no character that anybody found goes unreported."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from proxy.model import Finding

_ENTITY_RANK: Final = {"PRIVATE_KEY": 0, "SECRET": 1}
_MIN_REST_CHARS: Final = 3


def resolve(text: str, ranked: Iterable[tuple[int, Finding]]) -> list[Finding]:
    """`ranked`: (layer index, finding), lower is stronger. Returns disjoint findings in text order. n log n."""
    order = sorted(ranked, key=_strength)
    kept: list[Finding] = []
    starts: list[int] = []
    for _, finding in order:
        for start, end in _free(finding, kept, starts):
            whole = (start, end) == (finding.start, finding.end)
            if whole or sum(char.isalnum() for char in text[start:end]) >= _MIN_REST_CHARS:
                place = bisect_left(starts, start)
                starts.insert(place, start)
                kept.insert(place, finding if whole else replace(finding, start=start, end=end))
    return _merged(text, kept)


def _strength(item: tuple[int, Finding]) -> tuple[int, int, float, int, int]:
    layer, finding = item
    return _ENTITY_RANK.get(finding.entity, 2), layer, -finding.score, -(finding.end - finding.start), finding.start


def _free(finding: Finding, kept: Sequence[Finding], starts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The parts of the finding's span that no kept finding covers."""
    position = finding.start
    index = max(0, bisect_left(starts, finding.start) - 1)
    gaps = []
    while index < len(kept) and kept[index].start < finding.end:
        if kept[index].end > position:
            if kept[index].start > position:
                gaps.append((position, kept[index].start))
            position = kept[index].end
        index += 1
    if position < finding.end:
        gaps.append((position, finding.end))
    yield from gaps


def _merged(text: str, kept: Sequence[Finding]) -> list[Finding]:
    """Joins pieces of one entity that touch (two views of one secret), so that one value is one finding."""
    merged: list[Finding] = []
    for finding in kept:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.entity == finding.entity
            and last.end == finding.start
            and text[finding.start : finding.end]
        ):
            merged[-1] = replace(last, end=finding.end, score=max(last.score, finding.score))
        else:
            merged.append(finding)
    return merged
