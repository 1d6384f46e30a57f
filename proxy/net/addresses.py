"""Which addresses the proxy may dial: an own table from the IANA special-purpose registries.

`ipaddress.is_global` disagrees with the registries on multicast, on 6to4 relays and on addresses that carry another
address inside, and changes between Python releases, so the table is here, with the RFC that each row stands on.
Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190), IPv6 Address Space (RFC 4291).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

type Address = IPv4Address | IPv6Address
type Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class AddressClass:
    """What kind of address this is. `source`: the RFC (or vendor) behind it, "" for public.

    `dialable` False: no TCP service can stand there, or the form hides another address; never permitted, not even
    when a network that an entry lists contains it. `embedded`: the IPv4 address that the form carries, or None.
    """

    name: str
    source: str
    public: bool = False
    dialable: bool = True
    embedded: str | None = None

    def __str__(self) -> str:
        inner = f" for {self.embedded}" if self.embedded else ""
        return f"{self.name}{inner} ({self.source})" if self.source else self.name


PUBLIC: Final = AddressClass("public", "", public=True)

# Most specific first: the first row that holds the address names it. Blocks whose registry row says "Globally
# Reachable: True" and that ordinary routing serves (AS112, AMT) are absent; the protocol-assignment blocks
# 192.0.0.0/24 and 2001::/23 are refused whole, because no application service lives on their anycast exceptions.
_SPECIAL: Final[tuple[tuple[str, str, str], ...]] = (
    ("0.0.0.0/32", "unspecified", "RFC 1122"),
    ("0.0.0.0/8", "this network", "RFC 791"),
    ("10.0.0.0/8", "private use", "RFC 1918"),
    ("100.64.0.0/10", "shared address space", "RFC 6598"),
    ("127.0.0.0/8", "loopback", "RFC 1122"),
    ("168.63.129.16/32", "cloud platform service", "Azure WireServer"),
    ("169.254.169.254/32", "link-local, cloud metadata", "RFC 3927"),
    ("169.254.0.0/16", "link-local", "RFC 3927"),
    ("172.16.0.0/12", "private use", "RFC 1918"),
    ("192.0.0.0/24", "IETF protocol assignments", "RFC 6890"),
    ("192.0.2.0/24", "documentation", "RFC 5737"),
    ("192.88.99.0/24", "deprecated 6to4 relay anycast", "RFC 7526"),
    ("192.168.0.0/16", "private use", "RFC 1918"),
    ("198.18.0.0/15", "benchmarking", "RFC 2544"),
    ("198.51.100.0/24", "documentation", "RFC 5737"),
    ("203.0.113.0/24", "documentation", "RFC 5737"),
    ("224.0.0.0/4", "multicast", "RFC 5771"),
    ("255.255.255.255/32", "limited broadcast", "RFC 919"),
    ("240.0.0.0/4", "reserved", "RFC 1112"),
    ("::/128", "unspecified", "RFC 4291"),
    ("::1/128", "loopback", "RFC 4291"),
    ("::ffff:0:0/96", "IPv4-mapped", "RFC 4291"),
    ("::ffff:0:0:0/96", "IPv4-translated", "RFC 2765"),
    ("::/96", "IPv4-compatible", "RFC 4291"),
    ("::/16", "reserved", "RFC 4291"),
    ("64:ff9b::/96", "NAT64", "RFC 6052"),
    ("64:ff9b:1::/48", "local-use NAT64", "RFC 8215"),
    ("100::/64", "discard only", "RFC 6666"),
    ("100:0:0:1::/64", "dummy prefix", "RFC 9780"),
    ("100::/8", "reserved", "RFC 4291"),
    ("200::/7", "deprecated OSI NSAP", "RFC 4048"),
    ("400::/6", "unallocated", "RFC 4291"),
    ("800::/5", "unallocated", "RFC 4291"),
    ("1000::/4", "unallocated", "RFC 4291"),
    ("2001::/32", "Teredo", "RFC 4380"),
    ("2001:2::/48", "benchmarking", "RFC 5180"),
    ("2001:10::/28", "deprecated ORCHID", "RFC 4843"),
    ("2001::/23", "IETF protocol assignments", "RFC 2928"),
    ("2001:db8::/32", "documentation", "RFC 3849"),
    ("2002::/16", "6to4", "RFC 3056"),
    ("3ffe::/16", "returned 6bone", "RFC 3701"),
    ("3fff::/20", "documentation", "RFC 9637"),
    ("5f00::/16", "segment routing SIDs", "RFC 9602"),
    ("4000::/2", "unallocated", "RFC 4291"),
    ("8000::/2", "unallocated", "RFC 4291"),
    ("c000::/3", "unallocated", "RFC 4291"),
    ("e000::/4", "unallocated", "RFC 4291"),
    ("f000::/5", "unallocated", "RFC 4291"),
    ("f800::/6", "unallocated", "RFC 4291"),
    ("fd00:ec2::254/128", "unique local, cloud metadata", "RFC 4193"),
    ("fc00::/7", "unique local", "RFC 4193"),
    ("fe00::/9", "unallocated", "RFC 4291"),
    ("fe80::/10", "link-local", "RFC 4291"),
    ("fec0::/10", "deprecated site-local", "RFC 3879"),
    ("ff00::/8", "multicast", "RFC 4291"),
)
_TABLE: Final[tuple[tuple[Network, str, str], ...]] = tuple(
    (ip_network(text), name, source) for text, name, source in _SPECIAL
)

# The socket layer turns these into something else than what was vetted, or no service can listen there.
_NOT_DIALABLE: Final = frozenset({"unspecified", "multicast", "limited broadcast", "IPv4-mapped"})


def _last_32_bits(ip: IPv6Address) -> int:
    return int(ip) & 0xFFFF_FFFF


# Where each form keeps its IPv4 address: RFC 4291 2.5.5, RFC 6052 2.2, RFC 3056 2, RFC 4380 4 (client, obfuscated).
_EMBEDDED: Final[dict[str, Callable[[IPv6Address], int]]] = {
    "IPv4-mapped": _last_32_bits,
    "IPv4-translated": _last_32_bits,
    "IPv4-compatible": _last_32_bits,
    "NAT64": _last_32_bits,
    "6to4": lambda ip: (int(ip) >> 80) & 0xFFFF_FFFF,
    "Teredo": lambda ip: _last_32_bits(ip) ^ 0xFFFF_FFFF,
}
# RFC 5214 6.1: a router may tunnel to the IPv4 address in the interface identifier, whatever the prefix.
_ISATAP_IDENTIFIERS: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})


def parse(text: str) -> Address:
    """Parse a plain address. Raises ValueError for anything else, zone identifiers (RFC 4007) included."""
    if "%" in text:
        raise ValueError(f"{text.partition('%')[0]} carries a zone identifier")
    return ip_address(text)


@lru_cache(maxsize=4096)
def classify(ip: str) -> AddressClass:
    """Name the class of `ip`. Raises ValueError when `ip` is not an IP address."""
    address = parse(ip)
    for network, name, source in _TABLE:
        if address in network:
            return AddressClass(name, source, dialable=name not in _NOT_DIALABLE, embedded=_embedded(address, name))
    if address.version == 6 and (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP_IDENTIFIERS:
        return AddressClass("ISATAP", "RFC 5214", embedded=str(IPv4Address(_last_32_bits(address))))
    return PUBLIC


def _embedded(address: Address, name: str) -> str | None:
    if address.version == 4 or name not in _EMBEDDED:
        return None
    return str(IPv4Address(_EMBEDDED[name](address)))


def permitted(ip: str, allowed: tuple[Network, ...] | None) -> bool:
    """May `ip` be dialled? `allowed` None: public addresses only; else exactly the addresses in these networks.

    False for text that is not an address: what cannot be named cannot be vetted.
    """
    try:
        kind = classify(ip)
    except ValueError:
        return False
    if not kind.dialable:
        return False
    if allowed is None:
        return kind.public
    address = parse(ip)
    return any(address in network for network in allowed)
