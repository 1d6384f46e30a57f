"""Values that were split over several texts of one message: content parts, successive turns of one role, items of an
array, fields of an object or a form, parts of a multipart body.

Texts that belong together are put on end, and only what lies over a seam counts, and of that only what a checksum or an
unmistakable form bears out: two texts on end make words that nobody wrote.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from proxy.bodies.charset import CharsetLayer, printable
from proxy.bodies.form import PercentLayer
from proxy.bodies.head import MachineText
from proxy.bodies.json_spans import Leaf, Node
from proxy.bodies.layers import TextLayer
from proxy.bodies.views import Reading, same
from proxy.bodies.views.separators import card_readings, compact, ssn_readings

_EDGE_CHARS: Final = 64
"""What a value may take on either side of a seam: the longest local part of an e-mail address, twice an IBAN."""
_LEAST_DIGITS: Final = 9
_DIGIT_RUN: Final = re.compile(r"[0-9](?:[ .,\-/_\n\u2010-\u2015]{0,3}[0-9]){8,}+")
_GROUP: Final = re.compile(r"[0-9]+")
_NOT_DIGITS: Final = bytes(code for code in range(256) if code not in b"0123456789")
_ADDRESS: Final = re.compile(r"@[\w\-]{1,63}(?:\.[\w\-]{1,63}){1,4}")
_LOCAL: Final = re.compile(r"[\w.+\-]{1,64}\Z")
_WHOLE_ADDRESS: Final = re.compile(r"[\w+\-]@[\w\-]{1,63}(?:\.[\w\-]{1,63}){0,4}\.[A-Za-z]{2,24}")
_FIRST_HALF: Final = re.compile(r"[A-Za-z]{1,32}[._][A-Za-z]{2,32}")
_SECOND_HALF: Final = re.compile(
    r"(?:[A-Za-z0-9\-]{1,63}\.){1,3}(?:com|org|net|edu|gov|info|biz|eu|de|uk|fr|es|it|nl|ch|at|us|ca|au|jp|in|br)"
)
_ACCOUNT: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}[A-Z0-9 ]{11,44}")
_SHAPES: Final = bytes(0x41 if 65 <= code < 91 else 0x30 if 48 <= code < 58 else 0x20 for code in range(256))
_SECRET_STARTS: Final = (
    "sk-", "rk-", "sk_", "rk_", "pk_", "ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "xox", "AKIA",
    "ASIA", "AIza", "eyJ", "hf_", "npm_", "pypi-", "SG.", "dop_v1_", "shpat_", "ya29.", "-----BEGIN",
)  # fmt: skip
_SECRET_CHARS: Final = 4096
_EMAIL: Final = frozenset(("EMAIL_ADDRESS",))
_IBAN: Final = frozenset(("IBAN_CODE",))
_SECRETS: Final = frozenset(("SECRET", "PRIVATE_KEY"))


_HEADERS: Final = "header"
"""Numbers over header fields are `head.JoinedText`'s business: ids and times stand side by side there."""


class Piece(NamedTuple):
    """Characters of a chain from `start` on are those of leaf number `leaf` from `offset` on."""

    start: int
    leaf: int
    offset: int


