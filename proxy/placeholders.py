"""Reversible stand-ins for values: `<ENTITY_xxxxxxxx>`, the same for the same value in every turn and worker.

The eight characters are 40 bits of a keyed hash of entity and normalised value. The key is derived per app and period,
so placeholders of two apps never agree (DESIGN.md section 4).
"""

import re
import unicodedata
from base64 import b32encode
from hashlib import blake2b
from typing import Final

PLACEHOLDER_RE: Final = re.compile(r"<([A-Z][A-Z0-9_]{0,63})_([a-z2-7]{8})>")

_COMPACT: Final = frozenset(
    (
        "CREDIT_CARD", "IBAN_CODE", "US_SSN", "US_ITIN", "PHONE_NUMBER", "US_BANK_NUMBER", "US_PASSPORT",
        "US_DRIVER_LICENSE", "UK_NHS", "UK_NINO",
    )
)  # fmt: skip
_CASELESS: Final = frozenset(("EMAIL_ADDRESS",))
_SEPARATORS: Final = re.compile(r"[\s().\-/_]+")
_SPACE: Final = re.compile(r"\s+")
_DIGIT_RUN: Final = re.compile(r"\d{4}")


def placeholder(key: bytes, entity: str, value: str) -> str:
    """The stand-in for `value`. `key`: 32 bytes, already derived for the app and period."""
    message = f"{entity}\0{normalise(entity, value)}".encode("utf-8", "surrogatepass")
    digest = blake2b(message, key=key, digest_size=5, person=b"egress-placehold").digest()
    return f"<{entity}_{b32encode(digest).decode('ascii').lower()}>"


def normalise(entity: str, value: str) -> str:
    """One spelling for all spellings that mean the same: `4111 1111` is `4111-1111`, `A@x.com` is `a@x.com`.

    Other entities only lose surplus white space: two secrets may differ in case alone.
    """
    plain = unicodedata.normalize("NFKC", value).strip()
    if entity in _COMPACT:
        return _SEPARATORS.sub("", plain).upper()
    if entity in _CASELESS:
        return plain.casefold()
    return _SPACE.sub(" ", plain)


def inside_placeholder(text: str, start: int, end: int) -> bool:
    """True when `start:end` lies in a placeholder that an earlier turn left in `text`.

    Its entity part must not carry digits worth looking at, or it could smuggle some.
    """
    opening = text.rfind("<", max(0, start - 80), start + 1)
    match = PLACEHOLDER_RE.match(text, opening) if opening >= 0 else None
    return match is not None and match.end() >= end and not _DIGIT_RUN.search(match[1])
