"""Offset maps, with pieces that shrink, grow and vanish."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bodies.offsets import substitute

# a digit stands for as many letters; `0` vanishes
PATTERN = re.compile(r"<(\d)>|(\d)")


def decode(match: re.Match[str]) -> tuple[tuple[str, int], ...]:
    return (("x" * int(match[1] or match[2]), len(match[0])),)


@pytest.mark.parametrize(
    ("source", "decoded", "span", "expected"),
    [
        ("ab<1>cd", "abxcd", (2, 3), (2, 5)),
        ("ab<1>cd", "abxcd", (3, 5), (5, 7)),
        ("ab<1>cd", "abxcd", (0, 5), (0, 7)),
        ("ab3cd", "abxxxcd", (3, 4), (2, 3)),
        ("ab3cd", "abxxxcd", (4, 6), (2, 4)),
        ("ab3cd", "abxxxcd", (0, 3), (0, 3)),
        ("ab0cd", "abcd", (0, 2), (0, 3)),
        ("ab0cd", "abcd", (2, 4), (3, 5)),
        ("0a0", "a", (0, 1), (1, 3)),
        ("33", "xxxxxx", (2, 4), (0, 2)),
    ],
)
def test_spans(source: str, decoded: str, span: tuple[int, int], expected: tuple[int, int]) -> None:
    text, offsets = substitute(PATTERN, source, decode)
    assert text == decoded
    assert offsets.span(*span) == expected
    assert offsets.shifted(10).span(*span) == (expected[0] + 10, expected[1] + 10)


@given(st.text("abc0123<>", max_size=20), st.data())
def test_the_source_span_decodes_to_at_least_the_span(source: str, data: st.DataObject) -> None:
    text, offsets = substitute(PATTERN, source, decode)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    begin, finish = offsets.span(start, end)
    assert 0 <= begin <= len(source)
    assert finish <= len(source)
    if start < end:
        assert text[start:end] in substitute(PATTERN, source[begin:finish], decode)[0]
