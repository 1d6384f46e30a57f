"""Seed phrases of wallets (BIP 39): 12 to 24 words of its English list whose last bits are the right checksum."""

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from proxy.model import Finding
from proxy.recognizers._slices import slices
from proxy.recognizers.base import LIKELY, SURE, ModelUnavailable, Recognizer

_SIZES: Final = (24, 21, 18, 15, 12)
_BITS_PER_WORD: Final = 11
_LIST_WORDS: Final = 2048
_WORD: Final = re.compile(r"[a-z]{3,8}", re.IGNORECASE)
_GAP: Final = re.compile(r"[\s,;|\"'*_.:()\-\[\]0-9]{1,8}\Z")
"""Between words: spaces, commas, line ends, the numbers of a list."""


@cache
def _places() -> dict[str, int]:
    """The list's words and their numbers; raises ModelUnavailable when the list is not what BIP 39 says."""
    from mnemonic import Mnemonic

    words = Mnemonic("english").wordlist
    if len(words) != _LIST_WORDS or words != sorted(words):
        raise ModelUnavailable("the word list of BIP 39 is not whole", "install the locked requirements again")
    return {word: place for place, word in enumerate(words)}


def valid(places: list[int]) -> bool:
    """BIP 39: the last bits are the first of the SHA-256 of the others."""
    bits = "".join(f"{place:0{_BITS_PER_WORD}b}" for place in places)
    check_bits = len(bits) // 33
    entropy = int(bits[:-check_bits], 2).to_bytes((len(bits) - check_bits) // 8, "big")
    digest = hashlib.sha256(entropy).digest()
    return bits[-check_bits:] == f"{digest[0]:08b}"[:check_bits]


def _runs(text: str) -> Iterator[list[tuple[int, int, int]]]:
    """Stretches of neighbouring words of the list: (place in it, start, end)."""
    places = _places()
    run: list[tuple[int, int, int]] = []
    last_end = 0
    for match in _WORD.finditer(text):
        place = places.get(match[0].lower())
        if run and (place is None or not _GAP.match(text[last_end : match.start()])):
            yield run
            run = []
        if place is not None:
            run.append((place, match.start(), match.end()))
        last_end = match.end()
    yield run


def _find(text: str) -> Iterator[Finding]:
    """In slices: a text of nothing but such words would take forty times its room."""
    for piece in slices(len(text)):
        yield from piece.own(_phrases(text[piece.start : piece.end]))


def _phrases(text: str) -> Iterator[Finding]:
    for run in _runs(text):
        first = 0
        while len(run) - first >= min(_SIZES):
            size = next((n for n in _SIZES if _is_phrase(run[first : first + n], n)), 0)
            if size:
                score = SURE if size > min(_SIZES) else LIKELY
                yield Finding("SEED_PHRASE", run[first][1], run[first + size - 1][2], score, "seed_phrase")
            first += size or 1


def _is_phrase(words: list[tuple[int, int, int]], size: int) -> bool:
    """One in sixteen stretches of twelve list words has the checksum; repeated words are prose."""
    places = [place for place, _, _ in words]
    return len(places) == size and len(set(places)) >= size - 2 and valid(places)


def _trigger(text: str) -> bool:
    """Twelve words of the list in a row, whatever stands between them."""
    return any(_has_row(text[piece.start : piece.end]) for piece in slices(len(text)))


def _has_row(text: str) -> bool:
    known = map(_places().__contains__, map(str.lower, _WORD.findall(text)))
    return bytes(min(_SIZES) * [True]) in bytes(known)


def _load() -> None:
    _places()


RECOGNIZER: Final = Recognizer(
    name="seed_phrase",
    entities=frozenset({"SEED_PHRASE"}),
    layer="checksum",
    find=_find,
    trigger=_trigger,
    load=_load,
)
