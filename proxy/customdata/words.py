"""How table cells and texts are cut into words and brought into one spelling. The same code builds an index and looks
texts up in it: what it calls equal is found.

| kind | a cell | in a text |
|---|---|---|
| `name` | its words without initials, in any order | up to six words in a row, in any order |
| `text` | its words in order | up to eight words in a row |
| `email` | lower case | an address |
| `phone` | its last nine digits, seven at least | a number of seven digits or more, however written |
| `number` | letters and digits, in capitals (accounts, cards, IBANs, customer numbers) | groups in a row |
"""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

type Kind = Literal["name", "text", "email", "phone", "number"]
KINDS: Final[tuple[Kind, ...]] = ("name", "text", "email", "phone", "number")
MOST_WORDS: Final = {"name": 6, "text": 8}
PHONE_DIGITS: Final = 9
_LEAST_PHONE_DIGITS: Final = 7
_LEAST_NUMBER_CHARS: Final = 5
MOST_NUMBER_CHARS: Final = 40
_MOST_GROUPS: Final = 10
_MOST_PHONE_GROUPS: Final = 7  # +33 6 12 34 56 78 has six
_MOST_PHONE_DIGITS: Final = 15  # ITU-T E.164

_WORD: Final = re.compile(r"[^\W_]+")
_MAIL: Final = re.compile(r"[^\W_][\w.+-]{0,63}@[^\W_][\w-]{0,62}(?:\.[\w-]{1,62}){1,8}")
_DIGITS: Final = re.compile(r"[0-9]+")
_PHONE_GAP: Final = re.compile(r"[ .()/-]{0,3}")
_DIGIT: Final = re.compile(r"[0-9]")
_GAP: Final = re.compile(r"[ .\-/]?")


def fold(word: str) -> str:
    """Case and accents do not matter: `MÜLLER` is `muller`."""
    if word.isascii():
        return word.lower()
    plain = unicodedata.normalize("NFKD", word.casefold())
    return "".join(char for char in plain if not unicodedata.combining(char))


def spelled(kind: Kind, cell: str) -> str | None:
    """The one spelling of a cell, or None for one that says too little to be looked for."""
    if kind == "email":
        match = _MAIL.fullmatch(cell.strip())
        return match[0].casefold() if match else None
    if kind == "phone":
        return _phone(cell)
    if kind == "number":
        compact = "".join(_WORD.findall(fold(cell))).upper()
        fits = _LEAST_NUMBER_CHARS <= len(compact) <= MOST_NUMBER_CHARS and _DIGIT.search(compact)
        return compact if fits else None
    return joined(kind, [fold(word) for word in _WORD.findall(cell)])


def joined(kind: Kind, words: Sequence[str]) -> str | None:
    """The one spelling of some folded words. Initials say nothing; a single short word even less."""
    kept = [word for word in words if len(word) > 1] if kind == "name" else list(words)
    if not kept or len(kept) > MOST_WORDS[kind] or sum(map(len, kept)) < 3:
        return None
    return " ".join(sorted(kept) if kind == "name" else kept)


def _phone(text: str) -> str | None:
    digits = "".join(_DIGIT.findall(text)).lstrip("0")
    return digits[-PHONE_DIGITS:] if len(digits) >= _LEAST_PHONE_DIGITS else None


class Candidate(NamedTuple):
    """A stretch of a text that may be a cell: `word` counts the words in front of it."""

    kind: Kind
    value: str
    start: int
    end: int
    word: int


class Text:
    """A text cut into words."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.spans = [match.span() for match in _WORD.finditer(text)]
        lowered = text.lower() if text.isascii() else ""
        if lowered:
            self.words = [lowered[start:end] for start, end in self.spans]
        else:
            self.words = [fold(text[start:end]) for start, end in self.spans]

    def word_at(self, start: int) -> int:
        """How many words begin before `start`."""
        return bisect_left(self.spans, (start, 0))

    def mails(self) -> Iterator[Candidate]:
        if "@" in self._text:
            for match in _MAIL.finditer(self._text):
                yield Candidate("email", match[0].casefold(), *match.span(), self.word_at(match.start()))

    def phones(self) -> Iterator[Candidate]:
        """Groups of digits with little between them, from any group on: what stands before a number in a table must
        not hide it."""
        groups = [match.span() for match in _DIGITS.finditer(self._text)]
        for first, (start, _) in enumerate(groups):
            digits = ""
            for index in range(first, min(first + _MOST_PHONE_GROUPS, len(groups))):
                left, right = groups[index]
                if index > first and not _PHONE_GAP.fullmatch(self._text, groups[index - 1][1], left):
                    break
                digits += self._text[left:right]
                if len(digits) > _MOST_PHONE_DIGITS:
                    break
                value = _phone(digits)
                if value is not None:
                    yield Candidate("phone", value, start, right, self.word_at(start))

    def numbers(self, lengths: frozenset[int]) -> Iterator[Candidate]:
        """Groups of letters and digits with at most one separator between them, of one of the lengths that cells
        have. At most ten groups from any start: linear."""
        if not lengths or not _DIGIT.search(self._text):
            return
        digital = [index for index, word in enumerate(self.words) if _DIGIT.search(word)]
        firsts = sorted({*digital, *(index - 1 for index in digital if index and len(self.words[index - 1]) <= 4)})
        for first in firsts:
            compact = ""
            for index in range(first, min(first + _MOST_GROUPS, len(self.words))):
                if index > first and not _GAP.fullmatch(self._text, self.spans[index - 1][1], self.spans[index][0]):
                    break
                compact += self.words[index]
                # Single digits in a row are no way in which numbers are written; each would begin ten candidates.
                if len(compact) > MOST_NUMBER_CHARS or len(compact) + 1 < 2 * (index - first):
                    break
                if len(compact) in lengths and _DIGIT.search(compact):
                    yield Candidate("number", compact.upper(), self.spans[first][0], self.spans[index][1], first)

    def rows_of_words(self, kind: Kind, reaches: Sequence[int]) -> Iterator[Candidate]:
        """Words in a row that may be a cell, spelled as `joined` spells them. `reaches`: for each word a bit set of the
        lengths of cells that hold it (bit n - 1: a cell of n words), 0 for a word that stands in no cell."""
        words, spans = self.words, self.spans
        any_order = kind == "name"
        kept = [i for i, word in enumerate(words) if len(word) > 1] if any_order else range(len(words))
        last = len(kept)
        for at, first in enumerate(kept):
            lengths = reaches[first]
            end = at
            while lengths >> (end - at) and end < last:
                lengths &= reaches[kept[end]]
                end += 1
                if lengths >> (end - at - 1) & 1:
                    run = [words[index] for index in kept[at:end]]
                    if any_order:
                        run.sort()
                    yield Candidate(kind, " ".join(run), spans[first][0], spans[kept[end - 1]][1], first)
