"""From a body to the texts in it: which decoder for which content type, and decoders inside decoders.

The label chooses the first decoder; the bytes overrule it where they show another kind. What no decoder reads is
listed in `Walk.media`, for policy to decide.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from proxy.bodies import archives, codings, files, form, kinds, multipart
from proxy.bodies.charset import CharsetLayer, codec_of, narrow_readings
from proxy.bodies.json_spans import Leaf, Node, is_json, lines, scan_text
from proxy.bodies.layers import ByteLayer, Edit, FixedBytes, FixedLeaf, FixedText, Layer, Namer, TextLayer
from proxy.bodies.limits import Limits, refuse_size
from proxy.errors import Denied

_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?(?:json(?:-seq|lines|l)?|x-ndjson|x-json)|text/(?:x-)?json")
_RUN_OF_NUMBERS: Final = 8
_PROVIDER_BLOBS: Final = frozenset(("signature", "encrypted_content", "thoughtSignature", "thought_signature"))
"""Fields in which a provider's own sealed state comes back to it (thinking signatures, reasoning items)."""


@dataclass(frozen=True, slots=True)
class Medium:
    """Something that is no text: its kind, what to call it in `inspected`, and where it stands."""

    kind: kinds.Kind
    name: str
    layer: Layer


@dataclass(slots=True)
class Walk:
    """Collects leaves and media of one body. `skips`: a JSON path that policy takes out. `token_fields`: top-level
    JSON fields whose arrays of whole numbers are model tokens, which nobody can read. `provider`: a known API."""

    limits: Limits
    skips: Callable[[str], bool] | None = None
    token_fields: frozenset[str] = frozenset()
    provider: bool = False
    leaves: list[TextLayer] = field(default_factory=list)
    media: list[Medium] = field(default_factory=list)
    _budget: archives.Budget = field(init=False)

    def __post_init__(self) -> None:
        self._budget = archives.Budget(self.limits)

    def body(self, layer: ByteLayer, start: int, data: bytes, content_type: str, nested: int = 0) -> None:
        """Reads `data`, which stands at `start` of `layer`. Raises Denied `encoding` or `too_large`."""
        if not data or self._compressed(layer, data, content_type, nested):
            return
        kind, parameters = multipart.media_type(content_type)
        if kind.startswith("multipart/"):
            self._multipart(layer, start, data, parameters.get("boundary"), nested)
            return
        seen = kinds.sniff(data)
        if self._container(layer, data, kind, seen, nested):
            return
        codec = codec_of(data, parameters.get("charset"))
        text = CharsetLayer(layer, data, start, codec)
        plain = narrow_readings(data, codec)
        if plain:
            self.add(FixedText(plain, "body"))
        self._text_body(text, kind, nested)

    def _container(self, layer: ByteLayer, data: bytes, label: str, seen: kinds.Kind, nested: int) -> bool:
        """Files and records that hold texts. What is read whole is no medium; of the rest, at least what shows."""
        reader = files.reader_of(data, label, seen)
        if reader is None and seen == "text":
            return False
        inner = FixedBytes(data, layer)
        try:
            found = reader(data, self.limits, self._budget) if reader else None
        except files.UnreadableError as unreadable:
            found, seen = None, unreadable.kind
        if found is None:
            self.media.append(Medium(seen, seen, layer))
            texts, contents, left = files.visible(data, seen), [], None
        else:
            texts, contents, left = found.texts, found.files, found.left
        if left is not None:
            self.media.append(Medium(left, left, layer))
        for text in texts:
            self.text(FixedLeaf(inner, text), nested, files=False)
        if contents:
            self._descend(nested)
        for content in contents:
            self.body(FixedBytes(content.data, layer), 0, content.data, content.label, nested + 1)
        return True

    def _compressed(self, layer: ByteLayer, data: bytes, content_type: str, nested: int) -> bool:
        coding = codings.sniff_coding(data)
        if coding is None:
            return False
        self._descend(nested)
        try:
            decoded = codings.decode(data, (coding,), self.limits)
        except Denied as refusal:
            if refusal.code != "encoding":
                raise
            return False
        inner = FixedBytes(decoded.data, layer)
        for note in decoded.notes:
            self.add(FixedText(note, "body"))
        self.body(inner, 0, decoded.data, content_type, nested + 1)
        return True

    def _text_body(self, text: TextLayer, kind: str, nested: int) -> None:
        if _JSON.fullmatch(kind):
            self._json(text, nested)
        elif kind == "application/x-www-form-urlencoded" and not _is_json(text.text):
            for item in form.fields(text, 0, len(text.text), self.limits, label="form"):
                self.text(item, nested)
        else:
            self.text(text, nested)

    def _multipart(self, layer: ByteLayer, start: int, data: bytes, boundary: str | None, nested: int) -> None:
        self._descend(nested)
        parts, extra = multipart.split(data, boundary, self.limits)
        for begin, end in extra:
            self.body(layer, start + begin, data[begin:end], "text/plain", nested + 1)
        for part in parts:
            begin, end = part.head
            if end > begin:
                head = CharsetLayer(layer, data[begin:end], start + begin, "utf-8", "part header")
                self.add(head)
                for value in multipart.continued(head.text):
                    self.add(FixedLeaf(head, value))
            begin, end = part.body
            if part.transfer_coding in ("base64", "quoted-printable"):
                inner = multipart.TransferLayer(layer, data[begin:end], start + begin, part.transfer_coding)
                self.body(inner, 0, inner.data, part.content_type, nested + 1)
            else:
                self.body(layer, start + begin, data[begin:end], part.content_type, nested + 1)

    def _json(self, layer: TextLayer, nested: int) -> None:
        """All leaves; for what is no JSON, also the text as it stands, since each parser guesses in its own way."""
        leaves = scan_text(layer.text, layer, self.limits)
        self._leaves(leaves, nested)
        if not is_json(layer.text) and not all(is_json(line) for _, line in lines(layer.text)):
            self.text(layer, nested)

    def _leaves(self, leaves: Sequence[Leaf], nested: int) -> None:
        at = 0
        while at < len(leaves):
            leaf = leaves[at]
            at += 1
            if leaf.kind == "number":
                at = self._numbers(leaves, at - 1, nested)
            elif leaf.kind == "key":
                self.leaves.append(leaf)
            elif not self._skipped(leaf, nested):
                self._string(leaf, nested)
        self._check_leaves()

    def _string(self, leaf: Leaf, nested: int) -> None:
        found = kinds.file_of_string(leaf.text) if len(leaf.text) >= kinds.MIN_BASE64_CHARS else None
        if found is None:
            self.text(leaf, nested)
            return
        kind, data = found
        if kind == "unknown" and self._sealed(leaf.node) and codings.sniff_coding(data) is None:
            self.media.append(Medium("sealed", "sealed", leaf))
        else:
            if kind == "unknown":
                self.add(leaf)
            self._file(leaf, data, nested)

    def _file(self, layer: TextLayer, data: bytes, nested: int) -> None:
        self._descend(nested)
        self.body(FixedBytes(data, layer), 0, data, "", nested + 1)

    def _skipped(self, leaf: Leaf, nested: int) -> bool:
        """Policy's paths count from the body's own root, never from that of a text inside it."""
        return nested == 0 and self.skips is not None and self.skips(leaf.path)

    def _sealed(self, node: Node) -> bool:
        return self.provider and node[1] in _PROVIDER_BLOBS

    def _numbers(self, leaves: Sequence[Leaf], first: int, nested: int) -> int:
        """Takes the run of numbers of one array at `first`; a long one (a vector) is one text. Returns its end."""
        outer, step = leaves[first].node
        end = first + 1
        if isinstance(step, int):
            while end < len(leaves) and leaves[end].kind == "number" and leaves[end].node[0] is outer:
                end += 1
        run = [leaf for leaf in leaves[first:end] if not self._skipped(leaf, nested)]
        if not run:
            return end
        if self.token_fields and _is_token_array(outer, self.token_fields) and all(leaf.text.isdigit() for leaf in run):
            self.media.append(Medium("unknown", "tokens", run[0]))
        elif len(run) >= _RUN_OF_NUMBERS:
            self.leaves.append(NumberRun(run))
        else:
            self.leaves.extend(run)
        return end

    def text(self, layer: TextLayer, nested: int, *, files: bool = True) -> None:
        """One text, which may itself be JSON (tool-call arguments, JSON in a form field). `files`: look for such; not
        in the head, where session cookies and signatures are as long."""
        if _is_json(layer.text):
            self._descend(nested)
            self._leaves(scan_text(layer.text, layer, self.limits), nested + 1)
            return
        self.add(layer)
        if files:
            for _, data in kinds.files_in_text(layer.text):
                self._file(layer, data, nested)

    def add(self, layer: TextLayer) -> None:
        """One leaf, looked at as it stands."""
        self.leaves.append(layer)
        self._check_leaves()

    def _check_leaves(self) -> None:
        if len(self.leaves) > self.limits.max_leaves:
            raise refuse_size("the body", self.limits.max_leaves, "texts")

    def _descend(self, nested: int) -> None:
        if nested >= self.limits.max_nested:
            raise refuse_size("the nesting of encoded texts", self.limits.max_nested, "levels")


