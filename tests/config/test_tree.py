"""YAML to a tree: one reading only, bounded, every node with its place."""

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.errors import ConfigErrors, Mark, Problems
from proxy.config.tree import MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES, Map, Node, Scalar, Seq, parse_yaml
from tests.shared_data import ROOT, needs, rows


def parse(data: bytes | str) -> tuple[Node | None, list[str]]:
    problems = Problems()
    node = parse_yaml(data.encode() if isinstance(data, str) else data, "f.yaml", problems)
    return node, [f"{error.line}:{error.col} {error.message}" for error in problems.errors]


@pytest.mark.parametrize(
    "text", ["NO", "0777", "1.10", "null", "~", "2027-03-31", "1_000", ".inf", "0x1f", "12:30:00", "yes"]
)
def test_scalars_stay_what_they_look_like(text: str) -> None:
    node, errors = parse(f"key: {text}")
    assert errors == []
    assert isinstance(node, Map)
    assert node.pairs["key"][1] == Scalar(text, plain=True, mark=Mark("f.yaml", 1, 6))


def test_every_node_has_its_place() -> None:
    node, errors = parse("a:\n  - b: [x, 'y']\n")
    assert errors == []
    assert isinstance(node, Map)
    key, seq = node.pairs["a"]
    assert (key, seq.mark) == (Mark("f.yaml", 1, 1), Mark("f.yaml", 2, 3))
    assert isinstance(seq, Seq)
    inner = seq.items[0]
    assert isinstance(inner, Map)
    leaf = inner.pairs["b"][1]
    assert isinstance(leaf, Seq)
    assert leaf.items == [Scalar("x", True, Mark("f.yaml", 2, 9)), Scalar("y", False, Mark("f.yaml", 2, 12))]


