"""Dictionaries: many words in one pass (Aho-Corasick), whatever their number. Linear in the text."""

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from proxy.config.snapshot import DlpDictionary
from proxy.model import Finding
from proxy.recognizers.base import SURE

if TYPE_CHECKING:
    from ahocorasick_rs import AhoCorasick

_AUTOMATA: Final = 256


@lru_cache(maxsize=_AUTOMATA)
def _automaton(words: tuple[str, ...], caseless: bool) -> "AhoCorasick":
    from ahocorasick_rs import AhoCorasick, MatchKind

    folded = [_folded(word) for word in words] if caseless else words
    # Standard: every match is reported. A longest-only search would hide `Blue` within `Bluebird` when only `Blue`
    # stands as a whole word.
    return AhoCorasick(sorted(set(folded)), matchkind=MatchKind.Standard)


_SEEN: Final[dict[tuple[int, bool], tuple[tuple[str, ...], "AhoCorasick"]]] = {}


def _automaton_of(dictionary: DlpDictionary) -> "AhoCorasick":
    """By identity first: to hash a hundred thousand words for each text would cost more than the search."""
    words, caseless = dictionary.words, not dictionary.case_sensitive
    seen = _SEEN.get((id(words), caseless))
    if seen is not None and seen[0] is words:
        return seen[1]
    automaton = _automaton(words, caseless)
    if len(_SEEN) >= _AUTOMATA:
        _SEEN.clear()
    _SEEN[id(words), caseless] = (words, automaton)
    return automaton


def _folded(text: str) -> str:
    """Lower case without changing the number of characters, so that offsets stay."""
    if text.isascii():
        return text.lower()
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


def find(dictionary: DlpDictionary, text: str) -> Iterator[Finding]:
    """Words of the dictionary in `text`; of words within words only the longest."""
    caseless = not dictionary.case_sensitive
    haystack = _folded(text) if caseless else text
    spans = [
        (start, end)
        for _, start, end in _automaton_of(dictionary).find_matches_as_indexes(haystack, overlapping=True)
        if not dictionary.whole_words or _is_whole(text, start, end)
    ]
    reach = -1
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if end > reach:
            reach = end
            yield Finding(dictionary.entity, start, end, SURE, "dictionary")


def _is_whole(text: str, start: int, end: int) -> bool:
    """No letter or digit continues the word on either side. A word that begins or ends in something else has no such
    side, and scripts that do not set words apart (Chinese, Japanese, Thai) have none either."""
    return not (_joins(text[start - 1 : start], text[start]) or _joins(text[end - 1], text[end : end + 1]))


def _joins(left: str, right: str) -> bool:
    return left.isalnum() and right.isalnum() and not (_is_unspaced(left) or _is_unspaced(right))


@lru_cache(maxsize=65_536)
def _is_unspaced(char: str) -> bool:
    if char.isascii():
        return False
    return unicodedata.name(char, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"))
