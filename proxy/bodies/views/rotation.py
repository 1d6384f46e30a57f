"""Letters moved on by thirteen (rot13): e-mail addresses and IBANs, whose digits stay, and texts of common words."""

import codecs
import re
from collections.abc import Sequence
from typing import Final

from proxy.bodies.views import Reading, same

_ADDRESS: Final = re.compile(
    r"@[\w.\-]{1,200}\.(?:pbz|bet|arg|rqh|tbi|vasb|ovm|vb|nv|qri|ncc|qr|se|rf|vg|ay|or|pu|ng|cy|fr|ab|svah|hx|pn|nh|we|oe|va)\b"
)
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{2,4}){3,8}(?![A-Za-z0-9])")
_SHAPES: Final = bytes(0x41 if 65 <= code < 91 else 0x30 if 48 <= code < 58 else 0x20 for code in range(256))
_LEAST_IBAN: Final = 15
_WORDS: Final = (" gur ", " naq ", " vf ", " zl ", " gb ", " sbe ")
_FREQUENT: Final = _WORDS[:2]
_MARGIN_CHARS: Final = 80
_ONLY: Final = frozenset(("EMAIL_ADDRESS", "IBAN_CODE"))


def view(text: str) -> Sequence[Reading]:
    """The text turned back: whole where its words say so, else around what looks like an address or an account."""
    if any(word in text for word in _FREQUENT) and sum(word in text for word in _WORDS) >= 2:
        return (Reading(codecs.decode(text, "rot13"), same),)
    found = [_around(text, *match.span()) for match in _ADDRESS.finditer(text)] if "@" in text else []
    if b"AA00" in text.encode("latin-1", "replace").translate(_SHAPES):
        found += (_around(text, *match.span()) for match in _IBAN.finditer(text) if len(match[0]) >= _LEAST_IBAN)
    return found


def _around(text: str, start: int, end: int) -> Reading:
    begin = max(0, start - _MARGIN_CHARS)

    def span(first: int, last: int) -> tuple[int, int]:
        return begin + first, begin + last

    return Reading(codecs.decode(text[begin:end], "rot13"), span, entities=_ONLY)


VIEW: Final = view
