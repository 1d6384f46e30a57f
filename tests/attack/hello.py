"""TLS ClientHellos built by hand (RFC 8446 section 4.1.2), so that they may break any rule."""

from collections.abc import Sequence


def extension(kind: int, body: bytes) -> bytes:
    """One extension."""
    return kind.to_bytes(2) + len(body).to_bytes(2) + body


def server_names(*names: bytes) -> bytes:
    """The server_name extension with these host names."""
    listed = b"".join(b"\0" + len(name).to_bytes(2) + name for name in names)
    return extension(0, len(listed).to_bytes(2) + listed)


def hello(*extensions: bytes) -> bytes:
    """The handshake message: TLS 1.2 and 1.3 suites, a fixed random."""
    versions = extension(43, b"\x04\x03\x04\x03\x03")
    groups = extension(10, b"\0\x04\0\x1d\0\x17")
    signatures = extension(13, b"\0\x04\x04\x03\x08\x04")
    share = extension(51, b"\0\x24\0\x1d\0\x20" + bytes(range(9, 41)))
    joined = b"".join((*extensions, versions, groups, signatures, share))
    suites = bytes.fromhex("130113021303c02bc02f")
    body = b"\x03\x03" + bytes(range(32)) + b"\x20" + bytes(32)
    body += len(suites).to_bytes(2) + suites + b"\x01\x00" + len(joined).to_bytes(2) + joined
    return b"\x01" + len(body).to_bytes(3) + body


def records(message: bytes, count: int = 1) -> bytes:
    """The message in `count` TLS records (at least as many as its length needs)."""
    size = max(1, min(-(-len(message) // count), 16384))
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts)


def ech(name: bytes) -> bytes:
    """A hello with an outer Encrypted ClientHello extension (RFC 9849): its payload is `ECHSECRET`."""
    payload = b"ECHSECRET" * 20
    body = b"\0\0\x01\0\x01\x2a\0\x20" + bytes(32) + len(payload).to_bytes(2) + payload
    return records(hello(server_names(name), extension(0xFE0D, body)))


def padded(name: bytes, size: int) -> bytes:
    """A hello that is `size` bytes too long (several padding extensions of RFC 7685 sizes)."""
    fill = [extension(0x7A00 + at, bytes(30000)) for at in range(size // 30000)]
    return records(hello(server_names(name), *fill)) if sum(map(len, fill)) < 60000 else records(
        b"\x01" + (size + 100).to_bytes(3) + hello(server_names(name))[4:] + bytes(size)
    )  # fmt: skip


def twice(names: Sequence[bytes]) -> bytes:
    """The server_name extension more than once."""
    return records(hello(*(server_names(name) for name in names)))
