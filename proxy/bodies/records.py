"""Binary records as the texts in them: MessagePack, CBOR (RFC 8949), protobuf without its schema, gRPC frames.

Strings and numbers come out as texts, byte strings as bytes for whoever reads files. What does not parse to its last
byte is no such record.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Final

from proxy.bodies.limits import Limits, refuse_size

type Item = str | bytes
"""A string or a number as text; or bytes that may be anything."""

_MOST_PROTOBUF_DEPTH: Final = 32


class NoRecordError(ValueError):
    """The bytes are no record of this kind."""


class _Reader:
    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if size < 0 or end > len(self.data):
            raise NoRecordError
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def more(self) -> bool:
        return self.at < len(self.data)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _real(value: float) -> str:
    return str(int(value)) if value == value and abs(value) < 1e19 and value == int(value) else repr(value)


def msgpack(data: bytes, limits: Limits) -> list[Item]:
    """All strings, numbers and byte strings, in order. Raises NoRecordError, Denied `too_large`."""
    reader, out = _Reader(data), list[Item]()
    pending = [1]
    while reader.more() or (pending and pending[-1]):
        while pending and not pending[-1]:
            pending.pop()
        if not pending:
            pending = [1]  # one value behind the other, as streams have them
        pending[-1] -= 1
        items = _msgpack_one(reader, out)
        if items:
            pending.append(items)
        if len(pending) > limits.max_depth or len(out) > limits.max_leaves:
            raise refuse_size("the MessagePack body", limits.max_depth, "levels")
    return out


def _msgpack_one(reader: _Reader, out: list[Item]) -> int:
    """Reads one head and its content; the number of items that belong to it and follow."""
    head = reader.number(1)
    if head < 0x80 or head >= 0xE0:
        out.append(str(head if head < 0x80 else head - 256))
    elif head < 0x90:
        return 2 * (head & 15)
    elif head < 0xA0:
        return head & 15
    elif head < 0xC0:
        out.append(_text(reader.take(head & 31)))
    elif 0xC4 <= head <= 0xC6:
        out.append(reader.take(reader.number(1 << head - 0xC4)))
    elif 0xC7 <= head <= 0xC9:
        size = reader.number(1 << head - 0xC7)
        out.append(reader.take(size + 1)[1:])
    else:
        return _msgpack_sized(reader, out, head)
    return 0


def _msgpack_sized(reader: _Reader, out: list[Item], head: int) -> int:
    if head in (0xCA, 0xCB):
        size = 4 if head == 0xCA else 8
        out.append(_real(struct.unpack(">f" if size == 4 else ">d", reader.take(size))[0]))
    elif 0xCC <= head <= 0xD3:
        raw = reader.take(1 << (head - 0xCC) % 4)
        out.append(str(int.from_bytes(raw, "big", signed=head >= 0xD0)))
    elif 0xD4 <= head <= 0xD8:
        out.append(reader.take((1 << head - 0xD4) + 1)[1:])
    elif 0xD9 <= head <= 0xDB:
        out.append(_text(reader.take(reader.number(1 << head - 0xD9))))
    elif head >= 0xDC:
        size = reader.number(2 if head % 2 == 0 else 4)
        return size * (2 if head >= 0xDE else 1)
    elif head == 0xC1:
        raise NoRecordError
    return 0


_INDEFINITE: Final = -1


def cbor(data: bytes, limits: Limits) -> list[Item]:
    """All strings, numbers and byte strings, in order. Raises NoRecordError, Denied `too_large`."""
    reader, out = _Reader(data), list[Item]()
    pending = [1]
    while reader.more() or (pending and pending[-1]):
        while pending and not pending[-1]:
            pending.pop()
        if not pending:
            pending = [1]
        if pending[-1] != _INDEFINITE:
            pending[-1] -= 1
        items = _cbor_one(reader, out)
        if items is None:
            if pending[-1] != _INDEFINITE:
                raise NoRecordError
            pending[-1] = 0
        elif items:
            pending.append(items)
        if len(pending) > limits.max_depth or len(out) > limits.max_leaves:
            raise refuse_size("the CBOR body", limits.max_depth, "levels")
    return out


def _cbor_chunks(reader: _Reader, major: int) -> Iterator[bytes]:
    """The pieces of a string of unknown length (RFC 8949 section 3.2.3)."""
    while (head := reader.number(1)) != 0xFF:
        if head >> 5 != major or head & 31 > 27:
            raise NoRecordError
        yield reader.take(head & 31 if head & 31 < 24 else reader.number(1 << (head & 31) - 24))


def _cbor_one(reader: _Reader, out: list[Item]) -> int | None:
    """Number of items that follow and belong to it; None for a break."""
    head = reader.number(1)
    major, info = head >> 5, head & 31
    if head == 0xFF:
        return None
    if info == 31 and major in (2, 3):
        chunks = b"".join(_cbor_chunks(reader, major))
        out.append(chunks if major == 2 else _text(chunks))
        return 0
    if info == 31 and major in (4, 5):
        return _INDEFINITE
    if info > 27:
        raise NoRecordError
    raw = reader.take(1 << info - 24) if info >= 24 else b""
    size = int.from_bytes(raw, "big") if raw else info
    if major < 2:
        out.append(str(size if major == 0 else -1 - size))
    elif major == 2:
        out.append(reader.take(size))
    elif major == 3:
        out.append(_text(reader.take(size)))
    elif major == 7 and info >= 25:
        out.append(_real(struct.unpack({25: ">e", 26: ">f", 27: ">d"}[info], raw)[0]))
    elif major in (4, 5):
        return size * (major - 3)
    return 1 if major == 6 else 0


def protobuf(data: bytes, limits: Limits) -> list[Item]:
    """All that may be a string, a number or bytes; what may be both a text and a message comes out as both.

    Raises NoRecordError, Denied `too_large`.
    """
    out: list[Item] = []
    todo = [(data, 0)]
    while todo:
        message, depth = todo.pop()
        for raw in _fields(message, out):
            if depth < _MOST_PROTOBUF_DEPTH and _is_message(raw):
                todo.append((raw, depth + 1))
            text = _plain(raw)
            out.append(raw if text is None else text)
        if len(out) > limits.max_leaves:
            raise refuse_size("the protobuf body", limits.max_leaves, "values")
    return out


def _plain(raw: bytes) -> str | None:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if sum(char < " " and char not in "\t\r\n" for char in text) * 20 <= len(text) else None


def _is_message(raw: bytes) -> bool:
    try:
        for _ in _fields(raw, []):
            pass
    except NoRecordError:
        return False
    return bool(raw)


def _fields(message: bytes, out: list[Item]) -> Iterator[bytes]:
    """Yields the content of length-delimited fields; numbers go to `out` (protobuf encoding guide)."""
    reader = _Reader(message)
    while reader.more():
        tag = _varint(reader)
        if not 0 < tag >> 3 < 1 << 29:
            raise NoRecordError
        kind = tag & 7
        if kind == 0:
            out.append(str(_varint(reader)))
        elif kind == 1:
            raw = reader.take(8)
            out += (str(int.from_bytes(raw, "little")), _real(struct.unpack("<d", raw)[0]))
        elif kind == 2:
            yield reader.take(_varint(reader))
        elif kind == 5:
            out.append(str(int.from_bytes(reader.take(4), "little")))
        elif kind not in (3, 4):
            raise NoRecordError


def _varint(reader: _Reader) -> int:
    value = shift = 0
    while True:
        byte = reader.number(1)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
        if shift > 63:
            raise NoRecordError


def grpc_frames(data: bytes) -> list[tuple[bool, bytes]]:
    """(compressed, message) of each length-prefixed message. Raises NoRecordError."""
    reader, out = _Reader(data), []
    while reader.more():
        flag = reader.number(1)
        if flag not in (0, 1):
            raise NoRecordError
        out.append((flag == 1, reader.take(reader.number(4))))
    return out


PARSERS: Final[dict[str, Callable[[bytes, Limits], list[Item]]]] = {
    "application/msgpack": msgpack,
    "application/x-msgpack": msgpack,
    "application/vnd.msgpack": msgpack,
    "application/cbor": cbor,
    "application/protobuf": protobuf,
    "application/x-protobuf": protobuf,
    "application/vnd.google.protobuf": protobuf,
}
