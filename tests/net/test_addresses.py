"""Which addresses may be dialled: every row of the registries, their edges, and forms that hide another address."""

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.net.addresses import classify, permitted

# (address, RFC expected in the reason); one per block, first and last addresses where the edge matters
DENIED = [
    ("0.0.0.0", "RFC 1122"),
    ("0.255.255.255", "RFC 791"),
    ("10.0.0.0", "RFC 1918"),
    ("10.255.255.255", "RFC 1918"),
    ("100.64.0.0", "RFC 6598"),
    ("100.100.100.200", "RFC 6598"),
    ("100.127.255.255", "RFC 6598"),
    ("127.0.0.1", "RFC 1122"),
    ("168.63.129.16", "Azure"),
    ("169.254.169.254", "metadata"),
    ("169.254.170.2", "RFC 3927"),
    ("172.16.0.0", "RFC 1918"),
    ("172.31.255.255", "RFC 1918"),
    ("192.0.0.192", "RFC 6890"),
    ("192.0.0.9", "RFC 6890"),
    ("192.0.2.255", "RFC 5737"),
    ("192.88.99.1", "RFC 7526"),
    ("192.168.255.255", "RFC 1918"),
    ("198.18.0.0", "RFC 2544"),
    ("198.19.255.255", "RFC 2544"),
    ("198.51.100.7", "RFC 5737"),
    ("203.0.113.66", "RFC 5737"),
    ("224.0.0.1", "RFC 5771"),
    ("239.255.255.250", "RFC 5771"),
    ("240.0.0.1", "RFC 1112"),
    ("255.255.255.254", "RFC 1112"),
    ("255.255.255.255", "RFC 919"),
    ("::", "RFC 4291"),
    ("::1", "RFC 4291"),
    ("::2", "RFC 4291"),
    ("::ffff:8.8.8.8", "8.8.8.8"),
    ("::ffff:a9fe:a9fe", "169.254.169.254"),
    ("::ffff:0:7f00:1", "127.0.0.1"),
    ("::10.0.0.1", "10.0.0.1"),
    ("64:ff9b::a00:1", "10.0.0.1"),
    ("64:ff9b::808:808", "8.8.8.8"),
    ("64:ff9b:1::1", "RFC 8215"),
    ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "RFC 8215"),
    ("100::1", "RFC 6666"),
    ("100:0:0:1::1", "RFC 9780"),
    ("200::1", "RFC 4048"),
    ("1fff:ffff::1", "RFC 4291"),
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.0.2.45"),
    ("2001:1::1", "RFC 2928"),
    ("2001:2::1", "RFC 5180"),
    ("2001:10::1", "RFC 4843"),
    ("2001:20::1", "RFC 2928"),
    ("2001:1ff:ffff::1", "RFC 2928"),
    ("2001:db8::1", "RFC 3849"),
    ("2002:a00:1::1", "10.0.0.1"),
    ("2002:808:808::1", "8.8.8.8"),
    ("3ffe::1", "RFC 3701"),
    ("3fff:fff:ffff::1", "RFC 9637"),
    ("4000::1", "RFC 4291"),
    ("5f00::1", "RFC 9602"),
    ("8000::1", "RFC 4291"),
    ("fc00::1", "RFC 4193"),
    ("fd00:ec2::254", "metadata"),
    ("fdff:ffff::1", "RFC 4193"),
    ("fe00::1", "RFC 4291"),
    ("fe80::1", "RFC 4291"),
    ("febf::1", "RFC 4291"),
    ("fec0::1", "RFC 3879"),
    ("ff02::1", "RFC 4291"),
    ("2606:4700::5efe:10.0.0.1", "10.0.0.1"),
    ("2606:4700::200:5efe:10.0.0.1", "10.0.0.1"),
]
PUBLIC = [
    "1.0.0.0", "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.254", "100.128.0.1", "126.255.255.255",
    "128.0.0.1", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.1",
    "191.255.255.255", "192.0.1.0", "192.0.3.0", "192.31.196.1", "192.52.193.1", "192.88.98.255", "192.88.100.0",
    "192.167.255.255", "192.169.0.0", "192.175.48.1", "198.17.255.255", "198.20.0.1", "198.51.99.255", "203.0.112.255",
    "203.0.114.0", "223.255.255.255", "64:ff9c::1", "2001:200::1", "2001:4860:4860::8888", "2003::1",
    "2606:4700:4700::1111", "2620:4f:8000::1", "3ffd:ffff::1", "3fff:1000::1", "2606:4700::5eff:10.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize(("ip", "why"), DENIED)
def test_special_addresses_are_refused_with_their_source(ip: str, why: str) -> None:
    kind = classify(ip)
    assert not kind.public
    assert why in str(kind)
    assert not permitted(ip, None)


@pytest.mark.parametrize("ip", PUBLIC)
def test_public_addresses_up_to_the_edges(ip: str) -> None:
    assert classify(ip).public
    assert permitted(ip, None)


@pytest.mark.parametrize(
    ("ip", "networks", "expected"),
    [
        ("10.9.8.7", ["10.9.8.0/24"], True),
        ("10.9.9.7", ["10.9.8.0/24"], False),
        ("8.8.8.8", ["10.9.8.0/24"], False),  # exactly these: public ones are not added
        ("127.0.0.1", ["127.0.0.0/8", "::1/128"], True),
        ("::1", ["127.0.0.0/8", "::1/128"], True),
        ("64:ff9b::a00:1", ["64:ff9b::/96"], True),  # a site's NAT64 gateway, named on purpose
        ("::ffff:10.9.8.7", ["10.9.8.0/24"], False),
        ("::ffff:10.9.8.7", ["::/0"], False),
        ("0.0.0.0", ["0.0.0.0/0"], False),
        ("::", ["::/0"], False),
        ("224.0.0.1", ["0.0.0.0/0"], False),
        ("255.255.255.255", ["0.0.0.0/0"], False),
        ("8.8.8.8", [], False),
    ],
)
def test_entry_networks_permit_exactly_these(ip: str, networks: list[str], expected: bool) -> None:
    assert permitted(ip, tuple(map(ip_network, networks))) is expected


@pytest.mark.parametrize(
    "text", ["", "127.1", "2130706433", "0x7f.1", "010.0.0.1", "fe80::1%eth0", "a.test", "1.1.1.1 "]
)
def test_what_is_no_address_is_never_permitted(text: str) -> None:
    assert not permitted(text, None)
    assert not permitted(text, (ip_network("0.0.0.0/0"), ip_network("::/0")))
    with pytest.raises(ValueError, match=r"address|zone"):
        classify(text)


@given(st.integers(0, 2**32 - 1))
def test_no_ipv6_form_of_an_ipv4_address_is_public(number: int) -> None:
    v4 = str(IPv4Address(number))
    forms = {
        IPv6Address(number): v4,
        IPv6Address(0xFFFF << 32 | number): v4,
        IPv6Address(0xFFFF << 48 | number): v4,
        IPv6Address(0x64FF9B << 96 | number): v4,
        IPv6Address(0x2002 << 112 | number << 80 | 1): v4,
        IPv6Address(0x20010000 << 96 | 1 << 64 | number ^ 0xFFFFFFFF): v4,
    }
    for form, inner in forms.items():
        kind = classify(str(form))
        assert not kind.public
        assert kind.embedded == inner or kind.name in {"unspecified", "loopback"}


@given(st.ip_addresses(v=4))
def test_public_is_never_wider_than_the_standard_library_says(address: IPv4Address) -> None:
    if classify(str(address)).public:
        assert address.is_global
        assert not address.is_multicast
