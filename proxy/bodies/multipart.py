"""Multipart bodies (RFC 2046 section 5.1, RFC 7578) as parts with their spans. Strict: what does not parse is refused,
because a lenient receiver may find other parts in it."""

import base64
import binascii
import quopri
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Final
from urllib.parse import unquote

from proxy.bodies.layers import ByteLayer, Edit, Layer, splice_bytes
from proxy.bodies.limits import Limits, refuse_size
from proxy.errors import Denied

_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_CONTINUATION: Final = re.compile(r'([\w\-]{1,64})\*([0-9]{1,3})(\*?)[ \t]*=[ \t]*(?:"([^"]*)"|([^\s;"]*))')
_PLAIN_CODINGS: Final = frozenset(("", "7bit", "8bit", "binary"))


@dataclass(frozen=True, slots=True)
class Part:
    """`head`, `body`: spans of the raw part header and of the part's content in the multipart bytes."""

    head: tuple[int, int]
    body: tuple[int, int]
    content_type: str
    transfer_coding: str


def media_type(value: str) -> tuple[str, dict[str, str]]:
    """Type and parameters of a Content-Type value, lower-case names. Parameters may be quoted (RFC 9110 sec. 5.6.6)."""
    message = Message()
    message["content-type"] = value.replace("\r", " ").replace("\n", " ")
    listed = message.get_params(failobj=[], header="content-type")
    names = [name.lower() for name, _ in listed[1:]]
    if len(set(names)) != len(names):
        raise Denied("encoding", "a Content-Type parameter is given twice")
    return (listed[0][0].lower().strip() if listed else ""), {n: v for n, (_, v) in zip(names, listed[1:], strict=True)}


def split(data: bytes, boundary: str | None, limits: Limits) -> tuple[list[Part], list[tuple[int, int]]]:
    """Parts, and the spans of preamble and epilogue that hold anything.

    Raises Denied `encoding` (no boundary, no parts, no end), `too_large` (parts, header bytes).
    """
    if not boundary or not _BOUNDARY.fullmatch(boundary):
        raise Denied("encoding", "the multipart Content-Type has no valid boundary")
    delimiter = re.compile(rb"(?:\A|\r?\n)--" + re.escape(boundary.encode("ascii")) + rb"(--)?[ \t]*(?=\r?\n|\Z)")
    parts: list[Part] = []
    extra: list[tuple[int, int]] = []
    begin: int | None = None
    end = 0
    for match in delimiter.finditer(data):
        if begin is None:
            extra.append((0, match.start()))
        else:
            parts.append(_part(data, begin, match.start(), limits))
        if len(parts) > limits.max_parts:
            raise refuse_size("the multipart body", limits.max_parts, "parts")
        begin = match.end()
        if match[1]:
            end = match.end()
            break
    if begin is None or not end:
        raise Denied("encoding", "the multipart body does not end with its boundary")
    extra.append((end, len(data)))
    return parts, [span for span in extra if data[span[0] : span[1]].strip()]


def _part(data: bytes, begin: int, end: int, limits: Limits) -> Part:
    start = begin + (2 if data[begin : begin + 2] == b"\r\n" else 1)
    blank = re.compile(rb"\r?\n\r?\n").search(data, begin, end)
    if blank is None:
        raise Denied("encoding", "a multipart part has no end of its header")
    if blank.start() - begin > limits.max_part_header_bytes:
        raise refuse_size("a part header", limits.max_part_header_bytes, "bytes")
    head = (min(start, blank.start()), blank.start())
    found = _fields(data[head[0] : head[1]].decode("utf-8", "surrogateescape"))
    coding = found.get("content-transfer-encoding", "").lower()
    if coding not in _PLAIN_CODINGS and coding not in ("base64", "quoted-printable"):
        raise Denied("encoding", "a part's Content-Transfer-Encoding is not base64, quoted-printable, 8bit or binary")
    if "content-encoding" in found:
        raise Denied("encoding", "a part has a Content-Encoding of its own")
    return Part(head, (blank.end(), end), found.get("content-type", "text/plain"), coding)


def _fields(head: str) -> dict[str, str]:
    out: dict[str, str] = {}
    for line in re.sub(r"\r?\n[ \t]+", " ", head).splitlines():
        name, colon, value = line.partition(":")
        key = name.strip().lower()
        if not colon or key in out:
            raise Denied("encoding", "a part header is damaged, or names a field twice")
        out[key] = value.strip()
    return out


def continued(head: str) -> list[str]:
    """Parameter values that stand in pieces (`filename*0=…; filename*1*=…`, RFC 2231 section 3), put together."""
    pieces: dict[str, dict[int, str]] = {}
    for name, number, extended, quoted, bare in _CONTINUATION.findall(head):
        value = unquote(quoted or bare) if extended else quoted or bare
        pieces.setdefault(name.lower(), {})[int(number)] = value
    return ["".join(value for _, value in sorted(found.items())) for found in pieces.values()]


class TransferLayer(ByteLayer):
    """The decoded bytes of a base64 or quoted-printable part. An edit encodes the whole part anew."""

    __slots__ = ("_coding", "_end", "_start")

    def __init__(self, parent: Layer, raw: bytes, start: int, coding: str) -> None:
        super().__init__(_untransfer(raw, coding), parent)
        self._start = start
        self._end = start + len(raw)
        self._coding = coding

    def lift(self, edits: Sequence[Edit]) -> list[Edit]:
        data = splice_bytes(self.data, edits)
        coded = base64.encodebytes(data).strip() if self._coding == "base64" else quopri.encodestring(data)
        return [Edit(self._start, self._end, coded.decode("latin-1"))]


def _untransfer(raw: bytes, coding: str) -> bytes:
    if coding == "quoted-printable":
        return quopri.decodestring(raw)
    try:
        return base64.b64decode(re.sub(rb"\s+", b"", raw), validate=True)
    except (binascii.Error, ValueError):
        raise Denied("encoding", "a part that says base64 is not") from None
