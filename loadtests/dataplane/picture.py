"""The comparison as a picture: one SVG, two panels of bars, readable on light and dark pages."""

from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

from loadtests.dataplane.rounds import Result

_PANELS: Final = (
    ("Kept-alive connections: requests per second and core", (
        ("everything on, cache hit", "cache hit"),
        ("lane, policy only", "lane keepalive"),
        ("everything on", "all keepalive"),
        ("squid ssl-bump (1 connection)", "squid keepalive-1"),
        ("proxy.py", "proxy-py keepalive"),
        ("bare mitmdump", "mitmdump keepalive"),
        ("LiteLLM", "litellm keepalive"),
        ("LiteLLM + Presidio guardrail", "litellm-presidio keepalive"),
    )),
    ("A fresh connection per request: connections per second and core", (
        ("lane, policy only", "lane fresh"),
        ("everything on", "all fresh"),
        ("squid ssl-bump", "squid fresh"),
        ("proxy.py", "proxy-py fresh"),
        ("bare mitmdump", "mitmdump fresh"),
    )),
)  # fmt: skip
_OURS: Final = ("lane", "all", "cache")
_WIDTH: Final = 760
_LABEL: Final = 220
_BAR: Final = 22
_GAP: Final = 6
_TITLE: Final = 40
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}.number{fill:#57606a}"
    ".ours{fill:#1a7f5a}.peer{fill:#9aa4ae}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.number{fill:#9da7b1}.ours{fill:#3fb58a}.peer{fill:#6e7681}}"
)


def draw(results: Mapping[str, Result], absent: Mapping[str, str]) -> str:
    """SVG text. Peers that were not measured have no bar and are named below."""
    parts: list[str] = []
    top = 0
    for title, rows in _PANELS:
        panel, height = _panel(title, rows, results, top)
        parts += panel
        top += height
    note = "Capacity of one core: 1e6 / CPU microseconds per request of the whole process tree; medians, one run."
    if absent:
        note += f" Absent: {', '.join(sorted(absent))}."
    parts.append(f'<text class="number" x="0" y="{top + 16}">{escape(note)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 28}" role="img" '
        f'aria-label="Requests per second and core, this proxy and its peers">'
        f"<style>{_STYLE}</style>{''.join(parts)}</svg>\n"
    )


def _panel(
    title: str, rows: Sequence[tuple[str, str]], results: Mapping[str, Result], top: int
) -> tuple[list[str], int]:
    measured = [
        (label, name, 1e6 / cpu) for label, name in rows if (cpu := results[name].cpu if name in results else None)
    ]
    highest = max((value for *_, value in measured), default=1.0)
    parts = [f'<text class="title" x="0" y="{top + 24}">{escape(title)}</text>']
    for index, (label, name, value) in enumerate(measured):
        y = top + _TITLE + index * (_BAR + _GAP)
        width = max(1.0, value / highest * (_WIDTH - _LABEL - 70))
        kind = "ours" if name.startswith(_OURS) else "peer"
        parts.append(f'<text x="{_LABEL - 8}" y="{y + 16}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect class="{kind}" x="{_LABEL}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2"/>')
        parts.append(f'<text class="number" x="{_LABEL + width + 6:.1f}" y="{y + 16}">{value:,.0f}</text>')
    return parts, _TITLE + len(measured) * (_BAR + _GAP) + 12
