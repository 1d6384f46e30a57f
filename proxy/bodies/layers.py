"""Texts inside texts, and the way back: an edit of an inner text becomes an edit of what it was decoded from.

A layer knows its parent, its own text, and how to lift edits one step outwards. The outermost layers (`ByteLayer`,
`TextRoot` without a parent) belong to a message's body, target or header field; `apply` takes edits of any layers
down to those.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

type Namer = Callable[[str], str]
"""Gives the printable form of a name that the caller sent: the name, or `*` where it could carry data."""


class Edit(NamedTuple):
    """Characters `start:end` of a text become `new`. In byte strings: bytes, and `new` holds them as Latin-1."""

    start: int
    end: int
    new: str


class Layer:
    """One text (or byte string). `editable` False: a finding in it can only be let through or blocked."""

    __slots__ = ()
    parent: "Layer | None"
    editable = True

    def lift(self, edits: Sequence[Edit]) -> Sequence[Edit]:
        """The same edits in the parent. `edits` are sorted and do not overlap."""
        raise NotImplementedError

    def where(self, name: Namer) -> str:
        """For people: where the text stands in the message, e.g. `body $.messages[0].content`."""
        raise NotImplementedError


class TextLayer(Layer):
    """A layer that holds characters."""

    __slots__ = ("text",)
    text: str


class ByteLayer(Layer):
    """A layer that holds bytes."""

    __slots__ = ("data", "parent")

    def __init__(self, data: bytes, parent: Layer | None = None) -> None:
        self.data = data
        self.parent = parent

    def where(self, name: Namer) -> str:
        return "body" if self.parent is None else self.parent.where(name)


class FixedBytes(ByteLayer):
    """Bytes that were decoded on the way and cannot be put back, such as a compressed part."""

    __slots__ = ()
    editable = False


class TextRoot(TextLayer):
    """A target or a header value. `label` is e.g. `header x-note`; `variable` is the part that is shown by a Namer."""

    __slots__ = ("label", "variable")
    parent = None

    def __init__(self, text: str, label: str, variable: str = "") -> None:
        self.text = text
        self.label = label
        self.variable = variable

    def where(self, name: Namer) -> str:
        return f"{self.label} {name(self.variable)}" if self.variable else self.label


class FixedText(TextRoot):
    """A text outside the body that is never rewritten: the path, names, trailers, credentials."""

    __slots__ = ()
    editable = False


class FixedLeaf(TextLayer):
    """A text taken out of a file or record, which cannot be put back."""

    __slots__ = ("parent",)
    editable = False

    def __init__(self, parent: Layer, text: str) -> None:
        self.parent: Layer | None = parent
        self.text = text

    def where(self, name: Namer) -> str:
        return self.parent.where(name) if self.parent is not None else ""


def is_editable(layer: Layer) -> bool:
    """True when an edit of `layer` can be carried all the way out."""
    at: Layer | None = layer
    while at is not None:
        if not at.editable:
            return False
        at = at.parent
    return True


def depth(layer: Layer) -> int:
    """How many layers stand around `layer`."""
    count = 0
    while layer.parent is not None:
        layer = layer.parent
        count += 1
    return count


def merged(edits: Iterable[Edit]) -> list[Edit]:
    """Sorted edits; overlapping ones become one over the whole span, with the new text of the first of the longest.

    Two readings of the same characters (raw and unescaped, say) may both ask for a change.
    """
    out: list[Edit] = []
    for edit in sorted(edits, key=lambda e: (e.start, -e.end)):
        if out and edit.start < out[-1].end:
            out[-1] = out[-1]._replace(end=max(out[-1].end, edit.end))
        else:
            out.append(edit)
    return out


def apply(edits: Mapping[TextLayer, Sequence[Edit]]) -> dict[Layer, list[Edit]]:
    """Carries the edits of any layers to their roots, innermost first. The result is sorted, without overlaps."""
    levels: defaultdict[int, dict[Layer, list[Edit]]] = defaultdict(dict)
    for edited, changes in edits.items():
        levels[depth(edited)][edited] = list(changes)
    for level in range(max(levels, default=0), 0, -1):
        for layer, items in levels[level].items():
            if layer.parent is not None:
                levels[level - 1].setdefault(layer.parent, []).extend(layer.lift(merged(items)))
    return {root: merged(items) for root, items in levels[0].items()}


def splice(text: str, edits: Iterable[Edit]) -> str:
    """`text` with `edits` (sorted, without overlaps) made."""
    out: list[str] = []
    last = 0
    for edit in edits:
        out += (text[last : edit.start], edit.new)
        last = edit.end
    out.append(text[last:])
    return "".join(out)


def splice_bytes(data: bytes, edits: Iterable[Edit]) -> bytes:
    """`data` with `edits` (sorted, without overlaps) made."""
    out: list[bytes] = []
    last = 0
    for edit in edits:
        out += (data[last : edit.start], edit.new.encode("latin-1"))
        last = edit.end
    out.append(data[last:])
    return b"".join(out)
