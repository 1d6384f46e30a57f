"""The prefilter may say "perhaps" too often, never "no" wrongly."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.recognizers._signs import Prefilter, relaxed

PATTERNS = [
    r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)", r"\b[A-Z]{2}[0-9]{2}(?:[ ]?[0-9A-Z]{4}){2,7}\b", r"(a|b)\1", r"(?i)sk|ß",
    r"[^\w\s]{2}", r"[^a-c]b", r"(?>ab|a)c", r"a*+b", r"\Aab\Z", r"(?:a{2}){3}", r"(?s:a.b)", r"\S+@\S+", r"(?<=x)y",
]  # fmt: skip
TEXT = st.text(alphabet=st.sampled_from("aAbBcCxyzsSkK0129-@ .\nß\u0130\u0131\u017f\u212a\u0661é"), max_size=30)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=TEXT)
def test_no_match_is_ever_hidden(pattern: str, text: str) -> None:
    for flags in (0, re.IGNORECASE):
        sign = relaxed(pattern, flags)
        assert sign is not None
        if re.search(pattern, text, flags):
            assert 0 in Prefilter([[sign]]).possible(text)


def test_only_those_that_could_match_are_named() -> None:
    signs = [[relaxed(r"[0-9]{3}") or ""], [relaxed("foo") or "", relaxed("bar") or ""], []]
    prefilter = Prefilter(signs)
    assert prefilter.possible("nothing") == {2}
    assert prefilter.possible("a bar") == {1, 2}
    assert prefilter.possible("foo 123") == {0, 1, 2}


@pytest.mark.parametrize("pattern", ["(", r"(a)?(?(1)b|c)"])
def test_what_cannot_be_turned_is_said(pattern: str) -> None:
    assert relaxed(pattern) is None


def test_a_text_that_utf8_cannot_carry_is_not_filtered() -> None:
    assert Prefilter([["x"]]).possible("\ud800") == {0}
