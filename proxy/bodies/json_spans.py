"""JSON texts as leaves with their spans, read tolerantly and without recursion, so that a span can be changed in place.

Nothing is dropped: duplicate keys, keys as well as values, number text as sent. `scan_text` reads what may be no JSON
at all; `is_json` says whether ordinary parsers (RFC 8259, or with NaN and lone surrogates) would take it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal

import orjson

from proxy.bodies.layers import Edit, Layer, Namer, TextLayer, splice, splice_bytes
from proxy.bodies.limits import DEFAULT_LIMITS, Limits, refuse_size
from proxy.bodies.offsets import Offsets, Piece, substitute

type Node = tuple["Node | None", str | int]
"""A place in the document: its parent's place and the key or index there. The root is `(None, "$")`."""

type Kind = Literal["key", "string", "number"]

# Possessive quantifiers keep it linear; a quote without its partner (group 6) ends the scan.
_TOKEN: Final = re.compile(
    r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"(?:\s*+(:))?|([{\[])|([}\]])|([^\s"{}\[\]:,]++)|(")', re.DOTALL
)
_STRING, _COLON, _OPEN, _CLOSE, _WORD = 1, 2, 3, 4, 5
_LITERALS: Final = frozenset(("true", "false", "null"))
_ESCAPE: Final = re.compile(
    r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))", re.DOTALL
)
_SHORT: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_NUMBER: Final = re.compile(r"[-+.\d][-+.\deE]*")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Leaf(TextLayer):
    """One string, key or number. `start:end` is its token in the parent's text, quotes included; `text` its value."""

    __slots__ = ("_raw", "end", "kind", "node", "parent", "start")

    def __init__(self, parent: Layer | None, raw: str, text: str, start: int, end: int, node: Node, kind: Kind) -> None:
        self.parent = parent
        self.text = text
        self.start = start
        self.end = end
        self.node = node
        self.kind: Kind = kind
        self._raw = raw

    @property
    def path(self) -> str:
        """`$.messages[0].content`; keys that are no identifiers in brackets and quotes."""
        return path_of(self.node)

    def offsets(self) -> Offsets:
        """Map from `text` to the parent's text."""
        inner = self.start + 1 if self.kind != "number" else self.start
        found = substitute(_ESCAPE, self._raw, _unescape_one)[1] if "\\" in self._raw else Offsets([], [], [])
        return found.shifted(inner)

    def lift(self, edits: Sequence[Edit]) -> list[Edit]:
        """Strings (and words that JSON does not know): the spans, escaped. Numbers: the whole token becomes a string,
        for `<ENTITY>` is no number."""
        if self.kind == "number" and _NUMBER.fullmatch(self._raw):
            return [Edit(self.start, self.end, json.dumps(splice(self.text, edits)))]
        offsets = self.offsets()
        return [Edit(*offsets.span(e.start, e.end), json.dumps(e.new)[1:-1]) for e in edits]

    def where(self, name: Namer) -> str:
        path = path_of(self.node, name)
        if self.kind == "key":
            path += " (key)"
        return f"{self.parent.where(name)} {path}" if self.parent is not None else path


def path_of(node: Node, name: Namer | None = None) -> str:
    """The JSONPath (RFC 9535 normalised, with dots where possible) of a place; keys pass through `name`."""
    steps: list[str] = []
    at: Node | None = node
    while at is not None:
        at, step = at
        if at is None:
            steps.append(str(step))
        elif isinstance(step, int):
            steps.append(f"[{step}]")
        else:
            shown = name(step) if name else step
            plain = shown == "*" or _IDENTIFIER.fullmatch(shown)
            steps.append(f".{shown}" if plain else f"[{json.dumps(shown)}]")
    return "".join(reversed(steps))


def unescape(raw: str) -> str:
    """The value of a JSON string's inside. Escapes that JSON does not know stand for their second character."""
    if "\\" not in raw:
        return raw
    try:
        value: str = json.loads(f'"{raw}"', strict=False)
    except ValueError:
        return substitute(_ESCAPE, raw, _unescape_one)[0]
    return value


