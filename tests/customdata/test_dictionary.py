"""Dictionaries: whole words, any case, longest of overlapping ones, linear."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.snapshot import DlpDictionary
from proxy.customdata.dictionary import find

BIRDS = DlpDictionary("CODE_NAME", ("Bluebird", "Blue", "Project Falcon", "ÄRGER", "C++", "青鳥"))


def texts(dictionary: DlpDictionary, text: str) -> list[str]:
    return [text[found.start : found.end] for found in find(dictionary, text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("about bluebird.", ["bluebird"]),
        ("BLUEBIRD", ["BLUEBIRD"]),
        ("bluebirds", []),
        ("a blue bird", ["blue"]),
        ("preblue", []),
        ("blue2", []),
        ("blue_print", ["blue"]),
        ("blue-bird", ["blue"]),
        ("project falcon, Project Falcon", ["project falcon", "Project Falcon"]),
        ("project  falcon", []),
        ("viel Ärger hier", ["Ärger"]),
        ("İİ Ärger", ["Ärger"]),
        ("in C++ and C++20", ["C++", "C++"]),
        ("新しい青鳥計画", ["青鳥"]),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert texts(BIRDS, text) == expected


def test_case_and_parts_as_asked() -> None:
    assert texts(DlpDictionary("X", ("Blue",), case_sensitive=True), "blue Blue BLUE") == ["Blue"]
    assert texts(DlpDictionary("X", ("Blue",), whole_words=False), "Bluebirds in blue") == ["Blue", "blue"]
    assert [f.entity for f in find(DlpDictionary("X", ("Blue",)), "blue")] == ["X"]


@given(st.lists(st.text("abc ", min_size=2, max_size=4).filter(str.strip), min_size=1, max_size=6, unique=True),
       st.text("abc .", max_size=40))  # fmt: skip
def test_the_same_as_looking_for_each_word_by_itself(words: list[str], text: str) -> None:
    covered = {i for found in find(DlpDictionary("X", tuple(words)), text) for i in range(found.start, found.end)}
    expected: set[int] = set()
    for word in words:
        for at in range(len(text)):
            end = at + len(word)
            left = at and text[at - 1].isalnum() and word[0].isalnum()
            right = end < len(text) and text[end].isalnum() and word[-1].isalnum()
            if text.startswith(word, at) and not left and not right:
                expected |= set(range(at, end))
    assert covered <= expected
    assert len(covered) >= len(expected) / 2  # overlapping words: the longest of each start


def test_a_hundred_thousand_words_cost_no_more_than_ten() -> None:
    many = DlpDictionary("X", tuple(f"word{number}x" for number in range(100_000)))
    text = "some words about nothing at all, word99999x and word5y. " * 2000
    assert len(list(find(many, text))) == 2000
    begun_s = time.process_time()
    list(find(many, text))
    assert time.process_time() - begun_s < 1.0
