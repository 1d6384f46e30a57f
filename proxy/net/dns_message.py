"""DNS messages, strictly: one question in, a small answer out (RFC 1035, RFC 6891, RFC 8020). Pure.

Only what a stub resolver sends is read: one question, no compression in it, no records but one OPT. Whatever else a
message holds could carry data or confuse the next reader, so it is refused whole.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

# RFC 1035 section 4.1.1, RFC 6891 section 6.1.3.
NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 3, 4, 5, 16
A, NS, SOA, PTR, TXT, AAAA, OPT, SVCB, HTTPS, ANY = 1, 2, 6, 12, 16, 28, 41, 64, 65, 255
CLASS_IN: Final = 1
MAX_UDP_BYTES: Final = 1232
"""What we take and say we take over UDP: no fragments (DNS flag day 2020). A question alone is at most 271 bytes."""
MAX_MESSAGE_BYTES: Final = 4096

_HEADER: Final = struct.Struct("!6H")
_QUESTION_TAIL: Final = struct.Struct("!2H")
_OPT_FIXED: Final = struct.Struct("!HHIH")
_RESPONSE, _AUTHORITATIVE, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0100, 0x0080
_OPCODE: Final = 0x7800
_TRUNCATED: Final = 0x0200
_LABEL_CHARS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_POINTER_TO_QUESTION: Final = b"\xc0\x0c"


class NotAQuery(ValueError):
    """Nothing that deserves an answer: too short for a header, or a response. Answering would reflect traffic."""


class BadQuery(ValueError):
    """A message with a header that can be answered, but not a question that we read. `rcode`: what to answer."""

    def __init__(self, query_id: int, flags: int, rcode: int) -> None:
        super().__init__(f"bad DNS query, rcode {rcode}")
        self.query_id = query_id
        self.flags = flags
        self.rcode = rcode


@dataclass(frozen=True, slots=True)
class Query:
    """One question. `name`: as sent, without the end dot ("" is the root). `question`: its bytes, for the answer.

    `edns`: the query carries an OPT record, so that the answer must (RFC 6891 section 6.1.1).
    """

    id: int
    flags: int
    name: str
    kind: int
    question: bytes
    edns: bool = False


def parse_query(data: bytes) -> Query:
    """The one question of `data`. Raises NotAQuery or BadQuery."""
    if not _HEADER.size <= len(data) <= MAX_MESSAGE_BYTES:
        raise NotAQuery
    query_id, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        raise NotAQuery
    if flags & _OPCODE:
        raise BadQuery(query_id, flags, NOTIMP)
    if questions != 1 or answers or authorities or additional > 1 or flags & _TRUNCATED:
        raise BadQuery(query_id, flags, FORMERR)
    try:
        name, at = _name(data, _HEADER.size)
        kind, klass = _QUESTION_TAIL.unpack_from(data, at)
        at += _QUESTION_TAIL.size
        question = data[_HEADER.size : at]
        version = _opt(data, at) if additional else None
        if not additional and at != len(data):
            raise ValueError("bytes after the question")
    except (ValueError, IndexError, struct.error):
        raise BadQuery(query_id, flags, FORMERR) from None
    if version:
        raise BadQuery(query_id, flags, BADVERS)
    if klass != CLASS_IN:
        raise BadQuery(query_id, flags, REFUSED)
    return Query(query_id, flags, name, kind, question, edns=version is not None)


def _name(data: bytes, at: int) -> tuple[str, int]:
    """(name, where it ends). ValueError for compression, odd characters and names over 255 octets."""
    labels: list[str] = []
    start = at
    while (size := data[at]) != 0:
        label = data[at + 1 : at + 1 + size]
        # A dot or a NUL inside a label would make two names of one.
        if size > 63 or len(label) != size or not _LABEL_CHARS.issuperset(label):
            raise ValueError("bad label")
        labels.append(label.decode("ascii"))
        at += 1 + size
    if at + 1 - start > 255:
        raise ValueError("name too long")
    return ".".join(labels), at + 1


def _opt(data: bytes, at: int) -> int:
    """EDNS version of the OPT record that is the rest of the message. Its options are not read and not repeated."""
    if data[at] != 0:
        raise ValueError("OPT has the root as its name")
    kind, _, extended, size = _OPT_FIXED.unpack_from(data, at + 1)
    if kind != OPT or len(data) != at + 1 + _OPT_FIXED.size + size:
        raise ValueError("the additional record is not one OPT")
    return int(extended >> 16 & 0xFF)


def encode_answer(query: Query, rcode: int, addresses: tuple[str, ...] = (), *, ttl_s: int) -> bytes:
    """The answer to `query`; with `addresses`, one A or AAAA record each. Negative answers carry an SOA (RFC 2308)."""
    records = b"".join(_address_record(address, ttl_s) for address in addresses)
    authority = b"" if addresses else _soa(ttl_s)
    extra = _OPT_ANSWER if query.edns else b""
    flags = _answer_flags(query.flags) | _AUTHORITATIVE | rcode
    head = _HEADER.pack(query.id, flags, 1, len(addresses), 0 if addresses else 1, 1 if query.edns else 0)
    return head + query.question + records + authority + extra


def encode_error(error: BadQuery) -> bytes:
    """The answer to what could not be read: a header, and for another EDNS version the one we speak."""
    bad_version = error.rcode > 15
    head = _HEADER.pack(error.query_id, _answer_flags(error.flags) | error.rcode & 15, 0, 0, 0, int(bad_version))
    return head + (_opt_record(error.rcode >> 4) if bad_version else b"")


def _answer_flags(flags: int) -> int:
    return _RESPONSE | _RECURSION_AVAILABLE | flags & (_RECURSION_DESIRED | _OPCODE)


def _address_record(address: str, ttl_s: int) -> bytes:
    packed, kind = (IPv6Address(address).packed, AAAA) if ":" in address else (IPv4Address(address).packed, A)
    return _POINTER_TO_QUESTION + struct.pack("!HHIH", kind, CLASS_IN, ttl_s, len(packed)) + packed


def _soa(ttl_s: int) -> bytes:
    """Owned by the root, so that it says nothing about the name; its minimum is how long "no" may be remembered."""
    data = b"\0\0" + struct.pack("!5I", 1, 3600, 600, 86_400, ttl_s)
    return b"\0" + struct.pack("!HHIH", SOA, CLASS_IN, ttl_s, len(data)) + data


def _opt_record(extended_rcode: int = 0) -> bytes:
    return b"\0" + _OPT_FIXED.pack(OPT, MAX_UDP_BYTES, extended_rcode << 24, 0)


_OPT_ANSWER: Final = _opt_record()
