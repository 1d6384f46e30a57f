"""`egress fmt`: two spaces per level, no trailing blanks, one blank line at most; words and comments stay as they are.

Lines are moved, never rewritten, and the result must read as the same tree, else the file is left alone.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from proxy.config.errors import Problems
from proxy.config.tree import Map, Node, Scalar, Seq, events_of, parse_yaml

INDENT: Final = 2


@dataclass(slots=True)
class _Block:
    """A block collection: where its keys or dashes stand now, and where they shall stand."""

    sequence: bool
    col: int
    new_col: int
    key_next: bool = True


@dataclass(slots=True)
class _Layout:
    """What every line starts with. `starts`: line -> blocks that begin on it or have an item on it, outermost first."""

    starts: dict[int, list[_Block]] = field(default_factory=dict)
    inside: dict[int, int] = field(default_factory=dict)


def format_yaml(data: bytes, file: str) -> bytes:
    """The same file, tidy. Raises ConfigErrors when it is not YAML that the loader takes. Pure."""
    problems = Problems()
    before = parse_yaml(data, file, problems)
    problems.raise_if_any()
    text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    for candidate in (_tidy(text, indent=True), _tidy(text, indent=False)):
        again = Problems()
        after = parse_yaml(candidate.encode(), file, again)
        if not again.errors and before is not None and after is not None and _same(before, after):
            return candidate.encode()
    return data


def _same(before: Node, after: Node) -> bool:
    """Equal but for the places."""
    if isinstance(before, Scalar) and isinstance(after, Scalar):
        return before.text == after.text and before.plain == after.plain
    if isinstance(before, Seq) and isinstance(after, Seq):
        pairs = zip(before.items, after.items, strict=False)
        return len(before.items) == len(after.items) and all(_same(one, other) for one, other in pairs)
    if isinstance(before, Map) and isinstance(after, Map):
        return list(before.pairs) == list(after.pairs) and all(
            _same(value, after.pairs[key][1]) for key, (_, value) in before.pairs.items()
        )
    return False


def _tidy(text: str, *, indent: bool) -> str:
    lines = text.split("\n")
    layout = _layout(text)
    out: list[str] = []
    shift = 0
    for number, line in enumerate(lines):
        if number in layout.inside:
            kept = _shifted(line, shift) if indent else line
            out.append(kept if line.strip() else line.strip())
            continue
        stripped = line.strip()
        if not stripped:
            if out and out[-1]:
                out.append("")
            continue
        new, shift = _placed(lines, number, layout, shift) if indent else (line.rstrip(), 0)
        out.append(new)
    return "\n".join(out).strip("\n") + "\n"


def _placed(lines: list[str], number: int, layout: _Layout, shift: int) -> tuple[str, int]:
    """The line at its new place, and how far it moved."""
    line = lines[number].rstrip()
    col = len(line) - len(line.lstrip())
    if line.lstrip().startswith("#"):
        follower = next((n for n in range(number + 1, len(lines)) if _is_content(lines[n])), None)
        below = layout.starts.get(follower, []) if follower is not None else []
        return (" " * below[0].new_col + line.lstrip() if below else line), shift
    blocks = layout.starts.get(number, [])
    if not blocks:
        return _shifted(line, shift), shift
    rest, new_col = line[col:], blocks[0].new_col
    prefix = " " * new_col
    for block in blocks:
        if block.sequence and rest.startswith("-"):
            value = rest[1:].lstrip()
            prefix += "-" + (" " * (INDENT - 1) if value else "")
            rest = value
    return prefix + rest, new_col - col


def _is_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _shifted(line: str, shift: int) -> str:
    return " " * shift + line if shift >= 0 else line[min(-shift, len(line) - len(line.lstrip())) :]


def _layout(text: str) -> _Layout:
    layout = _Layout()
    stack: list[_Block | None] = []
    for event in events_of(text):
        _see(event, stack, layout)
    return layout


def _see(event: Any, stack: list[_Block | None], layout: _Layout) -> None:
    start: Any = event.start_mark
    line: int = start.line
    if isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
        stack.pop()
        return
    if not isinstance(event, yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent):
        return
    parent = stack[-1] if stack else None
    if parent is not None:
        if parent.sequence or parent.key_next:
            _note(layout, line, parent)
        parent.key_next = not parent.key_next
    if isinstance(event, yaml.ScalarEvent):
        end: Any = event.end_mark
        last = end.line - (1 if event.style in ("|", ">") and end.column == 0 else 0)
        layout.inside.update(dict.fromkeys(range(line + 1, last + 1), line))
        return
    if event.flow_style is not False or (stack and parent is None):
        stack.append(None)
        return
    sequence = isinstance(event, yaml.SequenceStartEvent)
    new_col = 0 if parent is None else parent.new_col + INDENT
    block = _Block(sequence, start.column, new_col)
    stack.append(block)
    if sequence:
        _note(layout, line, block)


def _note(layout: _Layout, line: int, block: _Block) -> None:
    """Remembers that an item or key of `block` stands on `line`."""
    blocks = layout.starts.setdefault(line, [])
    if not any(one is block for one in blocks):
        blocks.append(block)
