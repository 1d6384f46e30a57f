"""Resolve, vet and dial: the address that was checked is the one that is connected (no rebinding in between)."""

import asyncio
import errno
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Protocol

from proxy.errors import Denied
from proxy.model import Authority
from proxy.net.addresses import Network, classify, parse, permitted

# RFC 8305 section 8: recommended Connection Attempt Delay.
_ATTEMPT_DELAY_S: Final = 0.25

# A peer that vanished without a word would hold a tunnel or a WebSocket for ever; found out within two minutes.
_KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


def keep_alive(sock: socket.socket) -> None:
    """Has the kernel probe silent peers (RFC 9293 section 3.8.4). Connections inherit it from their listener."""
    for level, option, value in _KEEP_ALIVE:
        sock.setsockopt(level, option, value)


class Resolves(Protocol):
    """What dialling needs of a resolver."""

    async def resolve(self, host: str, port: int) -> tuple[str, ...]: ...


class OwnAddresses:
    """Where this installation itself listens: dialling there would loop, or reach metrics and admin.

    `listening`: (ip, port) of every listener, wildcards included, and addresses that lead here from outside (a load
    balancer's). Any local interface address with one of the ports counts as ours, whatever the listener's own.
    """

    def __init__(self, listening: Iterable[tuple[str, int]] = ()) -> None:
        self._pairs = frozenset((parse(ip), port) for ip, port in listening)
        self._ports = frozenset(port for _, port in self._pairs)

    def holds(self, ip: str, port: int) -> bool:
        """True when (ip, port) leads back to us. Raises ValueError when `ip` is not an address."""
        if port not in self._ports:
            return False
        address = _unmapped(parse(ip))
        return (address, port) in self._pairs or address.is_unspecified or _is_local(address)


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_local(address: IPv4Address | IPv6Address) -> bool:
    # Binding succeeds on addresses of this host only, so no interface list can be out of date.
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
    return True


async def vetted_addresses(
    resolver: Resolves, authority: Authority, addresses: tuple[Network, ...] | None
) -> tuple[str, ...]:
    """All addresses of `authority`, each one permitted. `addresses`: the entry's networks, None = public only.

    Raises Denied: ip_denied when any address is not permitted (a mixed answer is denied whole: a rebinding attack
    looks like that), upstream_dns or overloaded from the resolver.
    """
    answer = await resolver.resolve(authority.host, authority.port)
    if not answer:
        raise Denied("upstream_dns", f"The name {authority.host} has no address")
    for ip in answer:
        if not permitted(ip, addresses):
            raise Denied("ip_denied", _refusal(authority.host, ip, addresses))
    return answer


def _refusal(host: str, ip: str, addresses: tuple[Network, ...] | None) -> str:
    try:
        kind = str(classify(ip))
    except ValueError:
        kind = "not a plain address"
    subject = f"The address {ip}" if host == ip else f"{host} resolves to {ip}, which"
    if addresses is None:
        return f"{subject} is {kind}; the entry permits public addresses only"
    return f"{subject} is {kind}; the entry permits only {', '.join(map(str, addresses))}"


async def connect(ips: Sequence[str], port: int, *, own: OwnAddresses, deadline_s: float) -> socket.socket:
    """Connect to one of `ips` (already vetted), RFC 8305 style. Returns a connected, non-blocking socket.

    Raises Denied: self_connection (any of `ips` leads back to us), upstream_timeout, upstream_unreachable.
    """
    if any(own.holds(ip, port) for ip in ips):
        raise Denied("self_connection", f"Port {port} of this address is the proxy's own listener")
    try:
        async with asyncio.timeout(deadline_s):
            return await _first_connected(_interleave(ips), port)
    except TimeoutError:
        raise Denied("upstream_timeout", f"No connection to port {port} within {deadline_s:g} s") from None


def _interleave(ips: Sequence[str]) -> list[str]:
    # RFC 8305 section 4: the resolver's first family first, then alternate.
    first = [ip for ip in ips if (":" in ip) == (":" in ips[0])]
    other = [ip for ip in ips if (":" in ip) != (":" in ips[0])]
    mixed = [ip for pair in zip(first, other, strict=False) for ip in pair]
    shorter = min(len(first), len(other))
    return mixed + first[shorter:] + other[shorter:]


async def _first_connected(ips: Sequence[str], port: int) -> socket.socket:
    waiting = list(ips)
    running: set[asyncio.Task[socket.socket]] = set()
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(_attempt(waiting.pop(0), port), name="dial"))
            delay_s = _ATTEMPT_DELAY_S if waiting else None
            done, running = await asyncio.wait(running, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
            winner = _take_winner(done)
            if winner is not None:
                return winner
    finally:
        await _discard(running)
    raise Denied("upstream_unreachable", f"No address accepted a connection on port {port}")


def _take_winner(done: set[asyncio.Task[socket.socket]]) -> socket.socket | None:
    # The first socket wins; any other that connected in the same turn is closed. A Denied of an attempt is a verdict.
    connected = [task.result() for task in done if task.exception() is None]
    for spare in connected[1:]:
        spare.close()
    if connected:
        return connected[0]
    for task in done:
        error = task.exception()
        if isinstance(error, Denied):
            raise error
    return None


async def _discard(running: set[asyncio.Task[socket.socket]]) -> None:
    for task in running:
        task.cancel()
    for result in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(result, socket.socket):
            result.close()


async def _attempt(ip: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(sock)
        await asyncio.get_running_loop().sock_connect(sock, (ip, port))
        # A port of the ephemeral range may connect to itself (TCP simultaneous open, RFC 9293 section 3.5).
        if sock.getsockname() == sock.getpeername():
            raise Denied("self_connection", f"Port {port} connected to itself")
    except BaseException:
        sock.close()
        raise
    return sock
