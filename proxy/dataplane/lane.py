"""The lane: one client connection from its first byte to its last (HTTP/1.1, CONNECT, TLS, WebSocket).

Explicit listener: CONNECT and absolute-form requests, never an original destination. Transparent listener: TLS by SNI
and origin-form requests by Host, never CONNECT or absolute-form. Nothing is dialled before policy has spoken, and
bytes that are neither TLS nor HTTP end here.
"""

import asyncio
import socket
import ssl
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from proxy.config.snapshot import Entry
from proxy.context import Context, rule_connection
from proxy.dataplane import client_hello, h1, targets
from proxy.dataplane.channel import Channel
from proxy.dataplane.lane_carrier import LaneCarrier
from proxy.dataplane.lane_connection import HEAD_DEADLINE_S, Connection
from proxy.dataplane.lane_server import LaneServer
from proxy.dataplane.original import original_destination
from proxy.dataplane.websocket_handshake import check_handshake, wants_upgrade
from proxy.effects import Aborted
from proxy.errors import Denied
from proxy.head_memo import HeadMemo
from proxy.model import Authority, Listener, Principal, RequestHead
from proxy.net.names import canonical_host, is_ip_literal
from proxy.tunnel import tunnel

if TYPE_CHECKING:
    from proxy.dataplane.client_hello import ClientHello
    from proxy.dataplane.services import Services


async def serve(services: "Services", sockets: Mapping[Listener, Sequence[socket.socket]]) -> LaneServer:
    """Starts the lane on bound sockets. The result's `drain` ends it."""
    server = LaneServer(services, _serve_connection)
    await server.start(sockets)
    return server


async def _serve_connection(server: LaneServer, channel: Channel, listener: Listener) -> None:
    lane = Lane(server, channel, listener)
    try:
        # One after the other instead of within each other: an event wakes every coroutine that waits for the next one.
        step: _Step = lane.explicit() if listener == "explicit" else lane.transparent()
        while step is not None:
            step = await step
    except (Aborted, TimeoutError, ssl.SSLError, OSError):
        pass  # the peer is gone, slow or does not speak TLS: there is nobody to tell
    except Exception:  # noqa: BLE001 - outside of any exchange, so that nothing has left; the trail shall know of it
        server.services.counters.add("internal_errors_total", ("lane",))
        server.runtime.refuse(Denied("internal"), listener=listener, client_ip=channel.peer_ip)
    finally:
        lane.close()


