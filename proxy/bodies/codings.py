"""Content codings (RFC 9110 section 8.4) from a closed list, decoded whole and within caps.

All members of gzip (RFC 1952 section 2.2) and all frames of zstd (RFC 8878 section 3) are read; a stream that is cut
short, or followed by other bytes, is refused, because the next decoder may read on where this one stopped.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO

import brotli
import zstandard

from proxy.bodies.limits import DEFAULT_LIMITS, Limits, refuse_size
from proxy.errors import Denied

_STEP_BYTES = 64 << 10
_KEPT_BYTES = 4 << 20
_USUAL_RATIO = 40
"""Chat logs stay below it."""
_FEED_BYTES = 16 << 10
_MAX_MEMBERS = 1000
"""Each member costs a decoder; parallel compressors (pigz, bgzip, zstdmt) cut a 32 MiB body into some 500."""
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_HCRC, _GZIP_EXTRA, _GZIP_NAME, _GZIP_COMMENT = 2, 4, 8, 16
_STRETCH = re.compile(rb"[\t\x20-\x7e]{9,}")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW_BYTES = 8 << 20
"""RFC 8878 section 3.1.1.1.2: decoders should support 8 MiB, and may refuse more."""

type _Decoder = Callable[[bytes, list[str]], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Decoded:
    """`data`: the body without its codings. `notes`: text that rode along in the coding itself (gzip file names,
    comments and extra fields), which reaches the next hop although no decoder shows it."""

    data: bytes
    notes: tuple[str, ...] = ()


def content_codings(values: Iterable[bytes]) -> tuple[str, ...]:
    """Lower-case codings of all Content-Encoding fields, in the order they were applied, `identity` left out.

    Raises Denied `encoding` for a coding that is not on the list, and for more than four of them.
    """
    names = [item.strip().lower() for value in values for item in value.decode("latin-1").split(",")]
    codings = tuple(name for name in names if name not in ("", "identity"))
    if any(name not in _DECODERS for name in codings):
        raise Denied("encoding", "the Content-Encoding is not one of gzip, x-gzip, deflate, br, zstd, identity")
    if len(codings) > DEFAULT_LIMITS.max_codings:
        raise Denied("encoding", f"more than {DEFAULT_LIMITS.max_codings} content codings are stacked")
    return codings


def decode(body: bytes, codings: Iterable[str], limits: Limits = DEFAULT_LIMITS) -> Decoded:
    """Undoes `codings`, the last applied first. Raises Denied `encoding` or `too_large`."""
    notes: list[str] = []
    for coding in reversed(tuple(codings)):
        coded, body = body, _collect(_DECODERS[coding], body, notes, limits)
        if coding == "br":
            notes.extend(_brotli_notes(coded, body))
    return Decoded(body, tuple(notes))


def sniff_coding(data: bytes) -> str | None:
    """The coding whose magic number starts `data`, for bodies that do not say that they are compressed."""
    if data.startswith(_GZIP_MAGIC + b"\x08"):
        return "gzip"
    if data.startswith(_ZSTD_MAGIC):
        return "zstd"
    # RFC 1950 section 2.2: CM 8, window 32 KiB, header a multiple of 31, no preset dictionary
    if len(data) > 6 and data[0] == 0x78 and data[1] in (0x01, 0x5E, 0x9C, 0xDA):
        return "deflate"
    return None


def _collect(decoder: _Decoder, body: bytes, notes: list[str], limits: Limits) -> bytes:
    """What grows far beyond the usual is only counted first, so that a bomb never lies in memory; the rare honest body
    of that kind is decoded twice."""
    cap = min(limits.max_decoded_bytes, max(limits.ratio_floor_bytes, len(body) * limits.max_ratio))
    usual = max(_KEPT_BYTES, len(body) * _USUAL_RATIO)
    parts: list[bytes] = []
    total = 0
    for chunk in decoder(body, notes):
        total += len(chunk)
        if total > cap:
            raise refuse_size("the decompressed body", cap, "bytes")
        if total <= usual:
            parts.append(chunk)
        else:
            parts.clear()
    return b"".join(parts if total <= usual else decoder(body, []))


def _refuse(coding: str, why: str) -> Denied:
    return Denied("encoding", f"the {coding} body {why}")


def _inflate(data: bytes, start: int, window_bits: int, coding: str) -> Iterator[bytes | int]:
    """Chunks of one zlib stream at `start`; the last item is the offset behind it.

    Fed in slices, because zlib copies all that it was given and did not use.
    """
    engine = zlib.decompressobj(window_bits)
    at, feed = start, b""
    while not engine.eof:
        if not feed:
            feed = data[at : at + _FEED_BYTES]
            at += len(feed)
        starved = not feed
        try:
            chunk = engine.decompress(feed, _STEP_BYTES)
        except zlib.error:
            raise _refuse(coding, "is damaged, or not what its Content-Encoding says") from None
        feed = engine.unconsumed_tail
        if starved and not chunk and not engine.eof:
            raise _refuse(coding, "is cut short")
        yield chunk
    yield at - len(engine.unused_data)


def _gunzip(data: bytes, notes: list[str]) -> Iterator[bytes]:
    at = members = 0
    while at < len(data) or not members:
        if data[at : at + 2] != _GZIP_MAGIC:
            raise _refuse("gzip", "is followed by other bytes" if at else "has no gzip header")
        notes.extend(_gzip_notes(data, at))
        for item in _inflate(data, at, 16 + zlib.MAX_WBITS, "gzip"):
            if isinstance(item, int):
                at = item
            else:
                yield item
        members = _count(members, "gzip")


def _count(members: int, coding: str) -> int:
    if members >= _MAX_MEMBERS:
        raise _refuse(coding, f"has more than {_MAX_MEMBERS} members")
    return members + 1


def _gzip_notes(data: bytes, at: int) -> Iterator[str]:
    """The optional fields of a member header (RFC 1952 section 2.3.1)."""
    flags = data[at + 3] if len(data) > at + 3 else 0
    pos = at + 10
    if flags & _GZIP_EXTRA:
        size = int.from_bytes(data[pos : pos + 2], "little")
        yield data[pos + 2 : pos + 2 + size].decode("latin-1")
        pos += 2 + size
    for bit in (_GZIP_NAME, _GZIP_COMMENT):
        if flags & bit:
            end = data.find(b"\0", pos)
            if end < 0:
                raise _refuse("gzip", "is cut short")
            yield data[pos:end].decode("latin-1")
            pos = end + 1


def _deflate(data: bytes, _notes: list[str]) -> Iterator[bytes]:
    """The zlib format (RFC 9110 section 8.4.1.2), or the bare deflate stream that many senders mean by the name."""
    zlib_header = len(data) >= 2 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    if zlib_header and data[1] & 0x20:
        raise _refuse("deflate", "needs a preset dictionary")
    for item in _inflate(data, 0, zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS, "deflate"):
        if not isinstance(item, int):
            yield item
        elif item != len(data):
            raise _refuse("deflate", "is followed by other bytes")


def _unbrotli(data: bytes, _notes: list[str]) -> Iterator[bytes]:
    """RFC 7932. The library refuses bytes behind the stream by itself."""
    engine = brotli.Decompressor()
    feed = data
    while not engine.is_finished():
        try:
            chunk: bytes = engine.process(feed, output_buffer_limit=_STEP_BYTES)
        except brotli.error:
            raise _refuse("br", "is damaged, followed by other bytes, or not what its Content-Encoding says") from None
        feed = b""
        if not chunk and engine.can_accept_more_data() and not engine.is_finished():
            raise _refuse("br", "is cut short")
        yield chunk


def _brotli_notes(coded: bytes, decoded: bytes) -> Iterator[str]:
    """What a metadata block says (RFC 7932 section 9.2): it stands in the stream as it is and no decoder shows it. So
    does an uncompressed block, which is in the output too."""
    for match in _STRETCH.finditer(coded):
        if match[0] not in decoded:
            yield match[0].decode("latin-1")


def _unzstd(data: bytes, _notes: list[str]) -> Iterator[bytes]:
    at = frames = 0
    while at < len(data) or not frames:
        end = _zstd_frame_end(data, at)
        engine = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        try:
            with engine.stream_reader(BytesIO(data[at:end])) as reader:
                while chunk := reader.read(_STEP_BYTES):
                    yield chunk
        except zstandard.ZstdError:
            raise _refuse("zstd", "is damaged, or needs too large a window") from None
        at = end
        frames = _count(frames, "zstd")


def _zstd_frame_end(data: bytes, at: int) -> int:
    """Offset behind the frame at `at`, found by walking its blocks (RFC 8878 section 3.1.1).

    Skippable frames are refused: no decoder shows what is in them.
    """
    try:
        if data[at : at + 4] != _ZSTD_MAGIC:
            raise _refuse("zstd", "is followed by other bytes" if at else "has no zstd frame")
        facts = zstandard.get_frame_parameters(data[at : at + 18])
        if facts.dict_id:
            raise _refuse("zstd", "needs a dictionary")
        pos = at + zstandard.frame_header_size(data[at : at + 18])
        last = False
        while not last:
            header = int.from_bytes(data[pos : pos + 3], "little")
            last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
            pos += 3 + (1 if kind == 1 else size)
            if pos > len(data):
                raise _refuse("zstd", "is cut short")
        pos += 4 if facts.has_checksum else 0
    except zstandard.ZstdError:
        raise _refuse("zstd", "has a damaged frame header") from None
    if pos > len(data):
        raise _refuse("zstd", "is cut short")
    return pos


_DECODERS: dict[str, _Decoder] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _deflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
