"""The original destination of a redirected connection (netfilter REDIRECT / DNAT)."""

import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

# linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h: SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST.
_SO_ORIGINAL_DST: Final = 80
_SOL_IPV6: Final = 41


def original_destination(sock: socket.socket) -> tuple[str, int] | None:
    """(ip, port) that the client dialled, or None when the kernel knows of no redirect."""
    try:
        if sock.family == socket.AF_INET6:
            raw = sock.getsockopt(_SOL_IPV6, _SO_ORIGINAL_DST, 28)
            port = struct.unpack_from("!H", raw, 2)[0]
            address = IPv6Address(raw[8:24])
            return str(address.ipv4_mapped or address), port
        raw = sock.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
        return str(IPv4Address(raw[4:8])), struct.unpack_from("!H", raw, 2)[0]
    except OSError:
        return None