class Lane(Connection):
    """One connection of either listener. A method that answers with a `_Step` has done its part: that one is next."""

    # -- the two listeners

    async def explicit(self) -> "_Step":
        """CONNECT once, or absolute-form requests one after the other."""
        while True:
            raw = await self._head()
            if raw is None:
                return None
            if raw.method == "CONNECT":
                return self._connect(raw)
            if not await self._absolute(raw):
                return None

    async def transparent(self) -> "_Step":
        """A redirected connection: its original destination gives the port, SNI or Host the name."""
        destination = original_destination(self._channel.info("socket"))
        if destination is None or self._server.services.own.holds(*destination):
            await self._refuse(Denied("self_connection", "The connection was not redirected here from elsewhere"))
            return None
        return self._any_protocol(None, destination[1])

    # -- explicit

    async def _connect(self, raw: h1.RawHead) -> "_Step":
        authority: Authority | None = None
        context: Context | None = None
        try:
            self._take_credential(raw)
            principal = self._identify()
            authority = self._connect_authority(raw)
            if self._server.runtime.permitted("connect", principal, self._listener, authority, None) is None:
                context = self._server.runtime.context(principal, self._listener, None)
                context.trail.target(authority)
                context.trail.fields["method"] = "CONNECT"
                rule_connection(context, "connect", authority)
        except Denied as denied:
            await self._refuse(denied, context=context, authority=authority, connect=True)
            return None
        self._channel.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return self._any_protocol(authority, authority.port)

    def _connect_authority(self, raw: h1.RawHead) -> Authority:
        last = self._last_head
        if last is None or last.raw is not raw:
            return targets.connect_authority(raw)
        if last.connect is None:
            last.connect = targets.connect_authority(raw)
        return last.connect

    async def _absolute(self, raw: h1.RawHead) -> bool:
        """One absolute-form request; True when the connection may go on."""
        authority: Authority | None = None
        try:
            self._take_credential(raw)
            principal = self._identify()
            authority, target = targets.absolute_target(raw)
            if authority.scheme == "https":
                raise Denied(
                    "proto_denied",
                    "https:// URLs are asked for with CONNECT, not in absolute form",
                    remedy="Let the client use CONNECT for https, as HTTPS_PROXY makes it do.",
                )
        except Denied as denied:
            await self._refuse(denied, authority=authority)
            return False
        return await self._exchange(raw, authority, target, principal)

    # -- inside a tunnel, or redirected

    async def _any_protocol(self, authority: Authority | None, port: int) -> "_Step":
        """TLS or plain HTTP, by the first bytes; anything else is not passed on."""
        channel = self._channel
        self._deadline(HEAD_DEADLINE_S)
        while (tls := client_hello.looks_like_tls(channel.buffer)) is None:
            if not await channel.more():
                return None
        if tls:
            return self._tls(authority, port)
        return self._requests(replace(authority, scheme="http") if authority else None, port)

    async def _tls(self, authority: Authority | None, port: int) -> "_Step":
        context: Context | None = None
        try:
            hello = await self._hello()
            if hello is None:
                return None
            authority = self._tls_authority(hello, authority, port)
            self._sni = None if hello.sni is None else authority.host
            principal = self._identify()
            entry = self._server.runtime.permitted("hello", principal, self._listener, authority, self._sni)
            if entry is None or _alpn_choice(hello, entry) not in _TERMINATED:
                context = self._server.runtime.context(principal, self._listener, self._sni)
                context.trail.target(authority)
                entry = rule_connection(context, "hello", authority).entry
                if entry is None:
                    raise Denied("internal")
                _check_offer(hello, entry)
        except Denied as denied:
            self._alert(denied, context, authority)
            return None
        if entry.passthrough and context is not None:
            return self._tunnel(context, entry, authority)
        if _alpn_choice(hello, entry) == "h2":
            return self._http2(entry, authority)
        return self._terminate(hello, authority)

    async def _hello(self) -> "ClientHello | None":
        channel, reader = self._channel, client_hello.HelloReader()
        while True:
            try:
                hello = reader.read(channel.buffer)
            except ValueError as error:
                raise Denied("malformed", f"The TLS ClientHello is not well-formed: {error}") from None
            if hello is not None:
                return hello
            if len(channel.buffer) > client_hello.MAX_HELLO_BYTES:
                raise Denied("malformed", "The TLS ClientHello is too large")
            if not await channel.more():
                return None

    def _tls_authority(self, hello: "ClientHello", authority: Authority | None, port: int) -> Authority:
        """The one name of this connection: SNI, which must be what CONNECT named."""
        if hello.sni is None:
            if authority is not None and is_ip_literal(authority.host):
                return replace(authority, scheme="https")
            raise Denied("target_mismatch", "The TLS ClientHello names no server (SNI)")
        try:
            name = _named(hello.sni)
        except ValueError as error:
            raise Denied("malformed", f"The TLS server name is not well-formed: {error}") from None
        if authority is not None and name != authority.host:
            raise Denied("target_mismatch", f"CONNECT names {authority.host}, TLS names {name}")
        return authority if authority is not None and authority.scheme == "https" else _https(name, port)

    async def _terminate(self, hello: "ClientHello", authority: Authority) -> "_Step":
        """Answers the handshake with a leaf for the vetted name, then speaks HTTP/1.1."""
        app = self._counted_app or ""
        try:
            leaf = self._server.services.leaf_store.context(authority.host, app)
        except Denied as denied:
            self._alert(denied, None, authority)
            return None
        self._deadline(HEAD_DEADLINE_S)
        tickets = self._server.tickets.number(app, resumes=hello.resumes)
        await self._channel.start_tls(leaf, server_side=True, tickets=tickets)
        return self._requests(authority, authority.port)

    async def _tunnel(self, context: Context, entry: Entry, authority: Authority) -> None:
        carrier = LaneCarrier(self._server, self._channel, _NO_REQUEST, h1.Framing(0), context)
        first = self._channel.take()
        try:
            await self._server.runtime.drive(context, tunnel(context, entry, authority, first), carrier)
        finally:
            carrier.close()

    async def _http2(self, entry: Entry, authority: Authority) -> None:
        from proxy.dataplane.h2 import serve_h2

        self._channel.deadline_s = None
        try:
            await serve_h2(self._server, self._channel, self._identify, self._listener, entry, authority)
        except Denied as denied:
            self._alert(denied, None, authority)

    async def _requests(self, authority: Authority | None, port: int) -> None:
        """Requests of one authority (or, redirected plain HTTP, of the Host each names) until the connection ends."""
        while True:
            raw = await self._head()
            if raw is None:
                return
            named: Authority | None = authority
            try:
                if raw.method == "CONNECT":
                    raise Denied("malformed", "CONNECT is not spoken here")
                principal = self._identify()
                if authority is None:
                    named = targets.host_authority(raw, "http", port)
                    target = raw.target
                else:
                    target = self._origin_target(raw, authority)
            except Denied as denied:
                await self._refuse(denied, authority=named)
                return
            if named is None or not await self._exchange(raw, named, target, principal):
                return

    def _origin_target(self, raw: h1.RawHead, authority: Authority) -> str:
        last = self._last_head
        known = last.request if last is not None and last.raw is raw else None
        return known[2].target if known is not None and known[0] is authority else targets.origin_target(raw, authority)

    def _read_head(self, raw: h1.RawHead, authority: Authority, target: str) -> tuple[h1.Framing, RequestHead]:
        """Framing and meaning of a request; the last one's when it is the same again. Denied malformed."""
        last = self._last_head if self._last_head is not None and self._last_head.raw is raw else None
        known = last.request if last is not None else None
        if known is not None and known[0] is authority:
            return known[1], known[2]
        framing = h1.request_framing(raw)
        head = RequestHead(raw.method, target, authority, raw.headers, http_version=raw.version)
        if wants_upgrade(head):
            check_handshake(head)
            head = replace(head, protocol="websocket")
        if last is not None:
            last.settle(authority, framing, head)
        return framing, head

    def _memo(self, raw: h1.RawHead) -> HeadMemo | None:
        last = self._last_head
        return last.memo if last is not None and last.raw is raw else None

    async def _exchange(self, raw: h1.RawHead, authority: Authority, target: str, principal: Principal) -> bool:
        """One request to its end; True when the connection may carry another."""
        context: Context | None = None
        try:
            framing, head = self._read_head(raw, authority, target)
            context = self._server.runtime.context(principal, self._listener, self._sni)
            context.asked, context.memo = head, self._memo(raw)
            self._server.services.limiter.admit_request(context.app, context.started_s)
        except Denied as denied:
            await self._refuse(denied, context=context, authority=authority, raw=raw)
            return False
        carrier = LaneCarrier(self._server, self._channel, raw, framing, context)
        try:
            await self._server.runtime.run(context, head, carrier)
        finally:
            carrier.close()
        if not carrier.reusable:
            await self._linger()
        elif self._channel.buffer:
            await asyncio.sleep(0)  # pipelined requests take turns with everybody else's
        return carrier.reusable


