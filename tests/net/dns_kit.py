"""Queries as a stub resolver sends them, and a reader of answers that shares no code with the product."""

import struct
from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True)
class Answer:
    """What a stub sees. `addresses` of all A and AAAA records."""

    id: int
    rcode: int
    name: str
    kind: int
    addresses: tuple[str, ...]
    edns: bool


def query(
    name: str, kind: int = 1, *, query_id: int = 1, flags: int = 0x0100, edns: bool = False, edns_version: int = 0
) -> bytes:
    """One question; `edns` adds an OPT record."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    opt = struct.pack("!BHHIH", 0, 41, 1232, edns_version << 16, 0) if edns else b""
    return struct.pack("!6H", query_id, flags, 1, 0, 0, int(edns)) + labels + b"\0" + struct.pack("!2H", kind, 1) + opt


def read(data: bytes) -> Answer:
    """Takes an answer apart. Raises when it is not well-formed."""
    query_id, flags, questions, answers, authorities, additional = struct.unpack_from("!6H", data)
    assert flags & 0x8000
    assert questions == 1
    name, at = _name(data, 12)
    (kind,) = struct.unpack_from("!H", data, at)
    at += 4
    addresses: list[str] = []
    edns = False
    for _ in range(answers + authorities + additional):
        _, at = _name(data, at)
        record, _, _, size = struct.unpack_from("!HHIH", data, at)
        at += 10
        if record in {1, 28}:
            addresses.append(str(ip_address(data[at : at + size])))
        edns = edns or record == 41
        at += size
    assert at == len(data)
    return Answer(query_id, flags & 15, name, kind, tuple(addresses), edns)


def _name(data: bytes, at: int) -> tuple[str, int]:
    labels: list[str] = []
    while size := data[at]:
        if size >= 0xC0:
            rest, _ = _name(data, int.from_bytes(data[at : at + 2]) & 0x3FFF)
            return ".".join([*labels, rest]), at + 2
        labels.append(data[at + 1 : at + 1 + size].decode())
        at += 1 + size
    return ".".join(labels), at + 1
