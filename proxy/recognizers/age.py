"""Ages of people (`34 years old`, `aged 34`, `34-year-old`). Found where a rule names AGE, and in paranoid."""

import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import LIKELY, Recognizer, has_digit

_NUMBER: Final = r"(?P<age>1[01][0-9]|[1-9]?[0-9])"
_CUE: Final = r"(?<![\w\-])(?:aged|age(?: is|:|=)|turned|turning|alter:|edad:|âge:|età:|idade:|leeftijd:)"
_FORMS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<![\w.,]){_NUMBER}[ -]?(?:years?|yrs?|months?)[ -]old\b",
        rf"(?<![\w.,]){_NUMBER}[ ]?(?:y/o|yo|jahre alt|años de edad|ans d'âge|anni di età|anos de idade|jaar oud)\b",
        rf"{_CUE}[ ]?{_NUMBER}(?![\w%]|[.,:/\-][0-9])",
    )
)
_TRIGGER: Final = re.compile(r"old|oud|y/o|yo\b|jahre|edad|âge|età|idade|leeftijd|age|turn|alter", re.IGNORECASE)


def _find(text: str) -> Iterator[Finding]:
    for form in _FORMS:
        for match in form.finditer(text):
            yield Finding("AGE", match.start("age"), match.end("age"), LIKELY, "age")


def _trigger(text: str) -> bool:
    return has_digit(text) and _TRIGGER.search(text) is not None


RECOGNIZER: Final = Recognizer(
    name="age", entities=frozenset({"AGE"}), layer="pattern", find=_find, trigger=_trigger, languages=frozenset({"*"})
)
