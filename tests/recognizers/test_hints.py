"""What spares a recogniser's patterns must never hide a match."""

import re
from typing import Final

import pytest
from ahocorasick_rs import AhoCorasick
from hypothesis import given
from hypothesis import strategies as st

from proxy.model import Finding
from proxy.recognizers import (
    base,
    credit_card,
    crypto_wallet,
    date_of_birth,
    national_id,
    person_name,
    secret_keyword,
    secret_token,
    seed_phrase,
    street_address,
    us_ssn,
)
from proxy.recognizers._hints import Hints, holds
from proxy.recognizers.base import digit_runs, mentions

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
def test_an_anchor_of_an_address_matches_the_same_where_it_is_sought(text: str) -> None:
    found = [(match.re.pattern, match.span()) for _, match in street_address._matches(text)]
    patterns = [pattern for pattern, _, _ in street_address._ANCHORS]
    whole = [(pattern.pattern, match.span()) for pattern in patterns for match in pattern.finditer(text)]
    assert sorted(found) == sorted(whole)


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_a_date_of_birth_is_found_as_in_the_whole_text(text: str) -> None:
    found = [(item.start, item.end) for item in date_of_birth.RECOGNIZER.find(text)]
    assert found == [match.span("date") for match in date_of_birth._BORN.finditer(text)]


_NUMBERS: Final = st.sampled_from(
    ["536-22-8176", "536228176", "5 3 6 2 2 8 1 7 6", "536 / 22 / 8176", "4111 1111 1111 1111", "4111-1111", "41", "1",
     "2", ".", ",", "-", " ", "\n", "x", "no ", "      ", "ssn ", "card ", "0.", "\u2013", "12345678901234567890"]
)  # fmt: skip


@given(st.lists(_NUMBERS, max_size=14).map("".join))
def test_long_numbers_are_found_as_in_the_whole_text(text: str) -> None:
    assert sorted(us_ssn.RECOGNIZER.find(text), key=_place) == sorted(us_ssn._within(text, 0, len(text)), key=_place)
    runs = [run.span() for run in credit_card._RUN.finditer(text) if sum(map(str.isdigit, run[0])) >= 9]
    stretches = digit_runs(text)
    near = [run.span() for start, end in stretches for run in credit_card._RUN.finditer(text, start, end)]
    assert [span for span in near if sum(map(str.isdigit, text[slice(*span)])) >= 9] == runs


def _place(finding: Finding) -> tuple[int, int]:
    return finding.start, finding.end


_IDENTITIES: Final = st.sampled_from(
    ["pesel ", "44051401359", "bsn", ": ", "111222333", " ", "\n", "x" * 40, "cpf ", "529.982.247-25", "nif ", "bank ",
     "AB123456C", "12345678Z", "tax id ", "86 095 742 719", "w " * 40, "\u0130", ", ", "routing "]
)  # fmt: skip


@given(st.lists(_IDENTITIES, max_size=10).map("".join))
def test_identity_numbers_are_found_as_in_the_whole_text(text: str) -> None:
    spoken = {row for row, _, _ in national_id._rows(text)}
    near = {
        (row, match.span())
        for row, start, end in national_id._rows(text)
        for match in national_id._compiled()[row][1].finditer(text, start, end)
    }
    for row in spoken:
        kind, pattern, _ = national_id._compiled()[row]
        for match in pattern.finditer(text):
            if kind.alone or base.near(text, *match.span(), kind.context):
                assert (row, match.span()) in near


@given(st.lists(st.sampled_from(["bc1", "0x", "q" * 40, "1", "3", "Z" * 26, " ", "-", "a" * 25, "F" * 40, "_"])))
def test_wallets_are_whole_runs(parts: list[str]) -> None:
    text = "".join(parts)
    runs = [run.span() for run in crypto_wallet._RUN.finditer(text)]
    for pattern in (crypto_wallet._BASE58, crypto_wallet._BECH32, crypto_wallet._ETHEREUM):
        alone = re.compile(rf"(?<![A-Za-z0-9])(?:{pattern.pattern})(?![A-Za-z0-9])", pattern.flags)
        assert all(match.span() in runs for match in alone.finditer(text))


@given(st.lists(st.sampled_from([*(form.literal for form in secret_token._FORMS), "a" * 20, "1" * 8, "Z", "-", " "])))
def test_every_form_of_a_token_holds_a_long_run(parts: list[str]) -> None:
    text = "".join(parts)
    found = any(form.pattern.search(text) for form in secret_token._FORMS)
    assert not found or secret_token._LONG_RUN.search(text)


def test_pieces_are_held_as_they_are_written() -> None:
    pieces = AhoCorasick(["Rue "])
    assert holds("12 Rue X", pieces)
    assert not holds("12 rue X", pieces)
    assert holds("\ud800", pieces)


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
