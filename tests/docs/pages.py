"""Markdown as tests read it: fenced blocks marked for execution, headings as anchors, links."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.architecture.tree import ROOT

RUN = "<!-- run -->"
_PRINTS = re.compile(r"<!-- prints: (.*) -->")
_FENCE = re.compile(r"^(`{3,})(\S*)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced shell block that a reader pastes, its line, and what it must print."""

    at: str
    script: str
    prints: tuple[str, ...]


@cache
def pages() -> tuple[Path, ...]:
    """Every page that a person reads."""
    top = [ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")]
    return (
        *top,
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "deploy").rglob("*.md")),
        ROOT / "certs/README.md",
    )


def blocks(page: Path) -> list[Block]:
    """Blocks that stand under `<!-- run -->`, with the `<!-- prints: ... -->` lines below them."""
    text = page.read_text()
    found = []
    for fence in _FENCE.finditer(text):
        if not text[: fence.start()].rstrip().endswith(RUN):
            continue
        below = re.match(r"(?:\s*<!-- prints: .* -->)*", text[fence.end() :])
        line = text.count("\n", 0, fence.start()) + 1
        prints = tuple(_PRINTS.findall(below[0] if below else ""))
        found.append(Block(f"{page.relative_to(ROOT)}:{line}", fence[3], prints))
    return found


def prose(text: str) -> str:
    """Without fenced blocks."""
    return _FENCE.sub("", text)


def links(page: Path) -> list[str]:
    """Targets of links and pictures outside code."""
    bare = re.sub(r"`[^`\n]*`", "", prose(page.read_text()))
    return [a or b for a, b in _LINK.findall(bare)]


def anchors(page: Path) -> set[str]:
    """Headings as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.*)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
