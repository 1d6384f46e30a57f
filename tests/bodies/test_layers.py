"""Edits on their way out: merging, and layers inside layers."""

from collections.abc import Sequence

from proxy.bodies.layers import (
    ByteLayer,
    Edit,
    FixedText,
    Layer,
    TextLayer,
    TextRoot,
    apply,
    depth,
    is_editable,
    merged,
    splice,
    splice_bytes,
)


class Inner(TextLayer):
    """Characters `start:` of a parent, one to one."""

    def __init__(self, parent: TextLayer, start: int) -> None:
        self.parent: Layer | None = parent
        self.start = start
        self.text = parent.text[start:]

    def lift(self, edits: Sequence[Edit]) -> list[Edit]:
        return [Edit(e.start + self.start, e.end + self.start, e.new) for e in edits]


def test_merging() -> None:
    assert merged([Edit(5, 6, "b"), Edit(0, 2, "a")]) == [Edit(0, 2, "a"), Edit(5, 6, "b")]
    assert merged([Edit(0, 4, "long"), Edit(2, 6, "late"), Edit(0, 2, "short")]) == [Edit(0, 6, "long")]
    assert merged([Edit(0, 3, "first"), Edit(0, 3, "second")]) == [Edit(0, 3, "first")]
    assert merged([Edit(0, 3, "a"), Edit(3, 5, "b")]) == [Edit(0, 3, "a"), Edit(3, 5, "b")]


def test_edits_of_several_depths_meet_in_the_root() -> None:
    root = TextRoot("0123456789", "body")
    one = Inner(root, 2)
    two = Inner(one, 3)
    edits = {two: [Edit(0, 1, "[five]")], root: [Edit(0, 1, "[zero]")], one: [Edit(0, 1, "[two]"), Edit(3, 5, "[5-6]")]}
    assert splice(root.text, apply(edits)[root]) == "[zero]1[two]34[5-6]789"
    assert depth(two) == 2


def test_nothing_to_do() -> None:
    assert apply({}) == {}
    assert splice("abc", []) == "abc"
    assert splice_bytes(b"\xffabc", [Edit(1, 2, "\xfe")]) == b"\xff\xfebc"


def test_a_fixed_layer_fixes_all_inside_it() -> None:
    fixed = FixedText("abc", "path")
    assert not is_editable(Inner(Inner(fixed, 1), 1))
    assert is_editable(Inner(TextRoot("abc", "body"), 1))


def test_places() -> None:
    assert ByteLayer(b"").where(str) == "body"
    assert TextRoot("", "header", "x-note").where(str) == "header x-note"
    assert TextRoot("", "header", "123456").where(lambda _: "*") == "header *"
