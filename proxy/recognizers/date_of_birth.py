"""Dates of birth: a date beside a word that says so. A date alone is no finding."""

import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers._hints import Hints
from proxy.recognizers.base import LIKELY, Recognizer, has_digit

_MONTH: Final = (
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mär|mai|okt|dez|ene|abr|ago|dic|janv|févr|avr|juin|juil|août|"
    r"gen|mag|giu|lug|set|ott|fev|out|mrt|mei)[^\W\d_]{0,8}\.?"
)
_DATE: Final = (
    r"(?P<date>(?:[0-3]?[0-9][./\-][01]?[0-9][./\-](?:[12][0-9])?[0-9]{2}|[01]?[0-9]/[0-3]?[0-9]/(?:[12][0-9])?[0-9]{2}|"
    r"(?:19|20)[0-9]{2}[./\-][01]?[0-9][./\-][0-3]?[0-9]|"
    rf"[0-3]?[0-9](?:st|nd|rd|th|\.)?[ ](?:of |de |di )?{_MONTH},?[ ](?:de )?(?:19|20)[0-9]{{2}}|"
    rf"{_MONTH}[ ][0-3]?[0-9](?:st|nd|rd|th)?,?[ ](?:19|20)[0-9]{{2}}))(?![\w/]|[.\-][0-9])"
)
_CUE: Final = (
    r"(?:date of birth|birth ?-?_?date|birthday|d\.?o\.?b\.?|born(?: on)?(?: the)?|geburtsdatum|geboren(?: am| op)?|"
    r"geb\.|fecha de nacimiento|nacid[oa](?: el)?|date de naissance|né(?:e)?(?: le)?|data di nascita|nat[oa](?: il)?|"
    r"data de nascimento|nascid[oa](?: em)?|geboortedatum)"
)
_BORN: Final = re.compile(
    rf"(?<![^\W\d_]){_CUE}[\"']?(?:[ ]?(?:is|was|ist|es|est|è|é)\b)?[\s:=\"'(,\-]{{0,6}}{_DATE}", re.IGNORECASE
)
_NEEDED: Final = ("birth", "dob", "d.o", "do.b", "born", "geb", "nac", "naiss", "né", "nas", "nato", "nata")
_HINTS: Final = Hints([_NEEDED])
_BEFORE_CHARS: Final = 32
_AFTER_CHARS: Final = 128
"""More than a cue in front of what it needs, and than the rest of it with a date."""


def _find(text: str) -> Iterator[Finding]:
    places = (place for _, stretches in _HINTS.stretches(text, _BEFORE_CHARS, _AFTER_CHARS) for place in stretches)
    for match in (match for start, end in places for match in _BORN.finditer(text, start, end)):
        yield Finding("DATE_OF_BIRTH", match.start("date"), match.end("date"), LIKELY, "date_of_birth")


def _trigger(text: str) -> bool:
    return has_digit(text)


RECOGNIZER: Final = Recognizer(
    name="date_of_birth",
    entities=frozenset({"DATE_OF_BIRTH"}),
    layer="checksum",
    find=_find,
    trigger=_trigger,
)
