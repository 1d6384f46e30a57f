"""Doubts about model hits: one rule per row."""

from typing import Literal

import pytest

from proxy.model import Finding
from proxy.recognizers.prose import plausible


def _plausible(text: str, value: str, entity: str, doubt: Literal["none", "usual", "hard"]) -> bool:
    start = text.index(value)
    return plausible(text, Finding(entity, start, start + len(value), 0.85, "spacy_ner"), doubt)


@pytest.mark.parametrize(
    ("text", "value", "entity", "usual", "hard"),
    [
        ("I met Jane Roe there", "Jane Roe", "PERSON", True, True),
        ("I met (Jane Roe) there", "Jane Roe", "PERSON", True, True),
        ("I met Ronald McDonald there", "Ronald McDonald", "PERSON", True, True),
        ("I met Jane there", "Jane", "PERSON", True, False),
        ("in paris we", "paris", "LOCATION", True, False),
        ("jane was", "jane", "PERSON", False, False),
        ("> Jane Roe wrote", "Jane Roe", "PERSON", True, True),
        (">Jane Roe wrote", "Jane Roe", "PERSON", True, True),
        ("List<Jane Roe", "Jane Roe", "PERSON", False, False),
        ("self.Smith Jones = 1", "Smith Jones", "PERSON", False, False),
        ("Smith.value", "Smith", "PERSON", False, False),
        ("f(Smith)", "Smith", "PERSON", False, False),
        ("except ValueError: x", "ValueError", "PERSON", False, False),
        ("using ALSA and", "ALSA", "PERSON", False, False),
        ("in python3 and", "python3", "LOCATION", False, False),
        ("for Linux and", "Linux", "LOCATION", False, False),
        ("  # Spacing of", "Spacing", "PERSON", False, False),
        ("# Jane Roe wrote", "Jane Roe", "PERSON", True, True),
    ],
)
def test_doubts(text: str, value: str, entity: str, usual: bool, hard: bool) -> None:
    assert _plausible(text, value, entity, "usual") is usual
    assert _plausible(text, value, entity, "hard") is hard
    assert _plausible(text, value, entity, "none") is True


def test_other_entities_are_not_doubted() -> None:
    assert _plausible("on 3 March", "3 March", "DATE_TIME", "hard") is True