def _unescape_one(match: re.Match[str]) -> tuple[Piece, ...]:
    high, low, unit, other = match.groups()
    if high:
        return ((chr(0x10000 + ((int(high, 16) & 0x3FF) << 10) + (int(low, 16) & 0x3FF)), 12),)
    if unit:
        return ((chr(int(unit, 16)), 6),)
    return ((_SHORT.get(other, other), 2),)


def scan_text(  # noqa: C901 - the one hot loop; a call per token would double its cost
    text: str, parent: Layer | None = None, limits: Limits = DEFAULT_LIMITS
) -> list[Leaf]:
    """All keys, strings and numbers (any bare word but true, false, null), in order.

    Values behind the first (no JSON then) are `$[1]`, `$[2]`. Raises Denied `too_large` for too many brackets in
    each other or too many leaves.
    """
    leaves: list[Leaf] = []
    add = leaves.append
    stack: list[tuple[Node, int]] = []
    root: Node = (None, "$")
    here, index, key = root, -1, None
    node: Node
    for match in _TOKEN.finditer(text):
        token = match.lastindex
        if token == _COLON:
            raw = match[1]
            key = unescape(raw) if "\\" in raw else raw
            node = (here, key)
            add(Leaf(parent, raw, key, match.start(), match.start() + len(raw) + 2, node, "key"))
            continue
        if token == _CLOSE:
            if stack:
                here, index = stack.pop()
            key = None
            continue
        if key is not None:
            node, key = (here, key), None
        elif not stack and index < 0:
            node, index = root, 0
        else:
            index += 1
            node = (here, index)
        if token == _STRING:
            raw = match[1]
            value = unescape(raw) if "\\" in raw else raw
            add(Leaf(parent, raw, value, match.start(), match.end(), node, "string"))
        elif token == _OPEN:
            if len(stack) >= limits.max_depth:
                raise refuse_size("the nesting of the JSON body", limits.max_depth, "levels")
            stack.append((here, index))
            here, index = node, -1
        elif token == _WORD:
            raw = match[5]
            if raw not in _LITERALS:
                add(Leaf(parent, raw, raw, match.start(), match.end(), node, "number"))
        else:
            break
    if len(leaves) > limits.max_leaves:
        raise refuse_size("the JSON body", limits.max_leaves, "values")
    return leaves


def is_json(text: str) -> bool:
    """True when a usual parser takes `text` whole. Call after `scan_text`, which bounds the depth."""
    try:
        orjson.loads(text)
    except ValueError:
        return _is_lenient_json(text)
    return True


def _is_lenient_json(text: str) -> bool:
    """NaN, infinities, lone surrogates, numbers of any size, control characters in strings: what json.loads takes."""
    try:
        json.loads(text, parse_int=_ignore, parse_float=_ignore, parse_constant=_ignore, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def _ignore(_text: str) -> Any:
    return None


def scan(body: bytes, limits: Limits = DEFAULT_LIMITS) -> list[Leaf]:
    """Leaves of a UTF-8 body, with `start` and `end` in bytes, for `replace`. Undecodable bytes are lone surrogates."""
    text = body.decode("utf-8", "surrogateescape")
    leaves = scan_text(text, None, limits)
    if len(text) != len(body):
        _to_bytes(leaves, text)
    return leaves


def _to_bytes(leaves: Iterable[Leaf], text: str) -> None:
    chars = at = 0
    for leaf in leaves:
        begin = at + len(text[chars : leaf.start].encode("utf-8", "surrogateescape"))
        at = begin + len(text[leaf.start : leaf.end].encode("utf-8", "surrogateescape"))
        chars = leaf.end
        leaf.start, leaf.end = begin, at


def replace(body: bytes, edits: Iterable[tuple[int, int, bytes]]) -> bytes:
    """`body` with byte spans replaced; nothing else changes. `edits` must not overlap."""
    ordered = sorted(edits)
    return splice_bytes(body, (Edit(start, end, new.decode("latin-1")) for start, end, new in ordered))


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The values of an NDJSON text with their offsets; empty lines left out."""
    at = 0
    for line in text.split("\n"):
        if line.strip():
            yield at, line
        at += len(line) + 1
