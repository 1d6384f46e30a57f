"""Pieces of Markdown."""

import re
from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; line breaks and bars in cells are made harmless."""
    lines = [_row(columns), "|" + "---|" * len(columns), *map(_row, rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def code(text: object) -> str:
    """Inline code."""
    return f"`{text}`"


def codes(texts: Iterable[object]) -> str:
    """Several, or a dash for none."""
    return ", ".join(map(code, texts)) or "-"


def first_sentence(text: str | None) -> str:
    """The first sentence of a docstring, in one line. A full stop within brackets or code ends none."""
    paragraph = " ".join((text or "").split("\n\n")[0].split())
    for stop in re.finditer(r"\. (?=[A-Z`])", paragraph):
        head = paragraph[: stop.start() + 1]
        if head.count("(") == head.count(")") and head.count("`") % 2 == 0:
            return head
    return paragraph


def section(title: str, body: str, level: int = 2) -> str:
    """A heading and what stands under it."""
    return f"{'#' * level} {title}\n\n{body}"
