"""Which stretches of a text are worth showing to the model: an additive score per word, far cheaper than the model.

A word's score is the sum of what it and its neighbours (two on each side) contribute; a contribution is a sum of
weights of hashed features (the word, its shape, its affixes), looked up once per word and kept under the word's
process-local hash, so that no word of a prompt stays in memory. The weights (`gate.npy`, float16) were trained by
`loadtests/train_gate.py` to foretell where the model finds something; they hold no text.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Final
from zlib import crc32

import numpy as np

from proxy.recognizers._onnx import Array
from proxy.recognizers.base import ModelUnavailable

TABLE_PATH: Final = Path(__file__).parent / "gate.npy"
TABLE_SIZE: Final = 1 << 18
NEIGHBOURS: Final = 2
POSITIONS: Final = 2 * NEIGHBOURS + 1
BIAS: Final = 0
"""Index of the bias in the table."""
THRESHOLD: Final = -1.0
"""Log-odds from which on a word is worth a look; below even odds, because a miss costs more than a look."""
WIDTH_WORDS: Final = 3
"""What the model is shown on each side of such a word."""
_MERGE_WORDS: Final = 2
_MEMO_WORDS: Final = 1 << 15
"""More than a language's everyday words; each takes 130 bytes, and what fills the rest is numbers that never return."""
_MIX: Final = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1], np.uint64)
_GAP: Final = re.compile(r"([\W_]+)")
_RUNS: Final = (
    (re.compile(r"[A-Z]+"), lambda run: "X" * min(2, len(run[0]))),
    (re.compile(r"[a-z]+"), lambda run: "x" * min(2, len(run[0]))),
    (re.compile(r"[0-9]+"), lambda run: "9" * min(6, len(run[0]))),
)
_MAX_WORD_CHARS: Final = 32
_MAX_PART_CHARS: Final = 64
"""No name has longer words, no address longer gaps; twenty thousand brackets are not worth the model's time."""


def features(word: str) -> tuple[int, ...]:
    """Hashes of one word's features."""
    word = word[:_MAX_WORD_CHARS]
    lower = word.lower()
    shape = _shape(word)
    found = (
        "w" + lower, "s" + shape, "3" + lower[-3:], "2" + lower[-2:] + shape, "p" + lower[:3], "q" + lower[:4] + shape,
        f"l{min(len(word), 12)}{shape[:1]}",
    )  # fmt: skip
    return tuple(crc32(item.encode("utf-8", "surrogatepass")) for item in found)


def gap_features(gap: str) -> tuple[int, ...]:
    """Hash of what stands between two words."""
    return (crc32(("g" + _gap_kind(gap)).encode("utf-8", "surrogatepass")),)


def _gap_kind(gap: str) -> str:
    if gap == " ":
        return gap
    kept = gap.replace("\r", "")[:4]
    return kept if len(gap) <= 4 else kept + "+"


def _shape(word: str) -> str:
    if not word.isascii():
        first = "X" if word[:1].isupper() else "x" if word[:1].isalpha() else "0"
        return "u" + first + ("d" if any(char.isdigit() for char in word) else "")
    if word.isalpha():
        first = "X" if word[0].isupper() else "x"
        if word.islower() or word.isupper():
            return first * min(2, len(word))
        if word[1:].islower():
            return first + "x" * min(2, len(word) - 1)
    for pattern, short in _RUNS:
        word = pattern.sub(short, word)
    return word[:10]


def indices(hashes: Array) -> Array:
    """Table places [n, POSITIONS, features] of feature hashes [n, features]; never the place of the bias."""
    mixed = hashes.astype(np.uint64)[:, None, :] * _MIX[None, :, None]
    places: Array = 1 + ((mixed >> np.uint64(15)) % np.uint64(TABLE_SIZE - 1)).astype(np.int64)
    return places


@cache
def table() -> Array:
    """The weights; raises ModelUnavailable when their file is missing or of another shape."""
    try:
        weights: Array = np.load(TABLE_PATH, allow_pickle=False).astype(np.float32)
    except (OSError, ValueError) as error:
        raise ModelUnavailable("the weights of the token gate do not load", "install the package again") from error
    if weights.shape != (TABLE_SIZE,) or not np.isfinite(weights).all():
        raise ModelUnavailable("the weights of the token gate are of another shape", "install the package again")
    return weights


