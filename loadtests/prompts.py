"""Chat prompts that nobody sent before, of development data and ordinary prose."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ORDINARY = Path(__file__).resolve().parent / "gate/ordinary.txt"


def prose(ordinary: Mapping[str, Sequence[str]]) -> list[str]:
    lines = _ORDINARY.read_text().splitlines()
    return [*lines, *(text[:400] for kind in ("debian", "docstrings") for text in ordinary[kind])]


def prompt(rows: Sequence[Mapping[str, Any]], plain: Sequence[str], size: int, seed: int) -> str:
    """Instructions and prose, every third piece with personal data; `size` characters."""
    pieces: list[str] = []
    length = 0
    while length < size:
        piece = rows[seed * 37 % len(rows)]["full_text"] if seed % 3 == 0 else plain[seed * 31 % len(plain)]
        pieces.append(piece)
        length += len(piece) + 1
        seed += 1
    return "\n".join(pieces)[:size]
