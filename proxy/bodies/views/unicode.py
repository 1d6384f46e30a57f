"""Text without what the eye does not see, and with digits and letters in their plain form.

Drops default-ignorable and control characters (zero width, soft hyphen, bidi marks, NUL), maps any script's decimal
digits, full-width, enclosed and look-alike forms to ASCII (NFKC, UAX 15; confusables, UTS 39), reads right-to-left
overrides (UAX 9) backwards, and what is spelled in characters that nobody sees (tags, variation selectors) as text.
"""
# ruff: noqa: RUF001 - look-alikes are what this table is about

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

from proxy.bodies.offsets import Piece
from proxy.bodies.views import Reading, constant, replaced

_OVERRIDE: Final = re.compile("[\u202e\u2067\u202b]([^\u202c\u2069\n]*)[\u202c\u2069]?")
_PLAIN: Final = re.compile(r"[\t\n\r\x20-\x7e]*+")
_DROPPED: Final = frozenset(("Cf", "Cc", "Mn", "Me"))
_PLANES: Final = (range(0x20000), range(0xE0000, 0xE0200))
"""The planes between hold ideographs only, and private use."""

_HARMLESS: Final = frozenset("\u00a0\u2026\u2122\u00b2\u00b3\u00bd\u00bc\u00be\u00ba\u00aa\u00a8\u00b4\u00af\u00b8")
"""Typography of ordinary text. Recognisers take the space as a space; the others stand in no identifier, unless they
are digits, which count when there are more of them than a measure has."""

_LETTERS: Final = {
    "А": "A", "В": "B", "С": "C", "Е": "E", "Н": "H", "І": "I", "Ј": "J", "К": "K", "М": "M", "О": "O", "Р": "P",
    "Ѕ": "S", "Т": "T", "У": "Y", "Х": "X", "З": "3", "б": "6", "Ԍ": "G", "Ԛ": "Q", "Ԝ": "W", "Ѵ": "V", "Ғ": "F",
    "Ү": "Y", "Ѡ": "W", "Ь": "b", "Һ": "h", "Ӏ": "l", "ӏ": "l",
    "а": "a", "с": "c", "ԁ": "d", "е": "e", "һ": "h", "і": "i", "ј": "j", "о": "o", "р": "p", "ԛ": "q", "ѕ": "s",
    "у": "y", "х": "x", "ѵ": "v", "ԝ": "w", "г": "r", "к": "k", "т": "t", "п": "n", "м": "m", "в": "b", "н": "h",
    "ь": "b", "ѡ": "w", "ҽ": "e", "ү": "y", "ғ": "f", "ѐ": "e", "ё": "e",
    "Α": "A", "Β": "B", "Ε": "E", "Ζ": "Z", "Η": "H", "Ι": "I", "Κ": "K", "Μ": "M", "Ν": "N", "Ο": "O", "Ρ": "P",
    "Τ": "T", "Υ": "Y", "Χ": "X", "Ϲ": "C", "Ϳ": "J", "Ϝ": "F",
    "α": "a", "γ": "y", "ε": "e", "η": "n", "ι": "i", "κ": "k", "ν": "v", "ο": "o", "ρ": "p", "σ": "o", "τ": "t",
    "υ": "u", "χ": "x", "ω": "w", "ϲ": "c", "ϳ": "j", "ϱ": "p",
    "Ս": "U", "Տ": "S", "Օ": "O", "Լ": "L", "Ի": "b", "ա": "w", "ց": "g", "գ": "q", "հ": "h", "ո": "n", "ռ": "n",
    "ս": "u", "օ": "o", "յ": "j", "զ": "q", "ք": "p", "լ": "l", "Ꭺ": "A", "Ᏼ": "B", "Ꮯ": "C", "Ꭰ": "D", "Ꭼ": "E",
    "Ꮐ": "G", "Ꮋ": "H", "Ꭻ": "J", "Ꮶ": "K", "Ꮮ": "L", "Ꮇ": "M", "Ꮲ": "P", "Ꮪ": "S", "Ꭲ": "T", "Ꮩ": "V", "Ꮃ": "W",
    "Ꮓ": "Z", "Ꭱ": "R", "Ꭵ": "i", "ı": "i", "ȷ": "j", "ɑ": "a", "ɡ": "g", "ɩ": "i", "ʏ": "y", "ʀ": "r", "ʟ": "l",
    "ᴀ": "a", "ʙ": "b", "ᴄ": "c", "ᴅ": "d", "ᴇ": "e", "ꜰ": "f", "ɢ": "g", "ʜ": "h", "ɪ": "i", "ᴊ": "j", "ᴋ": "k",
    "ᴍ": "m", "ɴ": "n", "ᴏ": "o", "ᴘ": "p", "ꜱ": "s", "ᴛ": "t", "ᴜ": "u", "ᴠ": "v", "ᴡ": "w", "ᴢ": "z", "ǀ": "l",
    "ø": "o", "đ": "d", "ł": "l", "ħ": "h", "ŧ": "t", "ɵ": "o", "ƅ": "b", "ƽ": "5", "Ƽ": "5", "Ʒ": "3", "Ȝ": "3",
}  # fmt: skip
"""Letters that look like a Latin letter or a digit (UTS 39 confusables.txt, the ones that fonts draw alike)."""

