"""URL-encoded text: form bodies, query strings and paths (WHATWG URL section 5), decoded once.

What still holds escapes then is looked at again by `views.escapes`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import quote, quote_plus

from proxy.bodies.layers import Edit, Layer, Namer, TextLayer
from proxy.bodies.limits import Limits, refuse_size
from proxy.bodies.offsets import Piece, substitute
from proxy.bodies.views.escapes import from_percent

_RUN: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_RUN_OR_PLUS: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+|\+")
_FIELD: Final = re.compile(r"[^&]+")


def _decode(match: re.Match[str]) -> Iterator[Piece] | tuple[Piece, ...]:
    return ((" ", 1),) if match[0] == "+" else from_percent(match)


class PercentLayer(TextLayer):
    """Characters `start:end` of the parent, percent-decoded once (`plus`: and `+` as a space)."""

    __slots__ = ("_offsets", "_plus", "label", "name", "parent")

    def __init__(
        self, parent: TextLayer, start: int, end: int, *, plus: bool, label: str = "", name: str | None = None
    ) -> None:
        self.parent: Layer | None = parent
        self.label = label
        self.name = name
        self._plus = plus
        self.text, offsets = substitute(_RUN_OR_PLUS if plus else _RUN, parent.text[start:end], _decode)
        self._offsets = offsets.shifted(start)

    def lift(self, edits: Sequence[Edit]) -> list[Edit]:
        encode = quote_plus if self._plus else quote
        return [
            Edit(*self._offsets.span(e.start, e.end), encode(e.new, safe="", errors="surrogateescape")) for e in edits
        ]

    def where(self, name: Namer) -> str:
        outer = self.parent.where(name) if self.parent is not None else ""
        own = f"{self.label} {name(self.name)}".strip() if self.name is not None else self.label
        return f"{outer} {own}".strip()


class FixedPercentLayer(PercentLayer):
    """One that is never rewritten, because it decides where the request goes."""

    __slots__ = ()
    editable = False


def fields(
    parent: TextLayer, start: int, end: int, limits: Limits, *, label: str, fixed_names: bool = False
) -> list[PercentLayer]:
    """Names and values of `name=value&…` in `start:end` of the parent. Raises Denied `too_large` for too many."""
    out: list[PercentLayer] = []
    name_layer = FixedPercentLayer if fixed_names else PercentLayer
    for match in _FIELD.finditer(parent.text, start, end):
        name, equals, _ = match[0].partition("=")
        begin, middle = match.start(), match.start() + len(name)
        key = name_layer(parent, begin, middle, plus=True, label=f"{label} (name)")
        out.append(key)
        if equals:
            out.append(PercentLayer(parent, middle + 1, match.end(), plus=True, label=label, name=key.text))
        if len(out) > limits.max_leaves:
            raise refuse_size(f"the {label}", limits.max_leaves, "fields")
    return out
