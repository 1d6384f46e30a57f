"""Putting originals back: levels of escaping, every split, and texts that only look like placeholders."""

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Denied
from proxy.restore import JsonRestorer, Placeholders, TextRestorer

PERSON, EMAIL = "<PERSON_abcd2345>", "<EMAIL_ADDRESS_zzzzzz77>"
RESTORE = {PERSON: 'Ann "Q" \\ Zoë\n', EMAIL: "ann@example.com", "<SECRET_22222222>": "\ud800 lone"}
PLACEHOLDERS = Placeholders(RESTORE)


def expected(text: str) -> str:
    return re.sub("|".join(map(re.escape, RESTORE)), lambda match: RESTORE[match[0]], text)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def pour(restorer: JsonRestorer | TextRestorer, pieces: Sequence[bytes]) -> bytes:
    return b"".join([*(restorer.feed(piece) for piece in pieces), restorer.finish()])


@pytest.mark.parametrize(
    ("data", "level", "out"),
    [
        ("<EMAIL_ADDRESS_zzzzzz77>", 0, "ann@example.com"),
        ("a<<EMAIL_ADDRESS_zzzzzz77>>b", 0, "a<ann@example.com>b"),
        ("<EMAIL_ADDRESS_zzzzzz77", 0, "<EMAIL_ADDRESS_zzzzzz77"),
        ("<EMAIL_ADDRESS_zzzzzz7>", 0, "<EMAIL_ADDRESS_zzzzzz7>"),
        ("<EMAIL_ADDRESS_zzzzzz78>", 0, "<EMAIL_ADDRESS_zzzzzz78>"),
        ("<EMAIL_ADDRESS_zzzzzz76>", 0, "<EMAIL_ADDRESS_zzzzzz76>"),
        ("<email_address_zzzzzz77>", 0, "<email_address_zzzzzz77>"),
        ("< EMAIL_ADDRESS_zzzzzz77>", 0, "< EMAIL_ADDRESS_zzzzzz77>"),
        (r"\u003cEMAIL_ADDRESS_zzzzzz77\u003e", 1, "ann@example.com"),
        (r"\u003CEMAIL_ADDRESS_zzzzzz77\u003E", 1, "ann@example.com"),
        (r"\u003cEMAIL_ADDRESS_zzzzzz77>", 1, "ann@example.com"),
        (r"\\u003cEMAIL_ADDRESS_zzzzzz77\\u003e", 1, "ann@example.com"),
        (r"\\\u003cEMAIL_ADDRESS_zzzzzz77\u003e", 1, r"\\ann@example.com"),
        (r"<PERSON_abcd2345>", 1, r"Ann \"Q\" \\ Zoë\n"),
        (r"<PERSON_abcd2345>", 2, r"Ann \\\"Q\\\" \\\\ Zoë\\n"),
        (r"\u003cPERSON_abcd2345\u003e", 2, r"Ann \\\"Q\\\" \\\\ Zoë\\n"),
        (r"\\u003cPERSON_abcd2345\\u003e", 1, r"Ann \\\"Q\\\" \\\\ Zoë\\n"),
        ("<SECRET_22222222>", 1, r"\ud800 lone"),
    ],
)
def test_replace(data: str, level: int, out: str) -> None:
    """Whole placeholders only, escaped for where they stand."""
    assert PLACEHOLDERS.replace(data.encode(), level).decode() == out


fragments = st.sampled_from(
    [PERSON, EMAIL, "<", ">", "<PERSON_", "abcd2345>", "<EMAIL_ADDRESS_zzzzzz7", "\\", "\\u003c", "u003", '"', "é"]
)
texts = st.lists(fragments | st.text(max_size=4), max_size=8).map("".join).map(lambda text: text.replace("\ud800", ""))


@given(texts.filter(lambda text: "u003" not in text), st.lists(st.integers(0, 10**6), max_size=6))
def test_text_at_any_split(text: str, places: list[int]) -> None:
    """Cut anywhere, the text comes out as if replaced whole."""
    data = text.encode("utf-8", "surrogatepass")
    restorer = TextRestorer(PLACEHOLDERS)
    assert pour(restorer, cut(data, places)).decode("utf-8", "surrogatepass") == expected(text)