_SIGNS: Final = {
    "\u2212": "-", "\u2043": "-", "\u2796": "-", "\u30fc": "-", "\u1806": "-", "\u2215": "/", "\u2044": "/",
    "\u29f8": "/", "\u066b": ".", "\u066c": ",", "\u3002": ".", "\uff61": ".", "\u2024": ".", "\u00b7": ".",
}  # fmt: skip
_SIGN: Final = re.compile("(?<=[A-Za-z0-9])[" + "".join(_SIGNS) + "](?=[A-Za-z0-9])")
_MIXED: Final = re.compile("[" + "".join(_LETTERS) + "]")
_TOKEN: Final = re.compile(r"\S{1,512}+")
_LATIN: Final = re.compile(r"[A-Za-z0-9@]")
_TAGS: Final = re.compile("[\U000e0020-\U000e007e]+")
_SELECTORS: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_BLOCKS: Final = ((0x1F150, 0x1F169), (0x1F170, 0x1F189), (0x1F1E6, 0x1F1FF))
"""Enclosed letters that NFKC leaves as they are, and regional indicators."""


def _plain(char: str) -> str:
    digit = unicodedata.digit(char, None)
    if digit is not None:
        return str(digit)
    if unicodedata.category(char) in _DROPPED and char not in "\t\n\r":
        return ""
    for first, last in _BLOCKS:
        if first <= ord(char) <= last:
            return chr(ord("A") + ord(char) - first)
    return unicodedata.normalize("NFKC", char)


@cache
def _odd() -> re.Pattern[str]:
    """One character that has another plain form; built at first use (some 0.1 s), for a scan at C speed."""
    codes = [
        code for plane in _PLANES for code in plane if chr(code) not in _HARMLESS and _plain(chr(code)) != chr(code)
    ]
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return re.compile("[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges) + "]")


def _decode(match: re.Match[str]) -> tuple[Piece, ...]:
    return ((_plain(match[0]), 1),)


def _reversed(match: re.Match[str]) -> Reading:
    start, end = match.span(1)

    def span(begin: int, finish: int) -> tuple[int, int]:
        return start + (end - start - finish), start + (end - start - begin)

    return Reading(match[1][::-1], span)


def _unmixed(match: re.Match[str]) -> Iterator[Piece]:
    """A word with letters of two scripts, or with look-alikes next to digits, read as Latin."""
    word = match[0]
    if word.isascii() or not _LATIN.search(word) or not _MIXED.search(word):
        yield word, len(word)
        return
    for char in word:
        yield _LETTERS.get(char, char), 1


def _mixed_words(text: str) -> Iterator[Reading]:
    if not _MIXED.search(text):
        return
    spans = [
        match.span() for match in _TOKEN.finditer(text)
        if not match[0].isascii() and _LATIN.search(match[0]) and _MIXED.search(match[0])
    ]  # fmt: skip
    if spans:
        yield from replaced(_TOKEN, text, _unmixed, spans=spans)


def _signs(match: re.Match[str]) -> tuple[Piece, ...]:
    return ((_SIGNS[match[0]], 1),)


def _unseen(text: str) -> Iterator[Reading]:
    """What is written in tag characters (ASCII one plane up) or in variation selectors (a byte each)."""
    for match in _TAGS.finditer(text):
        yield Reading("".join(chr(ord(char) - 0xE0000) for char in match[0]), constant(*match.span()), whole=True)
    for match in _SELECTORS.finditer(text):
        codes = bytes(ord(c) - 0xFE00 if ord(c) < 0xFE10 else ord(c) - 0xE0100 + 16 for c in match[0])
        yield Reading(codes.decode("utf-8", "replace"), constant(*match.span()), whole=True)


def view(text: str) -> Sequence[Reading]:
    """The normalised text, where that differs, and each overridden run backwards."""
    if text.isascii() and _PLAIN.fullmatch(text):
        return ()
    found = list(_mixed_words(text))
    if _SIGN.search(text):
        found += replaced(_SIGN, text, _signs)
    if _odd().search(text):
        found += replaced(_odd(), text, _decode)
        found += (_reversed(match) for match in _OVERRIDE.finditer(text))
        found += _unseen(text)
    return found


VIEW: Final = view
