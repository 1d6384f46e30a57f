"""ClientHello reading: real hellos of OpenSSL, split anywhere, and everything that is none."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dataplane.client_hello import _protocols, looks_like_tls, parse


def hello(name: str | None, alpn: list[str] | None = None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    if alpn:
        context.set_alpn_protocols(alpn)
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def records(raw: bytes, size: int) -> bytes:
    """The same handshake message cut into records of `size` bytes."""
    body = raw[5:]
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts)


REAL = hello("api.example.com", ["h2", "http/1.1"])


def test_real_hello() -> None:
    found = parse(REAL)
    assert found is not None
    assert (found.sni, found.alpn, found.ech) == ("api.example.com", (b"h2", b"http/1.1"), False)


def test_no_name_no_alpn() -> None:
    found = parse(hello(None))
    assert found is not None
    assert (found.sni, found.alpn) == (None, ())


@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_fragmented_into_records(size: int) -> None:
    assert parse(records(REAL, size)) == parse(REAL)


@given(st.integers(0, len(REAL) - 1))
def test_a_prefix_is_never_enough(size: int) -> None:
    assert parse(REAL[:size]) is None


@given(st.binary(min_size=1, max_size=200), st.integers(0, len(REAL) - 1))
def test_damage_is_refused_or_harmless(junk: bytes, at: int) -> None:
    try:
        parse(REAL[:at] + junk + REAL[at + len(junk) :])
    except ValueError:
        pass


def with_extension(kind: int, body: bytes, *, drop: tuple[int, ...] = ()) -> bytes:
    """A minimal hello with one extension of ours."""
    extensions = kind.to_bytes(2) + len(body).to_bytes(2) + body
    message = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + len(extensions).to_bytes(2) + extensions
    handshake = b"\x01" + len(message).to_bytes(3) + message
    return b"\x16\x03\x01" + len(handshake).to_bytes(2) + handshake


def sni(*names: bytes) -> bytes:
    entries = b"".join(b"\0" + len(name).to_bytes(2) + name for name in names)
    return len(entries).to_bytes(2) + entries


@pytest.mark.parametrize(
    "body", [sni(b"a.test", b"b.test"), sni(), sni(b""), sni(b"a\0.test"), sni("ä".encode()), b"\0", sni(b"a") + b"x"]
)
def test_odd_names_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(with_extension(0, body))


def test_one_name_is_read() -> None:
    found = parse(with_extension(0, sni(b"A.Test.")))
    assert found is not None
    assert found.sni == "A.Test."


@pytest.mark.parametrize(("body", "expected"), [(b"\0rest", True), (b"\x01", False)])
def test_encrypted_hello_is_seen(body: bytes, expected: bool) -> None:
    found = parse(with_extension(0xFE0D, body))
    assert found is not None
    assert found.ech is expected


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (b"", None),
        (b"\x16", None),
        (b"\x16\x03", None),
        (b"\x16\x03\x01", True),
        (b"\x16\x02\x00", False),
        (b"G", False),
        (b"\0", False),
        (b"SSH-2.0", False),
    ],
)
def test_first_bytes(prefix: bytes, expected: bool | None) -> None:
    assert looks_like_tls(prefix) is expected


def test_size_is_bounded() -> None:
    with pytest.raises(ValueError, match="too large"):
        parse(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff")


def test_a_hello_with_more_behind_it_in_its_record() -> None:
    body = REAL[5:] + b"\x0b\x00\x00\x00"
    assert parse(b"\x16\x03\x01" + len(body).to_bytes(2) + body) == parse(REAL)


def test_only_short_names_and_protocols_are_remembered() -> None:
    """What one client sends must not stay in memory by the megabyte."""
    before = _protocols.cache_info().currsize
    long = hello("api.example.com", [f"proto-{number:03}" for number in range(100)])
    found = parse(long)
    assert found is not None
    assert len(found.alpn) == 100
    assert _protocols.cache_info().currsize == before


@pytest.mark.parametrize(("kind", "expected"), [(0x0029, True), (0x002D, False)])
def test_a_session_that_is_offered_again_shows(kind: int, expected: bool) -> None:
    found = parse(with_extension(kind, b"\0"))
    assert found is not None
    assert found.resumes is expected
