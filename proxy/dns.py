"""What the DNS listener says: addresses that mean nothing for names that the app may call, "no such name" for others.

Nobody is ever asked. The address only makes the app connect; the transparent listener decides and dials by the name in
SNI or Host, so that an address cannot carry anything, and a denied name never leaves this machine. Pure.
"""

import hashlib
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from proxy.net import dns_message
from proxy.net.dns_message import Query

# RFC 2544 and RFC 5180: for benchmarks, routed nowhere, and refused by our own dialling as special-purpose.
POOLS: Final[dict[int, IPv4Network | IPv6Network]] = {
    dns_message.A: IPv4Network("198.18.0.0/15"),
    dns_message.AAAA: ip_network("2001:2::/48"),
}
TTL_S: Final = 60
NEGATIVE_TTL_S: Final = 5
"""Short, so that a host works soon after it has been allowed."""


def synthetic_address(host: str, kind: int) -> str:
    """The address of `host` in the pool of `kind` (A or AAAA): the same in every worker and after every restart."""
    pool = POOLS[kind]
    digest = int.from_bytes(hashlib.sha256(host.encode("ascii")).digest()[:8])
    # Never the first or last address: some stacks take them for the network's own or for broadcast.
    return str(pool[1 + digest % (min(pool.num_addresses, 1 << 64) - 2)])


def answer(query: Query, host: str, *, allowed: bool, kinds: frozenset[int]) -> bytes:
    """The answer to `query` for canonical `host`. `kinds`: the address types that the transparent listener serves.

    A denied name does not exist for any type (RFC 8020); an allowed one has addresses and nothing else, no HTTPS or
    SVCB record above all: these would carry ECH keys and other ports.
    """
    if not allowed:
        return dns_message.encode_answer(query, dns_message.NXDOMAIN, ttl_s=NEGATIVE_TTL_S)
    wanted = kinds & (set(POOLS) if query.kind == dns_message.ANY else {query.kind})
    addresses = tuple(synthetic_address(host, kind) for kind in sorted(wanted))
    return dns_message.encode_answer(
        query, dns_message.NOERROR, addresses, ttl_s=TTL_S if addresses else NEGATIVE_TTL_S
    )
