"""Placeholders: the same value, the same text; another value, app or entity, another text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.placeholders import PLACEHOLDER_RE, inside_placeholder, normalise, placeholder

KEY = b"k" * 32


@given(st.binary(min_size=32, max_size=32), st.text(max_size=30))
def test_form(key: bytes, value: str) -> None:
    name = placeholder(key, "EMAIL_ADDRESS", value)
    match = PLACEHOLDER_RE.fullmatch(name)
    assert match is not None
    assert match[1] == "EMAIL_ADDRESS"
    assert name == placeholder(key, "EMAIL_ADDRESS", value)


def test_known_answer() -> None:
    """Pins the format: a change would orphan the placeholders in every running conversation."""
    assert placeholder(KEY, "EMAIL_ADDRESS", "jane@example.com") == "<EMAIL_ADDRESS_mw5jde5k>"


def test_key_entity_and_value_all_count() -> None:
    names = {
        placeholder(key, entity, value)[-9:]
        for key in (KEY, b"j" * 32)
        for entity in ("PERSON", "LOCATION")
        for value in ("Jordan", "Sydney")
    }
    assert len(names) == 8


@pytest.mark.parametrize(
    ("entity", "one", "other"),
    [
        ("CREDIT_CARD", "4111 1111 1111 1111", "4111-1111-1111-1111"),
        ("IBAN_CODE", "GB82 WEST 1234 5698 7654 32", "gb82west12345698765432"),
        ("US_SSN", "536-22-8176", "536 22 8176"),
        ("PHONE_NUMBER", "(212) 555-0100", "212.555.0100"),
        ("EMAIL_ADDRESS", "Jane@Example.com", "jane@example.com"),
        ("PERSON", "Jane\n Roe", "Jane Roe"),
        ("PERSON", "Jane Roe", "Ｊane\u00a0Roe"),
    ],
)
def test_spellings_that_mean_the_same(entity: str, one: str, other: str) -> None:
    assert normalise(entity, one) == normalise(entity, other)


@pytest.mark.parametrize(
    ("entity", "one", "other"),
    [
        ("PHONE_NUMBER", "+12125550100", "12125550100"),
        ("SECRET", "sk-abcDEF", "sk-abcdef"),
        ("SECRET", "ab-cd", "abcd"),
        ("PERSON", "Jane Roe", "Janet Roe"),
    ],
)
def test_spellings_that_differ(entity: str, one: str, other: str) -> None:
    assert normalise(entity, one) != normalise(entity, other)


@pytest.mark.parametrize(
    ("text", "start", "end", "expected"),
    [
        ("hi <PERSON_abcdefgh>!", 3, 20, True),
        ("hi <PERSON_abcdefgh>!", 4, 10, True),
        ("hi <PERSON_abcdefgh>!", 3, 21, False),
        ("hi <PERSON_abcdefgh>!", 2, 10, False),
        ("hi <PERSON_abcdefg1>!", 4, 10, False),
        ("<X_4111111111111111_abcdefgh>", 3, 19, False),
        ("<PERSON_abcdefgh> 4111", 18, 22, False),
    ],
)
def test_what_an_earlier_turn_left_is_left_alone(text: str, start: int, end: int, expected: bool) -> None:
    assert inside_placeholder(text, start, end) is expected