@lru_cache(maxsize=1024)
def _named(sni: str) -> str:
    """The canonical name. ValueError when it is none."""
    name = canonical_host(sni)
    if is_ip_literal(name):
        raise ValueError("it is an address, which RFC 6066 section 3 forbids")
    return name


@lru_cache(maxsize=1024)
def _https(host: str, port: int) -> Authority:
    """The same object for each connection, so that what is remembered for it is found without a comparison."""
    return Authority("https", host, port)


type _Step = Coroutine[Any, Any, _Step] | None
_TERMINATED: Final = frozenset({"h2", "http1"})
_NO_REQUEST: Final = h1.RawHead("CONNECT", "", "1.1", ())


def _alpn_choice(hello: "ClientHello", entry: Entry) -> str:
    """`passthrough`, `h2` or `http1`; `none` when the client offers none that the entry allows."""
    if entry.passthrough:
        return "passthrough"
    if "h2" in entry.protocols and b"h2" in hello.alpn:
        return "h2"
    return "http1" if not hello.alpn or b"http/1.1" in hello.alpn else "none"


def _check_offer(hello: "ClientHello", entry: Entry) -> None:
    """Denied proto_denied when the hello and the entry do not go together."""
    if entry.passthrough and hello.ech:
        raise Denied(
            "proto_denied",
            "An encrypted ClientHello hides the name that a pass-through tunnel must show",
            where=entry.at,
            rule_id=entry.rule_id,
            remedy="Switch Encrypted ClientHello off in the client.",
        )
    if _alpn_choice(hello, entry) == "none":
        raise Denied(
            "proto_denied",
            "The client offers only protocols that this entry does not allow",
            where=entry.at,
            rule_id=entry.rule_id,
        )
