"""Reads a TLS ClientHello before anybody answers it: server name, ALPN, and whether a second, hidden name is inside.

RFC 8446 section 4.1.2 (and RFC 5246 for 1.2), RFC 6066 section 3 (SNI), RFC 7301 (ALPN), RFC 9849 (ECH).
Pure; takes whatever prefix has arrived, over any split into segments and records.
"""

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from proxy.values import dataclass

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SNI, _ALPN, _PSK, _ECH = 0x0000, 0x0010, 0x0029, 0xFE0D
_READ: Final = frozenset({_SNI, _ALPN, _ECH})
_EXTENSION: Final = struct.Struct(">HH")  # type and length, RFC 8446 section 4.2
# Post-quantum key shares make a hello of about 1.8 KB; nothing honest comes near this.
MAX_HELLO_BYTES: Final = 64 << 10
_MAX_RECORD_BYTES: Final = (16 << 10) + 256
_MAX_REMEMBERED_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class ClientHello:
    """`sni` is the name as sent, or None. `ech`: an Encrypted ClientHello extension of the outer kind is present.
    `resumes`: a TLS 1.3 session is offered (pre_shared_key, RFC 8446 section 4.2.11)."""

    sni: str | None
    alpn: tuple[bytes, ...]
    ech: bool
    resumes: bool = False


def looks_like_tls(prefix: bytes | bytearray) -> bool | None:
    """True or False as soon as the first bytes decide; None while they do not (RFC 8446 section 5.1)."""
    if not prefix:
        return None
    if prefix[0] != _HANDSHAKE:
        return False
    if len(prefix) < 3:
        return None
    return prefix[1] == 3 and prefix[2] <= 4


def parse(data: bytes | bytearray) -> ClientHello | None:
    """The hello, or None while more bytes are needed. ValueError when it is not a well-formed ClientHello."""
    return HelloReader().read(data)


class HelloReader:
    """Reads a growing buffer, from which nothing is taken: each record is looked at once, however many segments and
    records the hello comes in."""

    def __init__(self) -> None:
        self._at = 0
        self._joined = bytearray()

    def read(self, data: bytes | bytearray) -> ClientHello | None:
        """As `parse`; `data` begins with what was given the last time."""
        joined = self._joined
        if not joined and (message := _whole(data)) is not None:
            return _hello(message)
        while not (size := _message_bytes(joined)) or len(joined) < size:
            record = self._record(data)
            if record is None:
                return None
            joined += record
        return _hello(bytes(joined[4:size]))

    def _record(self, data: bytes | bytearray) -> bytes | bytearray | None:
        at = self._at
        if len(data) - at < 5:
            return None
        if data[at] != _HANDSHAKE or data[at + 1] != 3:
            raise ValueError("not a TLS handshake record")
        length = int.from_bytes(data[at + 3 : at + 5])
        if not 0 < length <= _MAX_RECORD_BYTES:
            raise ValueError("bad TLS record length")
        if len(data) - at - 5 < length:
            return None
        self._at = at + 5 + length
        return data[at + 5 : self._at]


def _whole(data: bytes | bytearray) -> bytes | None:
    """The body of a ClientHello that is alone in the one record at the beginning, as nearly all are; None otherwise."""
    if len(data) < 9 or data[0] != _HANDSHAKE or data[1] != 3 or data[5] != _CLIENT_HELLO:
        return None
    length = int.from_bytes(data[3:5])
    if int.from_bytes(data[6:9]) != length - 4 or len(data) < 5 + length or length > _MAX_RECORD_BYTES:
        return None
    return bytes(data[9 : 5 + length])


def _message_bytes(joined: bytearray) -> int:
    """Size of the first handshake message with its header, 0 while unknown."""
    if len(joined) < 4:
        return 0
    if joined[0] != _CLIENT_HELLO:
        raise ValueError("the first TLS message is not a ClientHello")
    size = int.from_bytes(joined[1:4])
    if size > MAX_HELLO_BYTES:
        raise ValueError("ClientHello is too large")
    return 4 + size


class _Reader:
    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        part = self.data[self.at : self.at + size]
        if len(part) != size:
            raise ValueError("ClientHello is cut short")
        self.at += size
        return part

    def vector(self, length_bytes: int) -> bytes:
        return self.take(int.from_bytes(self.take(length_bytes)))

    @property
    def done(self) -> bool:
        return self.at >= len(self.data)


def _hello(message: bytes) -> ClientHello:
    try:
        at = 2 + 32  # legacy_version, random
        at += 1 + message[at]  # legacy_session_id
        at += 2 + int.from_bytes(message[at : at + 2])  # cipher_suites
        at += 1 + message[at]  # legacy_compression_methods
        extensions = _extensions(message, at)
    except (IndexError, struct.error):
        raise ValueError("ClientHello is cut short") from None
    return ClientHello(
        sni=_read(_server_name, extensions[_SNI]) if _SNI in extensions else None,
        alpn=_read(_protocols, extensions[_ALPN]) if _ALPN in extensions else (),
        ech=extensions.get(_ECH, b"")[:1] == b"\0",
        resumes=_PSK in extensions,
    )


def _read[T](parser: "_lru_cache_wrapper[T]", data: bytes) -> T:
    """Names and protocols come again and again; nobody may fill memory with long ones."""
    return parser(data) if len(data) <= _MAX_REMEMBERED_BYTES else parser.__wrapped__(data)


def _extensions(message: bytes, at: int) -> dict[int, bytes]:
    """The extensions that matter here; all are counted, and must end where the message does."""
    end = len(message)
    if at == end:
        return {}
    at += 2
    said = at + int.from_bytes(message[at - 2 : at])
    if said > end:
        raise ValueError("ClientHello is cut short")
    if said < end:
        raise ValueError("bytes after the ClientHello's extensions")
    found: dict[int, bytes] = {}
    while at < end:
        kind, size = _EXTENSION.unpack_from(message, at)
        at += _EXTENSION.size + size
        if at > end:
            raise ValueError("ClientHello is cut short")
        if kind in found:
            raise ValueError("a TLS extension stands twice")  # RFC 8446 section 4.2
        found[kind] = message[at - size : at] if kind in _READ else b""
    return found


@lru_cache(maxsize=1024)
def _server_name(data: bytes) -> str:
    reader = _Reader(data)
    names = _Reader(reader.vector(2))
    if not reader.done:
        raise ValueError("bad server_name extension")
    found: list[str] = []
    while not names.done:
        kind, name = names.take(1)[0], names.vector(2)
        if kind == 0:
            found.append(name.decode("ascii"))
    if len(found) != 1:
        raise ValueError("server_name must hold exactly one name")
    if not found[0] or "\0" in found[0]:
        raise ValueError("bad server_name")
    return found[0]


@lru_cache(maxsize=256)
def _protocols(data: bytes) -> tuple[bytes, ...]:
    reader = _Reader(_Reader(data).vector(2))
    found: list[bytes] = []
    while not reader.done:
        found.append(reader.vector(1))
    return tuple(found)
