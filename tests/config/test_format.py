"""`egress fmt` moves lines and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.errors import ConfigErrors, Problems
from proxy.config.format import format_yaml
from proxy.config.tree import Map, Node, Seq, parse_yaml

CASES = {
    "tidy already": ("a: 1\nb:\n  - c: 2\n", "a: 1\nb:\n  - c: 2\n"),
    "trailing blanks": ("a: 1  \nb: 2\t\n", "a: 1\nb: 2\n"),
    "no end of line": ("a: 1", "a: 1\n"),
    "crlf and BOM": ("\ufeffa: 1\r\nb: 2\r\n", "a: 1\nb: 2\n"),
    "blank lines": ("\n\na: 1\n\n\n\nb: 2\n\n", "a: 1\n\nb: 2\n"),
    "four spaces": ("a:\n    b:\n        c: 1\n", "a:\n  b:\n    c: 1\n"),
    "dashes at the margin": ("a:\n- b: 1\n  c: 2\n- d\n", "a:\n  - b: 1\n    c: 2\n  - d\n"),
    "wide dashes": ("a:\n  -   b: 1\n      c: 2\n", "a:\n  - b: 1\n    c: 2\n"),
    "list in list": ("a:\n- - 1\n  - 2\n", "a:\n  - - 1\n    - 2\n"),
    "comments move along": (
        "# top\na:\n    # about b\n    b: 1 # end\n\n# about c\nc: 2\n",
        "# top\na:\n  # about b\n  b: 1 # end\n\n# about c\nc: 2\n",
    ),
    "flow over lines": ("a:\n    b: [1,\n        2]\n", "a:\n  b: [1,\n      2]\n"),
    "block text keeps its shape": (
        "a:\n    b: |\n        one\n          two\n\n        three\n    c: 1\n",
        "a:\n  b: |\n      one\n        two\n\n      three\n  c: 1\n",
    ),
    "folded text": ("a: >\n  x\n   y\n", "a: >\n  x\n   y\n"),
    "quoted over lines": ('a: "x\n  y"\nb: 1  \n', 'a: "x\n  y"\nb: 1\n'),
    "blanks in block text": ("a: |\n  x  \nb: 1  \n", "a: |\n  x  \nb: 1\n"),
}


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES)
def test_layout(before: str, after: str) -> None:
    assert format_yaml(before.encode(), "f").decode() == after
    assert format_yaml(after.encode(), "f").decode() == after


def test_what_the_loader_refuses_is_not_touched() -> None:
    with pytest.raises(ConfigErrors, match="second time"):
        format_yaml(b"a: 1\na: 2\n", "f")


def meaning(node: Node | None) -> object:
    if isinstance(node, Map):
        return [(key, meaning(child)) for key, (_, child) in node.pairs.items()]
    if isinstance(node, Seq):
        return [meaning(child) for child in node.items]
    return None if node is None else (node.text, node.plain)


LINE = st.tuples(
    st.integers(0, 6),
    st.sampled_from(["a: 1", "b:", "- c", "- d: 2", "-   e:", "f: |", "text", "# note", "",
                     "g: [1,", "2]", 'h: "x', 'y"', "-", "? i"]),
    st.sampled_from(["", "  ", " # end"]),
)  # fmt: skip


@given(st.lists(LINE, max_size=14))
def test_the_meaning_never_changes_and_twice_is_once(lines: list[tuple[int, str, str]]) -> None:
    data = "\n".join(" " * indent + text + tail for indent, text, tail in lines).encode()
    try:
        once = format_yaml(data, "f")
    except ConfigErrors:
        return
    assert meaning(parse_yaml(once, "f", Problems())) == meaning(parse_yaml(data, "f", Problems()))
    assert sorted(line.strip() for line in data.decode().splitlines() if line.strip().startswith("#")) == sorted(
        line.strip() for line in once.decode().splitlines() if line.strip().startswith("#")
    )
    assert format_yaml(once, "f") == once
