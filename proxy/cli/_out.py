"""Printing results: one value, as JSON for machines or as text for people."""

import argparse
import json
from collections.abc import Sequence
from typing import Any


def show(args: argparse.Namespace, value: Any, text: str) -> None:
    """Prints `value` as JSON with `--json`, else `text` (nothing when empty)."""
    if args.json:
        print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
    elif text:
        print(text)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns padded to their widest cell, two spaces apart, without trailing blanks."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join(lines)
