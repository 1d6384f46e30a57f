"""From the probabilities of word pieces to spans of words: pieces to words, neighbours of one kind to one span."""

import re
from collections.abc import Iterator, Mapping
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


def probabilities(logits: Array, groups: Array) -> Array:
    """Softmax over labels, summed per kind."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    summed: Array = (shifted / shifted.sum(-1, keepdims=True)) @ groups
    return summed


def words(pieces: Array, word_ids: Array, offsets: Array) -> list[Word]:
    """Means over the pieces of each word, as words. `pieces` [n, kinds], `word_ids` [n] ascending, `offsets` [n, 2]."""
    if not len(word_ids):
        return []
    ends = np.append(word_ids[1:] != word_ids[:-1], True).nonzero()[0] + 1
    first = np.concatenate([_FIRST, ends[:-1]])
    means = np.add.reduceat(pieces, first) / (ends - first)[:, None]
    kinds = means.argmax(-1)
    return [
        Word(int(offsets[first[at], 0]), int(offsets[ends[at] - 1, 1]), int(kinds[at]), float(means[at, kinds[at]]))
        for at in kinds.nonzero()[0].tolist()
    ]


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
