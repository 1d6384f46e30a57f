"""The own cutting of ASCII words gives what the model's tokenizer gives."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from proxy.recognizers import rampart
from proxy.recognizers._pieces import Pieces

_LIKELY = "abz AB09.,-_[](){}@#'\"\\/`~^\n\t\r\x00\x0b\x1c\x7fCLSEPKUMD"


def both(text: str, start: int = 0, end: int | None = None) -> tuple[Pieces, Pieces]:
    cutter, end = rampart.model().cutter, len(text) if end is None else end
    return cutter.cut(text, start, end), cutter._by_library(text[start:end], start)


@settings(deadline=None)
@given(st.text(_LIKELY, max_size=60) | st.text(st.characters(max_codepoint=127), max_size=60))
def test_any_ascii_is_cut_alike(text: str) -> None:
    own, library = both(text)
    assert own == library


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "antidisestablishmentarianism, Xqzrtkv-7f3a",
        "a" * 100,
        "a" * 101,
        "x [SEP] [sep] [CLS",
        "a\x0bb",
        "J. O'Roe\n",
    ],
)
def test_edges_are_cut_alike(text: str) -> None:
    own, library = both(text)
    assert own == library


def test_other_letters_are_cut_by_the_library() -> None:
    text = "Renée Müller \ud800 x"
    cut = rampart.model().cutter.cut(text, 6, len(text))
    assert [text[start:end] for start, end in zip(cut.starts, cut.ends, strict=True)] == ["Müller", "x"]


def test_places_are_those_of_the_whole_text() -> None:
    text = "Please ask Jane Roe-Xyqzk now"
    cut, library = both(text, 11, 25)
    assert cut == library
    assert [text[start:end] for start, end in zip(cut.starts, cut.ends, strict=True)] == ["Jane", "Roe", "-", "Xyqzk"]
    assert [cut.firsts[0], cut.firsts[-1]] == [0, 3]
    assert len(cut.ids) > 4
