"""Content codings of answers, undone while they stream: gzip (all members), deflate (both forms), br, zstd, stacked.

Requests are decoded whole by proxy.bodies.codings, which is stricter: there the sender is the one to be guarded
against. Here the upstream was chosen by policy; what counts is that a small answer cannot inflate without bound.
"""

import zlib
from collections.abc import Sequence
from typing import Final, Protocol

import brotli
import zstandard

from proxy.errors import Denied

# One answer may not inflate beyond this; embeddings of a full batch stay below 64 MiB.
MAX_DECODED_BYTES: Final = 256 << 20
_ZSTD_WINDOW_BYTES = 8 << 20
_STEP_BYTES = 1 << 20
_KNOWN = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd"})


def answer_codings(values: Sequence[bytes]) -> tuple[str, ...] | None:
    """Codings of all Content-Encoding fields in the order applied, without identity; None when one is unknown."""
    if not values:
        return ()
    names = [name.strip().lower() for value in values for name in value.decode("latin-1").split(",")]
    codings = tuple(name for name in names if name not in {"", "identity"})
    return codings if _KNOWN.issuperset(codings) else None


class _Step(Protocol):
    def feed(self, data: bytes, room: int) -> bytes: ...


class StreamDecoder:
    """Undoes `codings`. Denied: upstream_malformed when the data are not what their label says, or inflate too far."""

    __slots__ = ("_room", "_steps")

    def __init__(self, codings: Sequence[str], max_decoded_bytes: int = MAX_DECODED_BYTES) -> None:
        self._steps = [_step(coding) for coding in reversed(codings)]
        self._room = max_decoded_bytes

    def feed(self, data: bytes) -> bytes:
        """The decoded bytes that `data` completes."""
        for step in self._steps:
            try:
                data = step.feed(data, self._room)
            except (zlib.error, brotli.error, zstandard.ZstdError):
                raise Denied("upstream_malformed", "The answer is not in the coding that its head names") from None
            if len(data) > self._room:
                raise Denied("upstream_malformed", "The answer's compressed body inflates beyond the limit")
        self._room -= len(data)
        return data


def _step(coding: str) -> _Step:
    if coding == "br":
        return _Brotli()
    return _Zstd() if coding == "zstd" else _Zlib(gzip=coding != "deflate")


class _Zlib:
    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._engine = zlib.decompressobj(16 + zlib.MAX_WBITS) if gzip else None
        self._first = b""

    def feed(self, data: bytes, room: int) -> bytes:
        if self._engine is None:
            # RFC 1950's header tells the zlib form from the bare stream that some servers mean by `deflate`.
            self._first += data
            if len(self._first) < 2:
                return b""
            data, self._first = self._first, b""
            wrapped = data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._engine = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        out = []
        while data and room >= 0:
            if self._engine.eof:
                if not self._gzip:
                    break
                self._engine = zlib.decompressobj(16 + zlib.MAX_WBITS)
            out.append(self._engine.decompress(data, room + 1))
            room -= len(out[-1])
            data = self._engine.unused_data if self._engine.eof else self._engine.unconsumed_tail
        return b"".join(out)


class _Brotli:
    def __init__(self) -> None:
        self._engine = brotli.Decompressor()

    def feed(self, data: bytes, room: int) -> bytes:
        out = []
        while not self._engine.is_finished():
            out.append(self._engine.process(data, output_buffer_limit=_STEP_BYTES))
            room -= len(out[-1])
            data = b""
            if room < 0 or (not out[-1] and self._engine.can_accept_more_data()):
                break
        return b"".join(out)


class _Zstd:
    def __init__(self) -> None:
        self._engine = _zstd_engine()

    def feed(self, data: bytes, room: int) -> bytes:
        out = []
        # The engine has no output cap, so it is fed little at a time: 4 KiB cannot inflate beyond 128 KiB blocks each.
        for start in range(0, len(data), 4096):
            part = data[start : start + 4096]
            while part and room >= 0:
                if self._engine.eof:
                    self._engine = _zstd_engine()
                out.append(self._engine.decompress(part))
                room -= len(out[-1])
                part = self._engine.unused_data if self._engine.eof else b""
        return b"".join(out)


def _zstd_engine() -> "zstandard.ZstdDecompressionObj":
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()
