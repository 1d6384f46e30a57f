"""The DNS codec: exact bytes, near-misses of every rule, and nonsense."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import dns
from proxy.net import dns_message as m
from tests.net.dns_kit import Answer, query, read


def test_a_question_is_read_as_sent() -> None:
    found = m.parse_query(query("API.Example.com", m.HTTPS, query_id=0xBEEF))
    assert (found.id, found.name, found.kind, found.edns) == (0xBEEF, "API.Example.com", m.HTTPS, False)


def test_an_edns_query_gets_an_edns_answer() -> None:
    found = m.parse_query(query("a.test", m.A, edns=True))
    assert found.edns
    assert read(m.encode_answer(found, m.NOERROR, ("198.18.0.1",), ttl_s=60)).edns
    assert not read(m.encode_answer(m.parse_query(query("a.test")), m.NOERROR, ("198.18.0.1",), ttl_s=60)).edns


def test_an_answer_carries_id_question_and_address() -> None:
    asked = m.parse_query(query("a.test", m.AAAA, query_id=7))
    assert read(m.encode_answer(asked, m.NOERROR, ("2001:2::1",), ttl_s=60)) == Answer(
        7, m.NOERROR, "a.test", m.AAAA, ("2001:2::1",), edns=False
    )


def test_a_negative_answer_may_be_remembered_for_its_time_only() -> None:
    raw = m.encode_answer(m.parse_query(query("a.test")), m.NXDOMAIN, ttl_s=5)
    assert read(raw).rcode == m.NXDOMAIN
    assert raw.endswith(struct.pack("!I", 5))  # RFC 2308: the SOA's minimum


NOT_QUERIES = {
    "empty": b"",
    "eleven bytes": b"\0" * 11,
    "a response": query("a.test", flags=0x8180),
    "huge": b"\0" * 5000,
}


@pytest.mark.parametrize("data", NOT_QUERIES.values(), ids=NOT_QUERIES)
def test_what_is_no_query_gets_no_answer(data: bytes) -> None:
    with pytest.raises(m.NotAQuery):
        m.parse_query(data)


PLAIN = query("a.test")
BAD = {
    "no question": (struct.pack("!6H", 1, 0x100, 0, 0, 0, 0), m.FORMERR),
    "two questions": (struct.pack("!6H", 1, 0x100, 2, 0, 0, 0) + PLAIN[12:] * 2, m.FORMERR),
    "an answer inside": (struct.pack("!6H", 1, 0x100, 1, 1, 0, 0) + PLAIN[12:], m.FORMERR),
    "bytes behind the question": (PLAIN + b"secret", m.FORMERR),
    "cut in the name": (PLAIN[:15], m.FORMERR),
    "cut in the type": (PLAIN[:-3], m.FORMERR),
    "compression pointer": (PLAIN[:12] + b"\xc0\x0c\0\1\0\1", m.FORMERR),
    "label of 64": (PLAIN[:12] + b"\x40" + b"a" * 64 + b"\0\0\1\0\1", m.FORMERR),
    "dot within a label": (PLAIN[:12] + b"\x03a.b\0\0\1\0\1", m.FORMERR),
    "NUL within a label": (PLAIN[:12] + b"\x03a\0b\0\0\1\0\1", m.FORMERR),
    "name of 256 octets": (PLAIN[:12] + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1", m.FORMERR),
    "class CHAOS": (PLAIN[:-2] + b"\0\3", m.REFUSED),
    "update": (query("a.test", flags=5 << 11), m.NOTIMP),
    "EDNS 1": (query("a.test", edns=True, edns_version=1), m.BADVERS),
    "OPT with bytes behind it": (query("a.test", edns=True) + b"x", m.FORMERR),
    "additional that is no OPT": (struct.pack("!6H", 1, 0x100, 1, 0, 0, 1) + PLAIN[12:] + PLAIN[12:], m.FORMERR),
}


@pytest.mark.parametrize(("data", "rcode"), BAD.values(), ids=BAD)
def test_a_bad_query_gets_a_bare_refusal(data: bytes, rcode: int) -> None:
    with pytest.raises(m.BadQuery) as caught:
        m.parse_query(data)
    assert caught.value.rcode == rcode
    reply = m.encode_error(caught.value)
    assert len(reply) <= 23, "no more than the header (and OPT): nothing is reflected"
    assert reply[:2] == data[:2]
    assert reply[2] & 0x80


def test_the_longest_name_is_read() -> None:
    name = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    assert m.parse_query(query(name)).name == name


@given(st.binary(max_size=600))
def test_nonsense_is_refused_in_a_known_way(data: bytes) -> None:
    try:
        found = m.parse_query(data)
    except m.NotAQuery:
        return
    except m.BadQuery as error:
        assert m.encode_error(error)
        return
    assert read(m.encode_answer(found, m.NXDOMAIN, ttl_s=1)).rcode == m.NXDOMAIN


@given(st.data())
def test_a_damaged_query_is_never_read_as_another_host(data: st.DataObject) -> None:
    raw = bytearray(query("api.example.com", edns=True))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = m.parse_query(bytes(raw))
    except (m.NotAQuery, m.BadQuery):
        return
    assert set(found.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    assert found.question in bytes(raw)


@pytest.mark.parametrize("kind", [m.A, m.AAAA])
@given(host=st.from_regex(r"[a-z]{1,20}\.test", fullmatch=True))
def test_synthetic_addresses_are_stable_and_inside_their_pool(kind: int, host: str) -> None:
    address = dns.synthetic_address(host, kind)
    assert address == dns.synthetic_address(host, kind)
    pool = dns.POOLS[kind]
    assert ip_address(address) in pool
    assert ip_address(address) not in {pool[0], pool[-1]}


def test_synthetic_addresses_are_never_dialled() -> None:
    from proxy.net.addresses import permitted

    assert not any(permitted(dns.synthetic_address("a.test", kind), None) for kind in dns.POOLS)


CASES = {
    "allowed A": (m.A, True, (m.NOERROR, 1)),
    "allowed AAAA without a listener": (m.AAAA, True, (m.NOERROR, 0)),
    "allowed HTTPS": (m.HTTPS, True, (m.NOERROR, 0)),
    "allowed SVCB": (m.SVCB, True, (m.NOERROR, 0)),
    "allowed TXT": (m.TXT, True, (m.NOERROR, 0)),
    "allowed ANY": (m.ANY, True, (m.NOERROR, 1)),
    "denied A": (m.A, False, (m.NXDOMAIN, 0)),
    "denied HTTPS": (m.HTTPS, False, (m.NXDOMAIN, 0)),
    "denied TXT": (m.TXT, False, (m.NXDOMAIN, 0)),
}


@pytest.mark.parametrize(("kind", "allowed", "expected"), CASES.values(), ids=CASES)
def test_answers_by_type(kind: int, allowed: bool, expected: tuple[int, int]) -> None:
    asked = m.parse_query(query("a.test", kind))
    found = read(dns.answer(asked, "a.test", allowed=allowed, kinds=frozenset({m.A})))
    assert (found.rcode, len(found.addresses)) == expected