class NumberRun(TextLayer):
    """Consecutive numbers of one array as one text. An edit turns each number that it touches into a string."""

    __slots__ = ("_leaves", "_start", "parent")

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        parent = leaves[0].parent
        if not isinstance(parent, TextLayer):
            raise TypeError("numbers stand in a text")
        self.parent: Layer | None = parent
        self._leaves = leaves
        self._start = leaves[0].start
        self.text = parent.text[self._start : leaves[-1].end]

    def lift(self, edits: Sequence[Edit]) -> list[Edit]:
        out: list[Edit] = []
        for edit in edits:
            at = bisect_right(self._leaves, edit.start + self._start, key=_end)
            while at < len(self._leaves) and self._leaves[at].start < edit.end + self._start:
                out.append(Edit(self._leaves[at].start, self._leaves[at].end, json.dumps(edit.new)))
                at += 1
        return out

    def where(self, name: Namer) -> str:
        return self._leaves[0].where(name)


def _end(leaf: Leaf) -> int:
    return leaf.end


def _is_json(text: str) -> bool:
    """True for a JSON object or array; other JSON texts read the same as plain text."""
    return (text[:1] in ("{", "[") or text.lstrip()[:1] in ("{", "[")) and is_json(text)


def _is_token_array(outer: Node | None, fields: frozenset[str]) -> bool:
    """`$.input[n]` or `$.input[n][m]`: `outer` is the array's own place."""
    while outer is not None and isinstance(outer[1], int):
        outer = outer[0]
    return outer is not None and outer[1] in fields and outer[0] is not None and outer[0][0] is None
