"""The token gate: what the model is shown, and what it never is."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.recognizers import _gate


def test_a_name_is_shown_with_its_neighbours_only() -> None:
    plain = "it returns the sorted list without any changes. " * 20
    text = plain + "Please call Jane Roe today. " + plain
    ((start, end),) = _gate.regions(text)
    assert "Jane Roe" in text[start:end]
    assert end - start < 80


def test_plain_instructions_are_not_shown() -> None:
    assert _gate.regions("Write a function that merges two sorted lists and returns the result.") == []


@pytest.mark.parametrize("text", ["", "!?" * 10_000, "(" * 20_000, "\u4e00" * 20_000, " " * 5_000, "\ud800" * 100])
def test_what_is_no_language_is_never_shown(text: str) -> None:
    assert _gate.regions(text) == []


def test_a_long_gap_parts_what_is_shown() -> None:
    text = "Jane Roe" + "-" * 5_000 + "John Smith"
    assert [text[start:end] for start, end in _gate.regions(text)] == ["Jane Roe", "John Smith"]


@given(st.text(alphabet=st.sampled_from("Jane Roe St.12,\n-é!"), max_size=400))
def test_regions_are_disjoint_ordered_and_whole_words(text: str) -> None:
    regions = _gate.regions(text, threshold=-4.0)
    assert all(0 <= start < end <= len(text) for start, end in regions)
    assert all(left[1] <= right[0] for left, right in pairwise(regions))


def test_learning_words_in_another_order_changes_no_score() -> None:
    texts = ["Jane Roe of Hamburg", "call Karl at 12 Main St", "nothing to see"]
    first = [_gate.regions(text) for text in texts]
    _gate._memos.cache_clear()
    assert [_gate.regions(text) for text in reversed(texts)] == first[::-1]
