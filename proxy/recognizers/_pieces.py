"""Word pieces of stretches of a text, as the model's own tokenizer gives them (BERT's: lower case, WordPiece).

What is ASCII is cut here: four fifths of a call of the library are its way in and out. The library cuts the rest.
"""

import re
from itertools import groupby
from typing import Any, Final, NamedTuple

_WORD: Final = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
_ODD: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\[(?:PAD|UNK|CLS|SEP|MASK)\]")
"""ASCII that the library drops or takes for its own marks."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MAX_WORD_CHARS: Final = 100
"""A longer word is one unknown piece."""
_UNKNOWN: Final = "[UNK]"
_LATER: Final = "##"


class Pieces(NamedTuple):
    """`ids` of all pieces; of each word its first piece, and where it starts and ends in the text."""

    ids: list[int]
    firsts: list[int]
    starts: list[int]
    ends: list[int]


class Cutter:
    """May be used by several threads. `tokenizer`: of the tokenizers library."""

    def __init__(self, tokenizer: Any) -> None:
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._tokenizer = tokenizer
        self._unknown = vocabulary[_UNKNOWN]
        self._first = vocabulary
        self._later = {piece[2:]: number for piece, number in vocabulary.items() if piece.startswith(_LATER)}

    def cut(self, text: str, start: int, end: int) -> Pieces:
        """Pieces of text[start:end]."""
        part = text[start:end]
        if not part.isascii() or _ODD.search(part):
            return self._by_library(part, start)
        ids: list[int] = []
        cut = Pieces(ids, [], [], [])
        for word in _WORD.finditer(part.lower()):
            cut.firsts.append(len(ids))
            cut.starts.append(start + word.start())
            cut.ends.append(start + word.end())
            whole = self._first.get(word[0])
            if whole is None:
                ids += self._parts(word[0])
            else:
                ids.append(whole)
        return cut

    def _parts(self, word: str) -> list[int]:
        """The longest piece that the vocabulary has, then the longest of the rest."""
        found: list[int] = []
        at, known = 0, self._first
        while at < len(word) <= _MAX_WORD_CHARS:
            end = next((end for end in range(len(word), at, -1) if word[at:end] in known), at)
            if end == at:
                return [self._unknown]
            found.append(known[word[at:end]])
            at, known = end, self._later
        return found or [self._unknown]

    def _by_library(self, part: str, start: int) -> Pieces:
        encoding = self._tokenizer.encode(_SURROGATE.sub(" ", part), add_special_tokens=False)
        cut = Pieces(encoding.ids, [], [], [])
        offsets = encoding.offsets
        for _, group in groupby(enumerate(encoding.word_ids), lambda piece: piece[1]):
            places = [place for place, _ in group]
            cut.firsts.append(places[0])
            cut.starts.append(start + offsets[places[0]][0])
            cut.ends.append(start + offsets[places[-1]][1])
        return cut
