"""Text without what the eye does not see, and with digits and letters in their plain form.

Drops default-ignorable and control characters (zero width, soft hyphen, bidi marks, NUL), maps any script's decimal
digits, full-width and enclosed forms to ASCII (NFKC, UAX 15), and reads right-to-left overrides (UAX 9) backwards.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Final

from proxy.bodies.offsets import Piece, substitute
from proxy.bodies.views import Reading

_OVERRIDE: Final = re.compile("\u202e([^\u202c\n]*)\u202c?")
_PLAIN: Final = re.compile(r"[\t\n\r\x20-\x7e]*+")
_DROPPED: Final = frozenset(("Cf", "Cc", "Mn"))
_PLANES: Final = (range(0x20000), range(0xE0000, 0xE0200))
"""The planes between hold ideographs only, and private use."""


def _plain(char: str) -> str:
    digit = unicodedata.digit(char, None)
    if digit is not None:
        return str(digit)
    if unicodedata.category(char) in _DROPPED and char not in "\t\n\r":
        return ""
    return unicodedata.normalize("NFKC", char)


@cache
def _odd() -> re.Pattern[str]:
    """One character that has another plain form; built at first use (some 0.1 s), for a scan at C speed."""
    codes = [code for plane in _PLANES for code in plane if _plain(chr(code)) != chr(code)]
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


def view(text: str) -> Sequence[Reading]:
    """The normalised text, where that differs, and each overridden run backwards."""
    if _PLAIN.fullmatch(text) or not _odd().search(text):
        return ()
    plain, offsets = substitute(_odd(), text, _decode)
    return [Reading(plain, offsets.span), *(_reversed(match) for match in _OVERRIDE.finditer(text))]


VIEW: Final = view
