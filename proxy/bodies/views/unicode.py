"""Text without what the eye does not see, and with digits and letters in their plain form.

Drops default-ignorable and control characters (zero width, soft hyphen, bidi marks, NUL), maps any script's decimal
digits, full-width and enclosed forms to ASCII (NFKC, UAX 15), and reads right-to-left overrides (UAX 9) backwards.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from proxy.bodies.offsets import Offsets
from proxy.bodies.views import Reading

_OVERRIDE: Final = re.compile("\u202e([^\u202c\n]*)\u202c?")
_PLAIN: Final = re.compile(r"[\t\n\r\x20-\x7e]*+")
_DROPPED: Final = frozenset(("Cf", "Cc", "Mn"))


def _plain(char: str) -> str:
    digit = unicodedata.digit(char, None)
    if digit is not None:
        return str(digit)
    if unicodedata.category(char) in _DROPPED and char not in "\t\n\r":
        return ""
    return unicodedata.normalize("NFKC", char)


def _normalised(text: str) -> Reading:
    out: list[str] = []
    decoded: list[int] = []
    source: list[int] = []
    length = 0
    for position, char in enumerate(text):
        plain = char if char.isascii() and char >= " " else _plain(char)
        out.append(plain)
        length += len(plain)
        if len(plain) != 1:
            decoded.append(length)
            source.append(position + 1)
    return Reading("".join(out), Offsets(decoded, source).span)


def _reversed(match: re.Match[str]) -> Reading:
    start, end = match.span(1)

    def span(begin: int, finish: int) -> tuple[int, int]:
        return start + (end - start - finish), start + (end - start - begin)

    return Reading(match[1][::-1], span)


def view(text: str) -> Sequence[Reading]:
    """The normalised text, where that differs, and each overridden run backwards."""
    if _PLAIN.fullmatch(text):
        return ()
    return [_normalised(text), *(_reversed(match) for match in _OVERRIDE.finditer(text))]


VIEW: Final = view