class Memo:
    """Contributions of words and gaps seen before, as rows of one array, under hashes that only this process knows."""

    def __init__(self, weights: Array) -> None:
        self._weights = weights
        self._rows: dict[int, int] = {}
        self._values = np.zeros((1024, POSITIONS), np.float32)

    def of(self, words: Sequence[str], *, gaps: bool) -> Array:
        """[n, POSITIONS]: what each adds to the words around it, first to the one two places on its left."""
        if len(self._rows) > _MEMO_WORDS:
            self._rows = {}
        keys = list(map(hash, words))
        rows = list(map(self._rows.get, keys))
        if None in rows:
            self._learn({key: word for key, word, row in zip(keys, words, rows, strict=True) if row is None}, gaps=gaps)
            rows = [self._rows[key] for key in keys]
        values: Array = self._values[np.array(rows, np.int64)]
        return values

    def _learn(self, new: dict[int, str], *, gaps: bool) -> None:
        hashed = [gap_features(word) if gaps else features(word) for word in new.values()]
        values = self._weights[indices(np.array(hashed, np.uint64))].sum(-1)
        first = len(self._rows)
        if first + len(new) > len(self._values):
            bigger = np.zeros((2 * (first + len(new)), POSITIONS), np.float32)
            bigger[:first] = self._values[:first]
            self._values = bigger
        self._values[first : first + len(new)] = values
        self._rows.update(zip(new, range(first, first + len(new)), strict=True))


@cache
def _memos() -> tuple[Memo, Memo]:
    return Memo(table()), Memo(table())


def parts_of(text: str) -> list[str]:
    """Words at even places, what stands between them at odd ones."""
    return _GAP.split(text)


def scores(words: Array, gaps: Array, bias: float) -> Array:
    """Log-odds per word from the contributions of words [n, POSITIONS] and the n - 1 gaps between them."""
    size = len(words)
    rows = np.zeros((size + 2 * NEIGHBOURS, POSITIONS), np.float32)
    rows[NEIGHBOURS : NEIGHBOURS + size] = words
    # A gap belongs to the word on its right as position 0, to the one on its left as 1, and so on.
    rows[NEIGHBOURS + 1 : NEIGHBOURS + size] += gaps
    # The word at i gets position p of row i + 4 - p: a slanted view of the array.
    step, back = rows.strides[0], rows.strides[1] - rows.strides[0]
    slanted = np.ndarray((size, POSITIONS), np.float32, rows, 2 * NEIGHBOURS * step, (step, back))
    total: Array = slanted.sum(1) + np.float32(bias)
    return total


def regions(text: str, threshold: float = THRESHOLD, width: int = WIDTH_WORDS) -> list[tuple[int, int]]:
    """Disjoint stretches of the text, in order, that hold every word at or over the threshold and its surroundings."""
    if not text:
        return []
    parts = parts_of(text)
    words, gaps = _memos()
    total = scores(words.of(parts[::2], gaps=False), gaps.of(parts[1::2], gaps=True), float(table()[BIAS]))
    sizes = list(map(len, parts))
    hits = [hit for hit in np.flatnonzero(total >= threshold).tolist() if 0 < sizes[2 * hit] <= _MAX_PART_CHARS]
    if not hits:
        return []
    ends = list(accumulate(sizes))
    stretches = _stretches(hits, width, len(total))
    if max(sizes) > _MAX_PART_CHARS:
        stretches = _broken(stretches, sizes)
    return [(ends[2 * first] - sizes[2 * first], ends[2 * last]) for first, last in stretches]


def _broken(stretches: Iterator[tuple[int, int]], sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Stretches without the words that are too long to be any, and without what follows a gap that is none."""
    for first, last in stretches:
        start = first
        for word in range(first, last + 1):
            if sizes[2 * word] > _MAX_PART_CHARS:
                if start < word:
                    yield start, word - 1
                start = word + 1
            elif word > start and sizes[2 * word - 1] > _MAX_PART_CHARS:
                yield start, word - 1
                start = word
        if start <= last:
            yield start, last


def _stretches(hits: Sequence[int], width: int, size: int) -> Iterator[tuple[int, int]]:
    """(first, last) words of the joined surroundings of hits."""
    first = last = -1
    for hit in hits:
        begin, end = max(0, hit - width), min(size - 1, hit + width)
        if first >= 0 and begin <= last + _MERGE_WORDS:
            last = end
            continue
        if first >= 0:
            yield first, last
        first, last = begin, end
    if first >= 0:
        yield first, last
