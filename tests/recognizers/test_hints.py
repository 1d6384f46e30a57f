"""What spares a recogniser's patterns must never hide a match."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.recognizers import date_of_birth, person_name, secret_keyword, seed_phrase, street_address
from proxy.recognizers._hints import Hints
from proxy.recognizers.base import mentions

_PIECES = st.sampled_from(
    ["Dr. ", "DR. ", "Jane Roe", " ", "\n", ",", "my name is ", "12 ", "Main Street", "Hauptstra\u00dfe 5", "Suite 7",
     "Customer: ", "said ", "zip code ", "90210", "\u017fuite 4", "Regards,\n", "born on ", "12.03.1980", "P.O. Box 8",
     "PSC 3, Box 9", "T\u00e9r 4", "\u00c9", "Dear ", "> ", "NE", "fecha de nacimiento: "]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_a_cue_of_a_name_matches_the_same_in_its_stretches(text: str) -> None:
    found = dict(person_name._HINTS.stretches(text, person_name._BEFORE_CHARS, person_name._AFTER_CHARS))
    for cue, (pattern, _) in enumerate(person_name._CUES):
        near = [match.span() for start, end in found.get(cue, ()) for match in pattern.finditer(text, start, end)]
        assert near == [match.span() for match in pattern.finditer(text)]


@given(
    st.lists(st.sampled_from(["api", "_", "key", "PassWord", "s", " ", "=", "-", "x", "Pwd", "client_secret", "_id"]))
)
def test_keywords_are_found_as_in_the_whole_text(parts: list[str]) -> None:
    text = "".join(parts)
    found = [match.span() for match in secret_keyword._keywords(text)]
    assert found == [match.span() for match in secret_keyword._KEYWORD.finditer(text)]


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_an_anchor_of_an_address_matches_the_same_in_its_stretches(text: str) -> None:
    stretches = [(start, end, text[start:end]) for start, end in street_address._numbered(text)]
    for pattern, _, hints in street_address._ANCHORS:
        whole = [match.span() for match in pattern.finditer(text)]
        assert [match.span() for match in street_address._matches(text, stretches, pattern, hints)] == whole


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_a_date_of_birth_triggers(text: str) -> None:
    assert date_of_birth.RECOGNIZER.trigger(text) or not list(date_of_birth.RECOGNIZER.find(text))


@pytest.mark.parametrize("text", ["Pa\u017fsword=", "TO\u212aEN: ", "bas\u0131c", "my PASSWORD is", "curl -u a:b"])
def test_odd_capitals_do_not_hide_a_keyword(text: str) -> None:
    assert secret_keyword.RECOGNIZER.trigger(text)


def test_nothing_mentioned() -> None:
    assert not mentions("The weather is fine", ("key",))
    assert mentions("KEY", ("key",))
    assert mentions("\u212aey", ("key",))


def test_hints_name_the_patterns_whose_piece_occurs_and_where() -> None:
    hints = Hints([("foo", "bar"), ("bar",), ("foobar",)])
    assert dict(hints.stretches("a FOO", 1, 9)) == {0: [(1, 11)]}
    assert dict(hints.stretches("foobar", 0, 6)) == {0: [(0, 9)], 1: [(3, 9)], 2: [(0, 6)]}
    assert dict(hints.stretches("bar......bar", 0, 3))[1] == [(0, 3), (9, 12)]
    assert dict(hints.stretches("nothing", 1, 1)) == {}
    assert re.search("s", "\u017f", re.IGNORECASE)
    assert dict(hints.stretches("\u017f", 1, 1)) == {0: [(0, 1)], 1: [(0, 1)], 2: [(0, 1)]}


def test_a_seed_phrase_needs_twelve_words_of_the_list() -> None:
    phrase = "abandon " * 11 + "about"
    assert seed_phrase.RECOGNIZER.trigger(phrase.upper())
    assert not seed_phrase.RECOGNIZER.trigger("abandon " * 11 + "xyzzy")
