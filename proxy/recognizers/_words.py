"""From the probabilities of word pieces to spans of words: pieces to words, neighbours of one kind to one span."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import numpy as np

from proxy.recognizers._onnx import Array
from proxy.recognizers._pieces import Pieces

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


def words_of_each(pieces: Array, parts: Sequence[Pieces]) -> list[list[Word]]:
    """Means over the pieces of each word, as words, of several parts at once. `pieces` [n, kinds] of all of them."""
    result: list[list[Word]] = [[] for _ in parts]
    counts = [len(part.firsts) for part in parts]
    if not any(counts):
        return result
    begun = accumulate((len(part.ids) for part in parts), initial=0)
    first = np.array([start + each for start, part in zip(begun, parts, strict=False) for each in part.firsts])
    means = np.add.reduceat(pieces, first) / np.diff(first, append=len(pieces))[:, None]
    kinds = means.argmax(-1)
    words = [0, *accumulate(counts)]
    for at in kinds.nonzero()[0].tolist():
        which = bisect_right(words, at) - 1
        part, place, kind = parts[which], at - words[which], int(kinds[at])
        result[which].append(Word(part.starts[place], part.ends[place], kind, float(means[at, kind])))
    return result


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
