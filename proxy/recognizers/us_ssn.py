"""US social security numbers: the areas, groups and serials that the SSA gives out (randomised since 2011)."""

import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import LIKELY, POSSIBLE, WITH_CONTEXT_ONLY, Recognizer, digit_runs, has_digit

_DASHES: Final = "-\u2010\u2011\u2012\u2013\u2014\u2015"
_GAP: Final = rf"[\s{_DASHES[1:]}.,_/*`~|\-]{{1,5}}"
_AFTER: Final = r"(?![0-9A-Za-z_]|[.\-][0-9])"
# A number may hang on a word ("id-536-22-8176", a header name): only digits before the joint make it another number.
_BEFORE: Final = r"(?<![0-9A-Za-z.+])(?<![0-9][_\-])"
_GROUPED: Final = re.compile(rf"{_BEFORE}([0-9]{{3}})({_GAP})([0-9]{{2}}){_GAP}([0-9]{{4}}){_AFTER}")
_BARE: Final = re.compile(r"(?<![0-9A-Za-z_.\-+,])([0-9]{3})([0-9]{2})([0-9]{4})(?![0-9A-Za-z_]|[.,\-][0-9])")
_SPREAD: Final = re.compile(r"(?<![0-9A-Za-z_.,\-+])[0-9](?:[ .\-]{1,3}[0-9]){8}(?![0-9A-Za-z_]|[ .,\-]{1,3}[0-9])")


def issued(area: str, group: str, serial: str) -> bool:
    """SSA: no area 000, 666 or 900-999, no group 00, no serial 0000."""
    return area not in {"000", "666"} and area[0] != "9" and group != "00" and serial != "0000"


def _find(text: str) -> Iterator[Finding]:
    for start, end in digit_runs(text):
        yield from _within(text, start, end)


def _within(text: str, start: int, end: int) -> Iterator[Finding]:
    for match in _GROUPED.finditer(text, start, end):
        if issued(match[1], match[3], match[4]):
            dashed = not set(match[2]).isdisjoint(_DASHES)
            single = len(match[2]) == 1 and match[2] != ","
            score = LIKELY if dashed else POSSIBLE if single else WITH_CONTEXT_ONLY
            yield Finding("US_SSN", match.start(), match.end(), score, "us_ssn")
    for match in _BARE.finditer(text, start, end):
        if issued(match[1], match[2], match[3]) and len(set(match[0])) > 1:
            yield Finding("US_SSN", match.start(), match.end(), WITH_CONTEXT_ONLY, "us_ssn")
    for match in _SPREAD.finditer(text, start, end):
        digits = re.sub(r"[^0-9]", "", match[0])
        if issued(digits[:3], digits[3:5], digits[5:]) and len(set(digits)) > 1:
            yield Finding("US_SSN", match.start(), match.end(), WITH_CONTEXT_ONLY, "us_ssn")


RECOGNIZER: Final = Recognizer(
    name="us_ssn",
    entities=frozenset({"US_SSN"}),
    layer="checksum",
    find=_find,
    trigger=has_digit,
    languages=frozenset({"en"}),
    context=frozenset({"ssn", "ssns", "social security", "social", "ssid", "soc sec", "tax id", "taxpayer"}),
)
