"""The DNS listener of one worker, UDP and TCP: reads questions, asks policy, answers from `proxy.dns`.

Apps are known by their source network, as on the transparent listener. Nothing here resolves anything.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proxy import policy
from proxy.dns import answer
from proxy.errors import Denied
from proxy.model import Authority
from proxy.net import dns_message
from proxy.net.dns_message import BadQuery, NotAQuery, Query
from proxy.net.names import canonical_host

if TYPE_CHECKING:
    from proxy.dataplane.lane_server import LaneServer

# A browser's start page asks some 50 names, a build some hundreds; a channel of hex labels needs thousands.
QUERIES_PER_S: Final = 50.0
QUERIES_BURST: Final = 300
MAX_CLIENTS: Final = 4096
MAX_TCP: Final = 64
TCP_IDLE_S: Final = 10.0
_RECORD_AGAIN_S: Final = 60.0
_MAX_RECORDED: Final = 1024
# One turn of the event loop belongs to the lane too.
_DATAGRAMS_PER_TURN: Final = 32


class QueryRate:
    """A token bucket per client address; the least recently seen client goes first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, client_ip: str) -> bool:
        """Takes one query of the client's; False when it has none left."""
        now_s = self._clock()
        left, at_s = self._buckets.pop(client_ip, (float(QUERIES_BURST), now_s))
        left = min(QUERIES_BURST, left + (now_s - at_s) * QUERIES_PER_S)
        admitted = left >= 1
        self._buckets[client_ip] = (left - admitted, now_s)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return admitted


class DnsServer:
    """Answers on the sockets that the supervisor bound, until closed. For the lane's event loop."""

    def __init__(self, lane: "LaneServer") -> None:
        self._lane = lane
        self._rate = QueryRate()
        self._recorded: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._udp: socket.socket | None = None
        self._tcp: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        # Without a listener of that family an address would only make the app wait.
        six = lane.services.listen.get("transparent", "").startswith("[")
        self._kinds = frozenset({dns_message.AAAA if six else dns_message.A})

    async def start(self, tcp: socket.socket | None, udp: socket.socket | None) -> None:
        """Serves both; either may be absent."""
        if udp is not None:
            udp.setblocking(False)
            self._udp = udp
            asyncio.get_running_loop().add_reader(udp.fileno(), self._datagrams)
        if tcp is not None:
            self._tcp = await asyncio.start_server(self._accepted, sock=tcp, limit=dns_message.MAX_MESSAGE_BYTES)

    def close(self) -> None:
        """Stops listening and cuts what is open: a resolver asks again."""
        if self._udp is not None:
            asyncio.get_running_loop().remove_reader(self._udp.fileno())
            self._udp.close()
            self._udp = None
        if self._tcp is not None:
            self._tcp.close()
        for task in self._open:
            task.cancel()

    # -- transports

    def _datagrams(self) -> None:
        udp = self._udp
        for _ in range(_DATAGRAMS_PER_TURN if udp is not None else 0):
            try:
                data, peer = udp.recvfrom(dns_message.MAX_UDP_BYTES + 1)  # type: ignore[union-attr]
            except OSError:  # nothing more, or an ICMP error for an earlier answer
                return
            if len(data) > dns_message.MAX_UDP_BYTES:
                continue
            reply = self.reply(data, str(peer[0]))
            if reply is not None:
                with contextlib.suppress(OSError):
                    udp.sendto(reply, peer)  # type: ignore[union-attr]

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        peer = writer.get_extra_info("peername")
        if task is None or peer is None or len(self._open) >= MAX_TCP:
            writer.close()
            return
        self._open.add(task)
        try:
            await self._serve_tcp(reader, writer, str(peer[0]))
        except (asyncio.IncompleteReadError, OSError, TimeoutError):
            pass  # gone, or silent for too long
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client_ip: str) -> None:
        """Messages with two bytes of length before each (RFC 7766)."""
        while True:
            async with asyncio.timeout(TCP_IDLE_S):
                size = int.from_bytes(await reader.readexactly(2))
                if size > dns_message.MAX_MESSAGE_BYTES:
                    return
                data = await reader.readexactly(size)
                reply = self.reply(data, client_ip)
                if reply is None:
                    return
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()

    # -- answers

    def reply(self, data: bytes, client_ip: str) -> bytes | None:
        """The answer to one message; None for what must not be answered."""
        counters = self._lane.services.counters
        try:
            query = dns_message.parse_query(data)
        except NotAQuery:
            counters.add("dns_queries_total", ("", "malformed"))
            return None
        except BadQuery as error:
            counters.add("dns_queries_total", ("", "malformed"))
            return dns_message.encode_error(error)
        if not self._rate.admit(client_ip):
            counters.add("dns_queries_total", ("", "limited"))
            return dns_message.encode_answer(query, dns_message.REFUSED, ttl_s=0)
        app: str | None = None
        host = ""
        try:
            principal = self._lane.callers.find(client_ip, None, asyncio.get_running_loop().time()).principal
            app = principal.app
            host = _host(query)
            watcher = self._lane.services.watcher
            if watcher.current is None:
                raise Denied("policy_unavailable")
            policy.require_name(watcher.current, principal, host, now_s=time.time(), kills=watcher.kills)
        except Denied as denied:
            counters.add("dns_queries_total", (app or "", "denied"))
            self._record(denied, client_ip, app, host)
            return answer(query, host, allowed=False, kinds=self._kinds)
        counters.add("dns_queries_total", (app, "allowed"))
        return answer(query, host, allowed=True, kinds=self._kinds)

    def _record(self, denied: Denied, client_ip: str, app: str | None, host: str) -> None:
        """One audit record per app and name a minute: a stub asks for A, AAAA and HTTPS, and then again."""
        key, now_s = (app or client_ip, host), time.monotonic()
        if self._recorded.get(key, now_s) > now_s:
            return
        self._recorded[key] = now_s + _RECORD_AGAIN_S
        self._recorded.move_to_end(key)
        if len(self._recorded) > _MAX_RECORDED:
            self._recorded.popitem(last=False)
        authority = Authority("https", host, 443) if host else None
        self._lane.runtime.refuse(denied, listener="dns", client_ip=client_ip, authority=authority, app=app)


def _host(query: Query) -> str:
    try:
        return canonical_host(query.name)
    except ValueError as error:
        raise Denied("malformed", f"The name asked for is not a host name: {error}") from None
