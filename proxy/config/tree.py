"""YAML text to a tree of strings with marks: the part of YAML in which a file can be read in one way only.

Scalars stay strings (the schema types them: `NO`, `0777` and `1.10` are what they look like). Anchors, aliases, tags,
merge keys, duplicate keys and several documents are errors. Built from the C parser's events, without recursion, so
that size, depth and node count are bounded while reading; all mistakes that do not end the parse are reported at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from proxy.config.errors import Mark, Problems, shown

MAX_FILE_BYTES: Final = 1 << 20  # an allowlist of 1 MiB has some 5,000 entries; larger is a mistake or an attack
MAX_DEPTH: Final = 20  # the schema needs 7
MAX_NODES: Final = 50_000  # 50,000 nodes parse in 0.2 s

MAX_MISTAKES: Final = 100  # in one file; who makes more has not written YAML


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf. `plain` is False when quoted or a block scalar."""

    text: str
    plain: bool
    mark: Mark


@dataclass(frozen=True, slots=True)
class Seq:
    items: "list[Node]"
    mark: Mark


@dataclass(frozen=True, slots=True)
class Map:
    """`pairs`: key -> (mark of the key, value), in file order."""

    pairs: "dict[str, tuple[Mark, Node]]"
    mark: Mark


type Node = Scalar | Seq | Map


@dataclass(slots=True)
class _Open:
    """A collection under construction; `key` is the map key that waits for its value."""

    node: Seq | Map
    key: Scalar | None = None


@dataclass(slots=True)
class _Builder:
    file: str
    problems: Problems
    stack: list[_Open] = field(default_factory=list)
    roots: list[Node] = field(default_factory=list)
    nodes: int = 0
    documents: int = 0
    known: int = 0

    def mark(self, event: Any) -> Mark:
        return Mark(self.file, event.start_mark.line + 1, event.start_mark.column + 1)

    def add(self, node: Node) -> None:
        if not self.stack:
            self.roots.append(node)
            return
        top = self.stack[-1]
        if isinstance(top.node, Seq):
            top.node.items.append(node)
        elif top.key is None:
            self._open_pair(top, node)
        else:
            self._close_pair(top, top.node, top.key, node)

    def _open_pair(self, top: _Open, node: Node) -> None:
        if isinstance(node, Scalar):
            top.key = node
        else:
            self.problems.add(node.mark, "a key must be a plain word", "write `key: value`")
            top.key = Scalar("", plain=False, mark=node.mark)

    def _close_pair(self, top: _Open, parent: Map, key: Scalar, node: Node) -> None:
        top.key = None
        if key.text == "<<" and key.plain:
            self.problems.add(key.mark, "merge keys are not allowed", "write the merged keys out")
        elif key.text in parent.pairs:
            first = parent.pairs[key.text][0]
            self.problems.add(
                key.mark,
                f"the key {shown(key.text)} stands here for the second time (first on line {first.line})",
                "keep one of the two",
            )
        else:
            parent.pairs[key.text] = (key.mark, node)


def parse_yaml(data: bytes, file: str, problems: Problems) -> Node | None:
    """The one document in `data`, or None after noting in `problems` why there is none. Never raises."""
    text = _decode(data, file, problems)
    if text is None:
        return None
    builder = _Builder(file, problems, known=len(problems.errors))
    try:
        for event in events_of(text):
            if not _take(builder, event):
                return None
    except yaml.MarkedYAMLError as error:
        _syntax_error(error, file, text, problems)
        return None
    except yaml.YAMLError as error:
        problems.add(Mark(file, 1, 1), f"not YAML: {_first_line(str(error))}", "save the file as UTF-8 text")
        return None
    if not builder.roots:
        problems.add(Mark(file, 1, 1), "the file is empty", "start with `version: 1`")
        return None
    return builder.roots[0]


def events_of(text: str) -> Iterator[Any]:
    """The parser's events. Raises yaml.YAMLError on the way."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    events: Iterator[Any] = yaml.parse(text, Loader=loader)
    return events


def _decode(data: bytes, file: str, problems: Problems) -> str | None:
    start = Mark(file, 1, 1)
    if len(data) > MAX_FILE_BYTES:
        problems.add(start, f"the file is larger than {MAX_FILE_BYTES >> 20} MiB", "split it, one file per app")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.add(Mark(file, line, 1), "the file is not UTF-8", "save it as UTF-8 without BOM")
        return None
    return text


def _take(builder: _Builder, event: Any) -> bool:
    """Adds one event to the tree; False ends the parse."""
    match event:
        case yaml.DocumentStartEvent():
            builder.documents += 1
            if builder.documents > 1:
                builder.problems.add(builder.mark(event), "a second document starts here", "one file, one document")
                return False
        case yaml.AliasEvent():
            builder.problems.add(builder.mark(event), "aliases (`*name`) are not allowed", "write the value out")
            builder.add(Scalar("", plain=True, mark=builder.mark(event)))
        case yaml.ScalarEvent():
            builder.add(Scalar(event.value, event.style in (None, ""), _checked_mark(builder, event)))
        case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
            mark = _checked_mark(builder, event)
            node: Seq | Map = Seq([], mark) if isinstance(event, yaml.SequenceStartEvent) else Map({}, mark)
            builder.add(node)
            builder.stack.append(_Open(node))
        case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
            builder.stack.pop()
    return _within_bounds(builder, event)


def _checked_mark(builder: _Builder, event: Any) -> Mark:
    mark = builder.mark(event)
    if event.anchor is not None:
        builder.problems.add(mark, f"anchors (`&{event.anchor[:20]}`) are not allowed", "write the value out")
    if event.tag is not None:
        builder.problems.add(
            mark, f"tags ({shown(event.tag, 40)}) are not allowed", "remove it; quote a text that starts with '!'"
        )
    return mark


def _within_bounds(builder: _Builder, event: Any) -> bool:
    builder.nodes += 1
    if len(builder.stack) > MAX_DEPTH:
        builder.problems.add(
            builder.mark(event), f"nested deeper than {MAX_DEPTH} levels", "no policy needs more than 7"
        )
        return False
    if len(builder.problems.errors) > builder.known + MAX_MISTAKES:
        return False
    if builder.nodes > MAX_NODES:
        builder.problems.add(builder.mark(event), f"more than {MAX_NODES} values", "split it, one file per app")
        return False
    return True


def _syntax_error(error: yaml.MarkedYAMLError, file: str, text: str, problems: Problems) -> None:
    at = error.problem_mark or error.context_mark
    mark = Mark(file, at.line + 1, at.column + 1) if at is not None else Mark(file, 1, 1)
    lines = text.splitlines() or [""]
    if mark.line > len(lines):
        # A file that was cut off: the place behind its end is on no line that anybody can look at.
        mark = Mark(file, len(lines), len(lines[-1]) + 1)
    line = lines[mark.line - 1]
    if "\t" in line[: len(line) - len(line.lstrip())]:
        problems.add(mark, "a tab stands where YAML wants spaces", "indent with two spaces")
        return
    if error.context == "while scanning an alias":
        problems.add(mark, "a text that starts with `*` needs quotes", 'for example "*.example.com"')
        return
    what = ", ".join(part for part in (error.context, error.problem) if part)
    problems.add(mark, f"not YAML: {_first_line(what)}", "check indentation, quotes and brackets on this line")


def _first_line(text: str) -> str:
    return text.splitlines()[0][:160] if text else "unreadable"
