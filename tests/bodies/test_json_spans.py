"""JSON spans: every key, string and number is a leaf, and a change of one changes nothing else."""

import json
import time
import timeit
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bodies.json_spans import Leaf, is_json, lines, replace, scan, scan_text, unescape
from proxy.bodies.layers import Edit, TextRoot, apply, splice
from proxy.bodies.limits import Limits
from proxy.errors import Denied
from tests import shared_data

SUITE = "security/jsontestsuite/test_parsing"

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def rows(text: str) -> list[tuple[str, str, str]]:
    return [(leaf.kind, leaf.path, leaf.text) for leaf in scan_text(text)]


def flat(value: object, path: str = "$") -> list[tuple[str, str]]:
    """Oracle: (kind, text) of all leaves of a parsed value, in order."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in [("key", key), *flat(item)]]
    if isinstance(value, list):
        return [pair for item in value for pair in flat(item)]
    if isinstance(value, str):
        return [("string", value)]
    return [] if value is None or isinstance(value, bool) else [("number", json.dumps(value))]


def test_paths_kinds_and_texts() -> None:
    text = '{"messages": [{"role":"user","content":"a\\u0062c"},{"n":[1,2.50,-0]}], "odd key":true, "x":null,"t":[[]]}'
    assert rows(text) == [
        ("key", "$.messages", "messages"),
        ("key", "$.messages[0].role", "role"),
        ("string", "$.messages[0].role", "user"),
        ("key", "$.messages[0].content", "content"),
        ("string", "$.messages[0].content", "abc"),
        ("key", "$.messages[1].n", "n"),
        ("number", "$.messages[1].n[0]", "1"),
        ("number", "$.messages[1].n[1]", "2.50"),
        ("number", "$.messages[1].n[2]", "-0"),
        ("key", '$["odd key"]', "odd key"),
        ("key", "$.x", "x"),
        ("key", "$.t", "t"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"a"', [("string", "$", "a")]),
        ("12", [("number", "$", "12")]),
        ('["a","b"]', [("string", "$[0]", "a"), ("string", "$[1]", "b")]),
        ('{"a":1,"a":2}', [("key", "$.a", "a"), ("number", "$.a", "1"), ("key", "$.a", "a"), ("number", "$.a", "2")]),
        (
            '{"a":1}\n{"b":2}',
            [("key", "$.a", "a"), ("number", "$.a", "1"), ("key", "$[1].b", "b"), ("number", "$[1].b", "2")],
        ),
        ("[NaN,-Infinity]", [("number", "$[0]", "NaN"), ("number", "$[1]", "-Infinity")]),
        ('["a', []),
        ("]}", []),
        ('{"a" "b"}', [("string", "$[0]", "a"), ("string", "$[1]", "b")]),
        ("", []),
    ],
)
def test_odd_texts(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert rows(text) == expected


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_leaves_agree_with_a_parser(value: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert [(leaf.kind, leaf.text) for leaf in scan_text(text)] == flat(value)
    assert is_json(text)


@given(values, st.data())
def test_an_edit_of_a_string_changes_only_that_span(value: object, data: st.DataObject) -> None:
    text = json.dumps(value)
    root = TextRoot(text, "body")
    leaves = [leaf for leaf in scan_text(text, root) if leaf.kind == "string" and leaf.text]
    if not leaves:
        return
    leaf = data.draw(st.sampled_from(leaves))
    start = data.draw(st.integers(0, len(leaf.text) - 1))
    end = data.draw(st.integers(start + 1, len(leaf.text)))
    new = data.draw(st.text('"\\ab\n', max_size=5))
    changed = splice(text, apply({leaf: [Edit(start, end, new)]})[root])
    assert changed.startswith(text[: leaf.start + 1])
    assert changed.endswith(text[leaf.end - 1 :])
    token = changed[leaf.start : len(changed) - len(text) + leaf.end]
    assert json.loads(token) == leaf.text[:start] + new + leaf.text[end:]


escaped = st.sampled_from(
    [
        "a",
        "é",
        "😀",
        "\\n",
        "\\u0041",
        "\\ud83d\\ude00",
        "\\ud83d",
        "\\ude00",
        '\\"',
        "\\\\",
        "\\/",
        "\\u0000",
        "\\q",
        "\x01",
    ]
)


@given(st.lists(escaped, max_size=12))
def test_the_offset_map_agrees_with_the_decoder_at_every_split(pieces: list[str]) -> None:
    raw = "".join(pieces)
    text = f'"{raw}"'
    leaf = scan_text(text)[0]
    offsets = leaf.offsets()
    assert offsets.at(len(leaf.text)) == len(raw) + 1
    for split in range(len(leaf.text) + 1):
        left, right = text[1 : offsets.at(split)], text[offsets.at(split) : -1]
        if leaf.text[split - 1 : split].encode("utf-8", "surrogatepass")[:2] >= b"\xed\xa0" and "\\u" in left:
            continue  # two lone halves may pair up when cut differently
        assert unescape(left) + unescape(right) == leaf.text


@pytest.mark.parametrize("depth", range(1, 6))
def test_nested_strings_are_escaped_once_per_level(depth: int) -> None:
    text = 'say "123" \\ now'
    for _ in range(depth):
        text = json.dumps({"k": text})
    root = TextRoot(text, "body")
    leaf: Leaf | TextRoot = root
    for _ in range(depth):
        leaf = scan_text(leaf.text, leaf)[1]
    at = leaf.text.index("123")
    changed = splice(text, apply({leaf: [Edit(at, at + 3, '<"\\>')]})[root])
    for _ in range(depth):
        changed = json.loads(changed)["k"]
    assert changed == 'say "<"\\>" \\ now'


def test_a_number_becomes_a_string() -> None:
    text = '{"card": 4111111111111111 , "n": 1}'
    root = TextRoot(text, "body")
    leaf = scan_text(text, root)[1]
    assert splice(text, apply({leaf: [Edit(0, 16, "<CREDIT_CARD>")]})[root]) == '{"card": "<CREDIT_CARD>" , "n": 1}'


def test_byte_spans_of_a_body_with_other_scripts() -> None:
    body = '{"é":"ü","😀":["x",7]}'.encode()
    leaves = scan(body)
    assert [body[leaf.start : leaf.end].decode() for leaf in leaves] == ['"é"', '"ü"', '"😀"', '"x"', "7"]
    assert replace(body, [(leaves[4].start, leaves[4].end, b"8"), (leaves[1].start, leaves[1].end, b'"u"')]) == (
        '{"é":"u","😀":["x",8]}'.encode()
    )


@shared_data.needs(SUITE)
@pytest.mark.parametrize("file", shared_data.files(SUITE, "*.json"), ids=lambda file: file.name)
def test_json_test_suite(file: Path) -> None:
    """y_ is JSON to us, n_ is not (but for what json.loads takes), nothing raises and nothing hangs."""
    name, body = file.name, file.read_bytes()
    if name.startswith(("n_structure_100000", "n_structure_open_array_object", "i_structure_500")):
        with pytest.raises(Denied, match="too_large"):
            scan(body)
        return
    leaves = scan(body)
    text = body.decode("utf-8", "surrogateescape")
    for leaf in leaves:
        assert 0 <= leaf.start < leaf.end <= len(body)
    assert replace(body, []) == body
    if name.startswith("y_"):
        assert is_json(text)
    lenient = ("NaN", "nan", "nfinity", "unescaped_ctrl", "unescaped_newline", "unescaped_tab", "minus_infinity")
    if name.startswith("n_") and not any(word in name for word in lenient):
        assert not is_json(text)


def test_depth_and_size_are_capped() -> None:
    assert len(scan_text("[" * 128 + "1")) == 1
    limits = Limits(max_leaves=10)
    for text, cap in (("[" * 129, Limits()), ("[" + "1," * 11 + "1]", limits)):
        with pytest.raises(Denied, match="too_large"):
            scan_text(text, None, cap)


@pytest.mark.parametrize(
    "text", ['"' + '\\"' * 200_000, '"\\' * 200_000, "{" + '"a"' * 100_000, "\\" * 500_000, " " * 500_000]
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    assert timeit.timeit(lambda: scan_text(text), number=1, timer=time.process_time) < 2.0


def test_lines_of_ndjson() -> None:
    assert list(lines('{"a":1}\n\n{"b":2}\r\n')) == [(0, '{"a":1}'), (9, '{"b":2}\r')]