REFUSED = {
    "duplicate key": ("a: 1\na: 2", "2:1 the key 'a' stands here for the second time (first on line 1)"),
    "nested duplicate": ("x: {k: 1, k: 2}", "1:11 the key 'k' stands here for the second time (first on line 1)"),
    "anchor": ("a: &x 1", "1:4 anchors (`&x`) are not allowed"),
    "alias": ("a: &x 1\nb: *x", "2:4 aliases (`*name`) are not allowed"),
    "alias as key": ("a: &x 1\n*x : 2", "2:1 aliases (`*name`) are not allowed"),
    "merge": ("a: {<<: {b: 1}}", "1:5 merge keys are not allowed"),
    "cycle": ("a: &a [*a]", "1:8 aliases (`*name`) are not allowed"),
    "tag": ("a: !!int '1'", "1:4 tags ('tag:yaml.org,2002:int') are not allowed"),
    "own tag": ("a: !foo bar", "1:4 tags ('!foo') are not allowed"),
    "bare tag": ("a: ! bar", "1:4 tags ('!') are not allowed"),
    "tagged collection": ("a: !!set {b}", "1:4 tags ('tag:yaml.org,2002:set') are not allowed"),
    "second document": ("a: 1\n---\nb: 2", "2:1 a second document starts here"),
    "complex key": ("? [a, b]\n: c", "1:3 a key must be a plain word"),
    "tab": ("a:\n\t- b", "2:1 a tab stands where YAML wants spaces"),
    "torn": (
        "services:\n  - name: app1\n    allowed_dom",
        "3:16 not YAML: while scanning a simple key, could not find expected ':'",
    ),
    "empty": ("", "1:1 the file is empty"),
    "comments only": ("# nothing\n", "1:1 the file is empty"),
    "control character": ("a: \x01", "1:1 not YAML: unacceptable character #x0001: control characters are not allowed"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(text: str, message: str) -> None:
    _, errors = parse(text)
    assert message in [error.removesuffix(" ") for error in errors] or any(
        error.startswith(message) for error in errors
    )


NEAR_MISSES = {
    "same key, other maps": "a: {k: 1}\nb: {k: 2}",
    "quoted merge": "a: {'<<': 1}",
    "quoted anchor": "a: '&x'",
    "star in quotes": "a: '*x'",
    "exclamation in quotes": "a: '!foo'",
    "document start": "---\na: 1",
    "document end": "a: 1\n...\n",
    "byte order mark": "\ufeffa: 1",
    "crlf": "a: 1\r\nb: 2\r\n",
}


@pytest.mark.parametrize("text", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_what_only_looks_like_it_is_taken(text: str) -> None:
    node, errors = parse(text)
    assert errors == []
    assert isinstance(node, Map)


def test_all_mistakes_of_a_file_come_at_once() -> None:
    _, errors = parse("a: &x 1\nb: !t 2\nc: 3\nc: 4\n")
    assert [error.partition(" ")[0] for error in errors] == ["1:4", "2:4", "4:1"]


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{name}: &{name} [{','.join(['*' + chr(ord(name) - 1)] * 9)}]" for name in "bcdefghi"
)
BOMBS = {
    "billion laughs": LAUGHS,
    "deep flow map": "{a: " * 3000 + "1" + "}" * 3000,
    "deep block": "".join("  " * depth + "a:\n" for depth in range(200)),
    "open brackets": "[" * 900_000,
    "dashes": "- " * 500_000,
    "five megabyte scalar": "a: " + "x" * 5_000_000,
    "too many entries": "\n".join(f"k{number}: [a, b]" for number in range(60_000)),
    "question marks": "? " * 500_000,
    "two megabytes of comments": "# comment\n" * 200_000,
    "anchors": "\n".join(f"k{number}: &a{number} b" for number in range(40_000)),
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_bombs_are_refused_within_a_second(text: str) -> None:
    begun_s = time.process_time()
    _, errors = parse(text)
    assert errors
    assert time.process_time() - begun_s < 1.0


def test_the_bounds_are_where_they_are_said_to_be() -> None:
    fits = "[" * (MAX_DEPTH - 1) + "x" + "]" * (MAX_DEPTH - 1)
    assert parse(f"a: {fits}")[1] == []
    assert "nested deeper" in parse(f"a: [{fits}]")[1][0]
    assert parse("#" + "x" * (MAX_FILE_BYTES - 7) + "\na: 1\n")[1] == []
    assert "larger than 1 MiB" in parse("#" + "x" * (MAX_FILE_BYTES - 5) + "\na: 1\n")[1][0]
    assert f"more than {MAX_NODES} values" in parse("a: [" + "b," * MAX_NODES + "]")[1][0]


def test_not_utf8_is_refused_with_its_line() -> None:
    assert parse(b"a: 1\nb: \xff\xfe")[1] == ["2:1 the file is not UTF-8"]
    assert parse("a: b".encode("utf-16"))[1] == ["1:1 the file is not UTF-8"]


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    parse(data)


YAML_PIECES = [
    "a",
    ": ",
    "\n",
    "- ",
    "  ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a ",
    "*a",
    "!t ",
    "'",
    '"',
    "|\n",
    ">",
    "#",
    "?",
    "<<",
    "---\n",
    "\t",
    "%",
]


@given(st.lists(st.sampled_from(YAML_PIECES), max_size=60).map("".join))
def test_no_piece_of_yaml_makes_it_raise(text: str) -> None:
    parse(text)


@given(
    st.recursive(
        st.text("abc: -#'\"{}[]&*!|>%@`,?\n", max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text("xyz", min_size=1, max_size=3), inner, max_size=4)
        ),
        max_leaves=20,
    )
)
def test_it_agrees_with_the_reference_reader(value: object) -> None:
    """PyYAML's own loader, told to keep scalars as text, is the oracle."""
    node, errors = parse(yaml.safe_dump({"k": value}, default_style='"'))
    assert errors == []
    assert node is not None
    assert plain(node) == {"k": value}


def plain(node: Node) -> object:
    if isinstance(node, Map):
        return {key: plain(child) for key, (_, child) in node.pairs.items()}
    return [plain(child) for child in node.items] if isinstance(node, Seq) else node.text


REJECTED_BY_THE_READER = {
    "dup-key",
    "dup-key-nested",
    "alias",
    "merge",
    "cycle",
    "multi-doc",
    "tag",
    "custom-tag",
    "empty",
    "big",
    "deep",
    "tabs",
    "truncated",
}


@needs("security/own/yaml_policy_cases.jsonl")
def test_the_development_cases() -> None:
    seen = {}
    for row in rows("security/own/yaml_policy_cases.jsonl"):
        text = row["yaml"] if row["name"] != "big" else "# comment\n" * 200_000
        seen[row["name"]] = bool(parse(text)[1])
    assert {name for name, refused in seen.items() if refused} == REJECTED_BY_THE_READER


@needs("security/pipelock")
@pytest.mark.parametrize(
    "path", sorted((ROOT / "security/pipelock").rglob("invalid/*.yaml")), ids=lambda path: path.stem
)
def test_the_invalid_yaml_of_others(path: object) -> None:
    assert parse(path.read_bytes())[1]  # type: ignore[attr-defined]


def test_errors_print_what_where_and_the_fix() -> None:
    problems = Problems()
    problems.add(Mark("b.yaml", 2, 1), "later", "do that")
    problems.add(Mark("a.yaml", 9, 3), "first", "do this")
    problems.add(Mark("a.yaml", 9, 3), "first", "do this")
    with pytest.raises(ConfigErrors) as caught:
        problems.raise_if_any()
    assert (
        str(caught.value)
        == "error: first\n  at:  a.yaml:9:3\n  fix: do this\nerror: later\n  at:  b.yaml:2:1\n  fix: do that"
    )
