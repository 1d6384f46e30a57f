"""Invented people: nobody's address, nobody's number."""

import re

import pytest

from proxy.actions.inventions import FIRST_NAMES, INVENTIONS, LAST_NAMES, Dice
from proxy.redaction import Replacer

KEY = b"k" * 32
FICTION = {
    "PERSON": r"[A-Z][a-z]+ [A-Z]\. [A-Z][a-z]+",
    "EMAIL_ADDRESS": r"[a-z]+\.[a-z]+\.[a-z2-7]{4}@example\.org",
    "PHONE_NUMBER": r"[2-9](?!11)[0-8]\d-555-01\d\d",
}


@pytest.mark.parametrize("entity", INVENTIONS)
def test_every_invention_is_in_a_range_kept_for_fiction(entity: str) -> None:
    texts = [INVENTIONS[entity](Dice(seed * 0x9E3779B97F4A7C15F39CC0605CEDC834), "x") for seed in range(2000)]
    assert all(re.fullmatch(FICTION[entity], text) for text in texts)
    assert len(set(texts)) > 1950


@pytest.mark.parametrize(
    ("original", "form"),
    [
        ("+44 20 1234 5678", r"\+44 1\d\d 496 0\d{3}"),
        ("+49 30 123456", r"\+1 \d{3}-555-01\d\d"),
        ("030 1", r"\d{3}-555-01\d\d"),
    ],
)
def test_phones_keep_what_a_reader_needs_of_the_form(original: str, form: str) -> None:
    assert re.fullmatch(form, Replacer(KEY).text("synthesize", "PHONE_NUMBER", original, original))


def test_the_same_mailbox_is_the_same_person() -> None:
    first, second = (Replacer(KEY).text("synthesize", "EMAIL_ADDRESS", mail, mail) for mail in ("A@x.com", "a@x.com"))
    assert first == second


def test_no_name_stands_twice() -> None:
    assert len(set(FIRST_NAMES)) == len(FIRST_NAMES) > 120
    assert len(set(LAST_NAMES)) == len(LAST_NAMES) > 110