json_texts = st.recursive(
    texts.filter(lambda text: "u003" not in text) | st.integers() | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "content"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def mapped(value: Any) -> Any:
    if isinstance(value, str):
        return expected(value)
    if isinstance(value, list):
        return [mapped(item) for item in value]
    return {key: mapped(item) for key, item in value.items()} if isinstance(value, dict) else value


@given(json_texts, st.booleans(), st.lists(st.integers(0, 10**6), max_size=6))
def test_json_at_any_split(value: Any, escape_all: bool, places: list[int]) -> None:
    """Cut anywhere, the JSON stays valid and every string holds the original."""
    text = json.dumps(value, ensure_ascii=escape_all)
    if escape_all:
        text = text.replace("<", "\\u003c").replace(">", "\\u003e")
    data = text.encode("utf-8", "surrogatepass")
    out = pour(JsonRestorer(PLACEHOLDERS), cut(data, places))
    assert json.loads(out.decode("utf-8", "surrogatepass")) == mapped(value)


@given(json_texts, st.sampled_from([0, 1, 2]), st.lists(st.integers(0, 10**6), max_size=6))
def test_json_within_json_at_any_split(value: Any, escapes: int, places: list[int]) -> None:
    """Tool-call arguments stay valid JSON within valid JSON, however often the brackets were escaped."""
    inner = json.dumps(value, ensure_ascii=False)
    if escapes == 1:
        inner = inner.replace("<", "\\u003c").replace(">", "\\u003e")
    outer = json.dumps({"x": PERSON, "arguments": inner, "y": [EMAIL]}, ensure_ascii=False)
    if escapes == 2:
        outer = outer.replace("<", "\\u003c").replace(">", "\\u003e")
    data = outer.encode("utf-8", "surrogatepass")
    out = pour(JsonRestorer(PLACEHOLDERS, frozenset({"arguments"})), cut(data, places))
    answer = json.loads(out.decode("utf-8", "surrogatepass"))
    assert json.loads(answer["arguments"]) == mapped(value)
    assert (answer["x"], answer["y"]) == (RESTORE[PERSON], [RESTORE[EMAIL]])


@given(st.binary(max_size=200), st.lists(st.integers(0, 10**6), max_size=6))
def test_any_bytes_survive(data: bytes, places: list[int]) -> None:
    """What is not JSON at all passes unchanged; nothing raises."""
    assert pour(JsonRestorer(PLACEHOLDERS), cut(data, places)) == data
    assert pour(TextRestorer(PLACEHOLDERS), cut(data, places)) == data


@pytest.mark.parametrize(
    "shape", ["\\" * 300_000, '"' + "\\" * 300_000, "<" * 300_000, '"' + "<PERSON_" * 40_000, '"' + "\\u003" * 60_000]
)
def test_hostile_shapes_take_linear_time(shape: str) -> None:
    """Runs of backslashes and of beginnings cost no more than other text."""
    import time

    data = shape.encode()
    started = time.process_time()
    out = pour(JsonRestorer(PLACEHOLDERS), [data[at : at + 4096] for at in range(0, len(data), 4096)])
    assert time.process_time() - started < 2
    assert out == data


def test_what_cannot_become_a_placeholder_is_not_held_back() -> None:
    """Markup streams at once; only beginnings of the request's own placeholders wait."""
    restorer = TextRestorer(PLACEHOLDERS)
    assert restorer.feed(b"x <b") == b"x <b"
    assert restorer.feed(b" <LOCATION_") == b" <LOCATION_"
    assert restorer.feed(b"<PERS") == b""
    assert restorer.feed(b"IST>") == b"<PERSIST>"


def test_endless_nesting_is_refused() -> None:
    """An upstream cannot make the proxy remember without bound."""
    with pytest.raises(Denied, match="upstream_malformed"):
        JsonRestorer(PLACEHOLDERS).feed(b"[" * 100_000)


def test_signed_members_stay() -> None:
    """A restored thinking block would no longer match its signature."""
    data = b'{"thinking":"<EMAIL_ADDRESS_zzzzzz77>","text":"<EMAIL_ADDRESS_zzzzzz77>"}'
    out = JsonRestorer(PLACEHOLDERS, opaque=frozenset({"thinking"})).feed(data)
    assert out == b'{"thinking":"<EMAIL_ADDRESS_zzzzzz77>","text":"ann@example.com"}'
