"""Other readings of a text: what it says once an encoding or a disguise is taken off. One module per reading.

Each module exports `VIEW`: a pure function from a text to its readings, empty when there is nothing to take off (the
usual case, which must cost next to nothing). Findings in a reading are mapped back by its `span`.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Reading:
    """`text` as another reader would see it. `span` maps a span of `text` to the source.

    `whole`: the source span is an encoded run, which can only be replaced as a whole.
    """

    text: str
    span: Callable[[int, int], tuple[int, int]]
    whole: bool = False


type View = Callable[[str], Sequence[Reading]]


@cache
def views() -> tuple[View, ...]:
    """All views of this package, by module name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}").VIEW for name in names)


def readings(text: str, max_depth: int = 4) -> list[Reading]:
    """Every other reading of `text`, and the readings of those, `max_depth` deep; each text once."""
    out: list[Reading] = []
    seen = {text}
    layer = [Reading(text, _same)]
    for _ in range(max_depth):
        layer = [deeper for reading in layer for deeper in _next(reading, seen)]
        if not layer:
            break
        out += layer
    return out


def _next(outer: Reading, seen: set[str]) -> list[Reading]:
    found = []
    for view in views():
        for inner in view(outer.text):
            if inner.text not in seen:
                seen.add(inner.text)
                found.append(_inside(outer, inner))
    return found


def _inside(outer: Reading, inner: Reading) -> Reading:
    def span(start: int, end: int) -> tuple[int, int]:
        return outer.span(*inner.span(start, end))

    return Reading(inner.text, span, outer.whole or inner.whole)


def _same(start: int, end: int) -> tuple[int, int]:
    return start, end