@dataclass(slots=True)
class Chain:
    """Texts on end. `context`: what the texts are called, e.g. the key of their array. `numbers`: look for numbers."""

    text: str = ""
    pieces: list[Piece] = field(default_factory=list)
    context: str = ""
    numbers: bool = True

    def parts(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """(leaf, start, end) of each text that `start:end` touches, in order."""
        out = []
        at = bisect_right(self.pieces, start, key=_start) - 1
        while at < len(self.pieces) and self.pieces[at].start < end:
            piece = self.pieces[at]
            stop = self.pieces[at + 1].start if at + 1 < len(self.pieces) else len(self.text)
            first, last = max(start, piece.start), min(end, stop)
            if first < last:
                shift = piece.offset - piece.start
                out.append((piece.leaf, first + shift, last + shift))
            at += 1
        return out

    def crosses(self, start: int, end: int) -> bool:
        """True when `start:end` lies over a seam."""
        return bisect_right(self.pieces, start, key=_start) != bisect_right(self.pieces, end - 1, key=_start)


def _start(piece: Piece) -> int:
    return piece.start


def chains(leaves: Sequence[TextLayer]) -> Iterator[Chain]:
    """The chains of a message in which a value may have been split."""
    for context, group in _groups(leaves):
        for chain in _chained(leaves, group, context):
            if len(chain.pieces) > 1:
                yield chain


def _groups(leaves: Sequence[TextLayer]) -> Iterator[tuple[str, list[int]]]:
    """Numbers of leaves that belong together, each group at least two."""
    shapes = _Shapes(leaves)
    found: dict[tuple[object, ...], list[int]] = {}
    names: dict[tuple[object, ...], str] = {}
    for index, leaf in enumerate(leaves):
        for key, name in _keys(leaf, shapes):
            found.setdefault(key, []).append(index)
            names.setdefault(key, name)
    done: set[tuple[int, ...]] = set()
    for key, group in found.items():
        if len(group) > 1 and tuple(group) not in done:
            done.add(tuple(group))
            yield names[key], group


def _keys(leaf: TextLayer, shapes: "_Shapes") -> Iterator[tuple[tuple[object, ...], str]]:
    if isinstance(leaf, Leaf):
        outer = leaf.node[0]
        if leaf.kind != "key" and outer is not None:
            name = outer[1] if isinstance(leaf.node[1], int) else ""
            yield ("siblings", id(leaf.parent), id(outer)), name if isinstance(name, str) and name != "$" else ""
            shape = shapes.of(leaf.node)
            if shape is not None:
                yield ("shape", id(leaf.parent), shape), str(leaf.node[1])
    elif isinstance(leaf, MachineText):
        yield ("headers",), _HEADERS
    elif isinstance(leaf, PercentLayer):
        if leaf.name is not None:
            yield ("fields", id(leaf.parent), leaf.label), ""
    elif isinstance(leaf, CharsetLayer) and not leaf.label:
        yield ("parts", id(leaf.parent)), ""


class _Shapes:
    """Paths with any index as `*`, and with the role of the message they belong to."""

    def __init__(self, leaves: Sequence[TextLayer]) -> None:
        self._roles = {
            id(leaf.node[0]): leaf.text for leaf in leaves
            if isinstance(leaf, Leaf) and leaf.node[1] == "role" and leaf.kind == "string"
        }  # fmt: skip
        self._known: dict[int, tuple[str, bool]] = {}

    def of(self, node: Node) -> str | None:
        """None for a place of which there is only one."""
        outer, step = node
        if outer is None:
            return None
        path, several = self._container(outer)
        return f"{path}/{'*' if isinstance(step, int) else step}" if several else None

    def _container(self, node: Node) -> tuple[str, bool]:
        """Shape of an object or array, and whether there may be more of the same. Depth is bounded by the scan."""
        known = self._known.get(id(node))
        if known is None:
            outer, step = node
            if outer is None:
                known = ("", False)
            else:
                path, several = self._container(outer)
                own = "*" if isinstance(step, int) else step
                known = (f"{path}/{own}", several or own == "*")
            role = self._roles.get(id(node))
            known = (f"{known[0]}[{role}]", known[1]) if role is not None else known
            self._known[id(node)] = known
        return known


def _chained(leaves: Sequence[TextLayer], group: Sequence[int], context: str) -> Iterator[Chain]:
    """A long text ends one chain and starts the next."""
    texts: list[str] = []
    chain = Chain(context=context, numbers=context != _HEADERS)
    size = 0
    for index in group:
        text = leaves[index].text
        long = len(text) > 2 * _EDGE_CHARS
        head = text[:_EDGE_CHARS] if long else text
        if head:
            chain.pieces.append(Piece(size, index, 0))
            texts.append(head)
            size += len(head)
        if long:
            chain.text = printable("".join(texts))
            yield chain
            texts, size = [text[-_EDGE_CHARS:]], _EDGE_CHARS
            chain = Chain(pieces=[Piece(0, index, len(text) - _EDGE_CHARS)], context=context)
    chain.text = printable("".join(texts))
    yield chain


def readings(chain: Chain) -> Iterator[Reading]:
    """What may lie over a seam; `span` maps to the chain's text."""
    text = chain.text
    if chain.numbers and len(text.encode("latin-1", "replace").translate(None, _NOT_DIGITS)) >= _LEAST_DIGITS:
        yield from _numbers(chain)
    if "@" in text:
        yield from _addresses(chain)
    if "." in text or "_" in text:
        yield from _halves(chain)
    if b"AA00" in text.encode("latin-1", "replace").translate(_SHAPES):
        yield from _accounts(chain)
    yield from _secrets(chain)


def _numbers(chain: Chain) -> Iterator[Reading]:
    seams = [piece.start for piece in chain.pieces[1:]]
    for run in _DIGIT_RUN.finditer(chain.text):
        if not chain.crosses(*run.span()):
            continue
        natural = [group.span() for group in _GROUP.finditer(chain.text, *run.span())]
        split = list(_split(natural, seams))
        for groups, gaps in ((natural, "xxx-x-xxx"), (split, "xxx,x,xxx")):
            for card in card_readings(chain.text, groups, loose=True):
                if chain.crosses(*card.span(0, len(card.text))):
                    yield card
            for ssn in ssn_readings(chain.text, groups, gaps):
                if chain.crosses(*ssn.span(len(ssn.text) - len("123-45-6789"), len(ssn.text))):
                    yield _named(ssn, chain)


def _named(reading: Reading, chain: Chain) -> Reading:
    if not chain.context:
        return reading
    prefix = chain.context.replace("_", " ") + ": "

    def span(start: int, end: int) -> tuple[int, int]:
        return reading.span(max(0, start - len(prefix)), max(1, end - len(prefix)))

    return Reading(prefix + reading.text, span, entities=reading.entities)


def _split(groups: Sequence[tuple[int, int]], seams: Sequence[int]) -> Iterator[tuple[int, int]]:
    for start, end in groups:
        inner = seams[bisect_right(seams, start) : bisect_left(seams, end)]
        yield from pairwise((start, *inner, end))


def _addresses(chain: Chain) -> Iterator[Reading]:
    for match in _ADDRESS.finditer(chain.text):
        local = _LOCAL.search(chain.text[max(0, match.start() - _EDGE_CHARS) : match.start()])
        if local is None:
            continue
        start, end = match.start() - len(local[0]), match.end()
        if len(pieces := _cut(chain, start, end)) > 1 and not any(_WHOLE_ADDRESS.search(piece) for piece in pieces):
            yield _slice(chain.text, start, end, _EMAIL)


def _cut(chain: Chain, start: int, end: int) -> list[str]:
    """The characters `start:end` as they were before they were put on end."""
    first, last = bisect_right(chain.pieces, start, key=_start), bisect_left(chain.pieces, end, key=_start)
    inner = [piece.start for piece in chain.pieces[first:last]]
    return [chain.text[first:last] for first, last in pairwise((start, *inner, end))]


def _halves(chain: Chain) -> Iterator[Reading]:
    """`["jane.roe", "example.com"]`: the sign between is left to the receiver to put in."""
    bounds = [*(piece.start for piece in chain.pieces), len(chain.text)]
    for first, middle, end in zip(bounds, bounds[1:], bounds[2:], strict=False):
        if not _FIRST_HALF.fullmatch(chain.text, first, middle) or not _SECOND_HALF.fullmatch(chain.text, middle, end):
            continue
        yield compact(range(first, end), chain.text, 0, _EMAIL, "x" * (middle - first) + "@")


def _accounts(chain: Chain) -> Iterator[Reading]:
    for match in _ACCOUNT.finditer(chain.text):
        if chain.crosses(*match.span()):
            yield _slice(chain.text, *match.span(), _IBAN)


def _secrets(chain: Chain) -> Iterator[Reading]:
    """From the first letters of a vendor's token on: the rest may stand in the next text."""
    text = chain.text
    for start in _SECRET_STARTS:
        at = text.find(start)
        while at >= 0:
            end = min(len(text), at + _SECRET_CHARS)
            if chain.crosses(at, end):
                yield _slice(text, at, end, _SECRETS)
            at = text.find(start, end)


def _slice(text: str, start: int, end: int, entities: frozenset[str]) -> Reading:
    def span(first: int, last: int) -> tuple[int, int]:
        return start + first, start + last

    return Reading(text[start:end], span if start else same, entities=entities)
