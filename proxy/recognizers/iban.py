"""International bank account numbers: country, length and mod 97 (ISO 13616, SWIFT IBAN registry release 99)."""

import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import SURE, Recognizer, has_digit

_LENGTHS: Final[dict[str, int]] = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip
_GAP: Final = r"[\s\-.,/_:*|`~]{0,5}"
_START: Final = re.compile(rf"(?<![A-Za-z0-9])([A-Za-z]){_GAP}([A-Za-z]){_GAP}[0-9]{_GAP}[0-9]")
_SEPARATORS: Final = frozenset(" \t\r\n\u00a0\u202f-.,/_:*|`~")
_MAX_SEPARATORS: Final = 5


def _walk(text: str, start: int, wanted: int) -> tuple[int, str]:
    """Collects `wanted` letters and digits from `start`, at most five separators in a row: (end, characters)."""
    found: list[str] = []
    gap = 0
    for index in range(start, min(len(text), start + wanted * (_MAX_SEPARATORS + 1))):
        char = text[index]
        if char.isascii() and char.isalnum():
            found.append(char.upper())
            gap = 0
            if len(found) == wanted:
                return index + 1, "".join(found)
        elif char in _SEPARATORS and gap < _MAX_SEPARATORS:
            gap += 1
        else:
            break
    return start, ""


def valid(iban: str) -> bool:
    """ISO 7064 MOD 97-10 over an upper-case IBAN without separators."""
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1


def _written(source: str, iban: str) -> bool:
    """One in 97 stretches of prose passes the checksum, so a separated one must look like an account: capitals and
    mostly digits."""
    if len(source) == len(iban):
        return True
    return not any(char.islower() for char in source) and 2 * sum(char.isdigit() for char in iban) >= len(iban)


def _find(text: str) -> Iterator[Finding]:
    for match in _START.finditer(text):
        wanted = _LENGTHS.get((match[1] + match[2]).upper())
        if wanted is None:
            continue
        end, iban = _walk(text, match.start(), wanted)
        if iban and not text[end : end + 1].isalnum() and valid(iban) and _written(text[match.start() : end], iban):
            yield Finding("IBAN_CODE", match.start(), end, SURE, "iban")


RECOGNIZER: Final = Recognizer(
    name="iban",
    entities=frozenset({"IBAN_CODE"}),
    layer="checksum",
    find=_find,
    trigger=has_digit,
    context=frozenset({"iban", "account", "bank", "konto", "transfer"}),
)
