"""Patterns of the admin's own: RE2's syntax, offsets in characters, linear whatever the expression."""

import time

import pytest

from proxy.config.snapshot import DlpPattern
from proxy.customdata.patterns import BadPattern, compiled, find


def texts(text: str, regex: str, *context: str) -> list[str]:
    found = find(DlpPattern("TICKET", regex, frozenset(context)), text)
    return [text[one.start : one.end] for one in found]


@pytest.mark.parametrize(
    ("text", "regex", "expected"),
    [
        ("see ACME-123456, ACME-12", r"ACME-\d{6}", ["ACME-123456"]),
        ("é😀 ACME-123456 é ACME-654321é", r"ACME-\d{6}", ["ACME-123456", "ACME-654321"]),
        ("Äcme ÄCME", r"(?i)äcme", ["Äcme", "ÄCME"]),
        ("aab", r"a+|b", ["aa", "b"]),
        ("a", "b", []),
    ],
)
def test_matches(text: str, regex: str, expected: list[str]) -> None:
    assert texts(text, regex) == expected


def test_context_words_must_stand_near() -> None:
    assert texts("badge 123456", r"\d{6}", "badge") == ["123456"]
    assert texts("price 123456", r"\d{6}", "badge") == []
    assert texts("badge" + " x" * 60 + " 123456", r"\d{6}", "badge") == []


@pytest.mark.parametrize(
    ("regex", "why"),
    [
        ("(", "missing"),
        (r"(?<=x)y", "perl operator"),
        (r"(a)\1", "escape"),
        ("a*", "empty text"),
        ("a{5000}", "repetition"),
        (r"((\pL{100}){100}){10}", "too large|repetition"),
    ],
)
def test_what_cannot_be_linear_is_refused(regex: str, why: str) -> None:
    with pytest.raises(BadPattern, match=why):
        compiled(regex)


@pytest.mark.parametrize("regex", ["(a+)+$", "(a|a)*b", "(a*)*c", r"(\w+\s?)+$"])
def test_catastrophic_expressions_are_harmless(regex: str) -> None:
    text = "a" * 100_000 + "!"
    begun_s = time.process_time()
    try:
        texts(text, regex)
    except BadPattern:
        return
    assert time.process_time() - begun_s < 1.0
