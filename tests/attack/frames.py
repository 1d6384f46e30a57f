"""WebSocket frames built by hand, so that they may break any rule (RFC 6455 section 5.2)."""

import struct

_KEY = b"\x11\x22\x33\x44"


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True, claim: int | None = None
) -> bytes:
    """One frame. `claim`: the length it says it has, instead of the true one."""
    size = len(payload) if claim is None else claim
    bit = 0x80 if masked else 0
    first = int(fin) << 7 | rsv << 4 | opcode
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not masked:
        return head + payload
    return head + _KEY + bytes(byte ^ _KEY[at % 4] for at, byte in enumerate(payload))
