"""From the probabilities of word pieces to spans of words: pieces to words, neighbours of one kind to one span."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np

from proxy.recognizers._onnx import Array

OTHER: Final = 0
KINDS: Final = ("", "PERSON", "LOCATION", "ID")
"""What the model's labels are grouped into. `ID` (telephone, account and document numbers, e-mail addresses,
URLs) is not reported: its kinds are mixed up, and the recognisers with check digits do better."""

_GROUPS: Final[Mapping[str, str]] = {
    "GIVEN_NAME": "PERSON", "SURNAME": "PERSON", "BUILDING_NUMBER": "LOCATION", "STREET_NAME": "LOCATION",
    "SECONDARY_ADDRESS": "LOCATION", "CITY": "LOCATION", "STATE": "LOCATION", "ZIP_CODE": "LOCATION",
    "O": "",
}  # fmt: skip
_GAPS: Final = {
    "PERSON": re.compile(r"[ \t]{0,2}|\.[ ]|['\u2019\-.]|[ ]?\n[ ]?"),
    "LOCATION": re.compile(r"[ ,.\-/#\t]{0,3}|,?[ ]?\r?\n[ ]?|,?[ ][A-Z]{2},?[ ]"),
}
_MAX_GAP_CHARS: Final = 6
_FIRST: Final = np.zeros(1, np.int64)


class Word(NamedTuple):
    """One word with the likeliest kind (index into KINDS) and its probability."""

    start: int
    end: int
    kind: int
    probability: float


def grouping(labels: Mapping[int, str]) -> Array:
    """Matrix [labels, kinds] that sums the probabilities of a kind's labels (`B-GIVEN_NAME`, `I-SURNAME`, …)."""
    matrix = np.zeros((len(labels), len(KINDS)), np.float32)
    for index, label in labels.items():
        matrix[index, KINDS.index(_GROUPS.get(label.rpartition("-")[2], "ID"))] = 1
    return matrix


def words_of_each(pieces: Array, parts: Sequence[tuple[Array, Array]]) -> list[list[Word]]:
    """Means over the pieces of each word, as words, of several parts at once. `pieces` [n, kinds] of all of them; of
    each its `word_ids` [n], ascending, and `offsets` [n, 2]."""
    result: list[list[Word]] = [[] for _ in parts]
    if not len(pieces):
        return result
    # No text has so many words that those of two parts could be taken for one.
    apart = [word_ids + (part << 40) for part, (word_ids, _) in enumerate(parts)]
    bounds = list(accumulate(len(word_ids) for word_ids in apart))
    found = _found(pieces, np.concatenate(apart), np.concatenate([offsets for _, offsets in parts]))
    for first, word in found:
        result[bisect_right(bounds, first)].append(word)
    return result


def _found(pieces: Array, word_ids: Array, offsets: Array) -> Iterator[tuple[int, Word]]:
    """Words and where their first pieces are."""
    ends = np.append(word_ids[1:] != word_ids[:-1], True).nonzero()[0] + 1
    first = np.concatenate([_FIRST, ends[:-1]])
    means = np.add.reduceat(pieces, first) / (ends - first)[:, None]
    kinds = means.argmax(-1)
    for at in kinds.nonzero()[0].tolist():
        begin, end, kind = int(first[at]), int(ends[at]) - 1, int(kinds[at])
        yield begin, Word(int(offsets[begin, 0]), int(offsets[end, 1]), kind, float(means[at, kind]))


def spans(text: str, found: list[Word]) -> Iterator[tuple[str, int, int, float]]:
    """(kind, start, end, probability) of neighbouring words of one kind; `found` in text order."""
    group: list[Word] = []
    for word in found:
        if group and not _joined(text, group[-1], word):
            yield _span(group)
            group = []
        group.append(word)
    if group:
        yield _span(group)


def _joined(text: str, left: Word, right: Word) -> bool:
    gap = _GAPS.get(KINDS[left.kind])
    if left.kind != right.kind or gap is None or right.start - left.end > _MAX_GAP_CHARS:
        return False
    return gap.fullmatch(text, left.end, right.start) is not None


def _span(group: list[Word]) -> tuple[str, int, int, float]:
    mean = sum(word.probability for word in group) / len(group)
    return KINDS[group[0].kind], group[0].start, group[-1].end, mean
