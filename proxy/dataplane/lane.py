"""The lane: one client connection from its first byte to its last (HTTP/1.1, CONNECT, TLS, WebSocket).

Explicit listener: CONNECT and absolute-form requests, never an original destination. Transparent listener: TLS by SNI
and origin-form requests by Host, never CONNECT or absolute-form. Nothing is dialled before policy has spoken, and
bytes that are neither TLS nor HTTP end here.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy import denials
from proxy.config.snapshot import Entry
from proxy.context import Context, rule_connection
from proxy.dataplane import client_hello, h1, targets
from proxy.dataplane.channel import Channel
from proxy.dataplane.lane_carrier import LaneCarrier
from proxy.dataplane.lane_server import LaneServer
from proxy.dataplane.original import original_destination
from proxy.dataplane.websocket_handshake import check_handshake, wants_upgrade
from proxy.effects import Aborted
from proxy.errors import Denied
from proxy.model import Authority, Listener, Principal, RequestHead
from proxy.net.names import canonical_host, is_ip_literal
from proxy.tunnel import tunnel

if TYPE_CHECKING:
    from proxy.dataplane.client_hello import ClientHello
    from proxy.dataplane.services import Services

# RES-03, TLS-06: nobody needs longer for a head or a hello; an idle connection may wait for its next request.
HEAD_DEADLINE_S: Final = 10.0
IDLE_DEADLINE_S: Final = 75.0
LINGER_S: Final = 1.0
LINGER_BYTES: Final = 1 << 20
_ALERT_ACCESS_DENIED: Final = b"\x15\x03\x03\x00\x02\x02\x31"  # RFC 8446 section 6: fatal, access_denied(49)


async def serve(services: "Services", sockets: Mapping[Listener, Sequence[socket.socket]]) -> LaneServer:
    """Starts the lane on bound sockets. The result's `drain` ends it."""
    server = LaneServer(services, _serve_connection)
    await server.start(sockets)
    return server


async def _serve_connection(server: LaneServer, channel: Channel, listener: Listener) -> None:
    lane = Lane(server, channel, listener)
    try:
        await (lane.explicit() if listener == "explicit" else lane.transparent())
    except (Aborted, TimeoutError, ssl.SSLError, OSError):
        pass  # the peer is gone, slow or does not speak TLS: there is nobody to tell
    finally:
        lane.close()


class Lane:
    """One connection. `_principal` is who was identified last; a changed policy or revocation asks again."""

    def __init__(self, server: LaneServer, channel: Channel, listener: Listener) -> None:
        self._server = server
        self._channel = channel
        self._listener = listener
        peer = channel.info("peername")
        self._client_ip = str(peer[0]) if peer else ""
        self._counted_app: str | None = None
        self._credential: bytes | None = None
        self._sni: str | None = None

    def close(self) -> None:
        """Ends the connection and gives its places back."""
        self._channel.close()
        self._server.idle(self._channel, waiting=False)
        if self._counted_app is not None:
            self._server.services.limiter.close_connection(self._counted_app)

    # -- the two listeners

    async def explicit(self) -> None:
        """CONNECT once, or absolute-form requests one after the other."""
        while True:
            raw = await self._head()
            if raw is None:
                return
            if raw.method == "CONNECT":
                await self._connect(raw)
                return
            if not await self._absolute(raw):
                return

    async def transparent(self) -> None:
        """A redirected connection: its original destination gives the port, SNI or Host the name."""
        destination = original_destination(self._channel.info("socket"))
        if destination is None or self._server.services.own.holds(*destination):
            await self._refuse(Denied("self_connection", "The connection was not redirected here from elsewhere"))
            return
        await self._any_protocol(None, destination[1])

    # -- explicit

    async def _connect(self, raw: h1.RawHead) -> None:
        authority: Authority | None = None
        context: Context | None = None
        try:
            self._credential = raw.first(b"proxy-authorization")
            principal = self._identify()
            authority = targets.connect_authority(raw)
            context = self._server.runtime.context(principal, self._listener, None)
            context.trail.target(authority)
            context.trail.fields["method"] = "CONNECT"
            rule_connection(context, "connect", authority)
        except Denied as denied:
            await self._refuse(denied, context=context, authority=authority, connect=True)
            return
        self._channel.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._any_protocol(authority, authority.port)

    async def _absolute(self, raw: h1.RawHead) -> bool:
        """One absolute-form request; True when the connection may go on."""
        authority: Authority | None = None
        try:
            self._credential = raw.first(b"proxy-authorization")
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

    async def _any_protocol(self, authority: Authority | None, port: int) -> None:
        """TLS or plain HTTP, by the first bytes; anything else is not passed on."""
        channel = self._channel
        self._deadline(HEAD_DEADLINE_S)
        while (tls := client_hello.looks_like_tls(channel.buffer)) is None:
            if not await channel.more():
                return
        if tls:
            await self._tls(authority, port)
        else:
            await self._requests(replace(authority, scheme="http") if authority else None, port)

    async def _tls(self, authority: Authority | None, port: int) -> None:
        context: Context | None = None
        try:
            hello = await self._hello()
            if hello is None:
                return
            authority = self._tls_authority(hello, authority, port)
            self._sni = None if is_ip_literal(authority.host) else authority.host
            context = self._server.runtime.context(self._identify(), self._listener, self._sni)
            context.trail.target(authority)
            entry = rule_connection(context, "hello", authority).entry
            if entry is None:
                raise Denied("internal")
            speaks = _alpn_choice(hello, entry)
        except Denied as denied:
            self._alert(denied, context, authority)
            return
        if speaks == "passthrough":
            await self._tunnel(context, entry, authority)
        elif speaks == "h2":
            await self._http2(context.principal, entry, authority)
        else:
            await self._terminate(authority)

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
            name = canonical_host(hello.sni)
        except ValueError as error:
            raise Denied("malformed", f"The TLS server name is not well-formed: {error}") from None
        if is_ip_literal(name):
            raise Denied("malformed", "A TLS server name is never an address (RFC 6066 section 3)")
        if authority is not None and name != authority.host:
            raise Denied("target_mismatch", f"CONNECT names {authority.host}, TLS names {name}")
        return Authority("https", name, port)

    async def _terminate(self, authority: Authority) -> None:
        """Answers the handshake with a leaf for the vetted name, then speaks HTTP/1.1."""
        try:
            leaf = self._server.services.leaf_store.context(authority.host, self._counted_app or "")
        except Denied as denied:
            self._alert(denied, None, authority)
            return
        self._deadline(HEAD_DEADLINE_S)
        await self._channel.start_tls(leaf, server_side=True)
        await self._requests(authority, authority.port)

    async def _tunnel(self, context: Context, entry: Entry, authority: Authority) -> None:
        carrier = LaneCarrier(self._server, self._channel, _NO_REQUEST, h1.Framing(0), context)
        first = self._channel.take()
        try:
            await self._server.runtime.drive(context, tunnel(context, entry, authority, first), carrier)
        finally:
            carrier.close()

    async def _http2(self, principal: Principal, entry: Entry, authority: Authority) -> None:
        from proxy.dataplane.h2 import serve_h2

        self._channel.deadline_s = None
        try:
            await serve_h2(self._server, self._channel, principal, self._listener, entry, authority)
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
                    target = targets.origin_target(raw, authority)
            except Denied as denied:
                await self._refuse(denied, authority=named)
                return
            if named is None or not await self._exchange(raw, named, target, principal):
                return

    async def _exchange(self, raw: h1.RawHead, authority: Authority, target: str, principal: Principal) -> bool:
        """One request to its end; True when the connection may carry another."""
        context: Context | None = None
        try:
            framing = h1.request_framing(raw)
            head = RequestHead(raw.method, target, authority, raw.headers, http_version=raw.version)
            if wants_upgrade(head):
                check_handshake(head)
                head = replace(head, protocol="websocket")
            context = self._server.runtime.context(principal, self._listener, self._sni)
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

    # -- parts

    async def _head(self) -> h1.RawHead | None:
        """The next request head, or None when the connection ended between requests."""
        channel = self._channel
        self._deadline(IDLE_DEADLINE_S if not channel.buffer else HEAD_DEADLINE_S)
        self._server.idle(channel, waiting=not channel.buffer)
        try:
            while (end := h1.find_head_end(channel.buffer)) < 0:
                had = bool(channel.buffer)
                h1.check_request_start(channel.buffer)
                if not await channel.more():
                    return None
                if not had:
                    self._deadline(HEAD_DEADLINE_S)
                    self._server.idle(channel, waiting=False)
            channel.deadline_s = None
            return h1.parse_request_head(channel.take(end))
        except Denied as denied:
            await self._refuse(denied)
            return None
        except TimeoutError:
            if channel.buffer:
                await self._refuse(Denied("timeout", f"No whole request head within {HEAD_DEADLINE_S:g} s"))
            return None
        finally:
            self._server.idle(channel, waiting=False)

    def _identify(self) -> Principal:
        """Who calls. The first time, the app's connection is counted. Denied."""
        principal = self._server.principal(self._client_ip, self._credential)
        if self._counted_app is None:
            snapshot = self._server.services.watcher.current
            if snapshot is None:
                raise Denied("policy_unavailable")
            self._server.services.limiter.open_connection(snapshot.apps[principal.app])
            self._counted_app = principal.app
            self._server.room.named(self._channel)
        return principal

    async def _refuse(
        self,
        denied: Denied,
        *,
        context: Context | None = None,
        authority: Authority | None = None,
        connect: bool = False,
        raw: h1.RawHead | None = None,
    ) -> None:
        """Tells the client and the trail, and ends the connection."""
        decision_id = self._record(denied, context, authority, raw)
        snapshot = self._server.services.watcher.current
        make = denials.render_connect if connect else denials.render
        response = make(denied, decision_id=decision_id, revision=snapshot.revision if snapshot else "")
        with contextlib.suppress(Aborted):
            self._channel.write(h1.encode_whole(response))
        await self._linger()

    def _record(
        self, denied: Denied, context: Context | None, authority: Authority | None, raw: h1.RawHead | None = None
    ) -> str:
        runtime = self._server.runtime
        if context is None:
            return runtime.refuse(
                denied, listener=self._listener, client_ip=self._client_ip, authority=authority, app=self._counted_app
            )
        if authority is not None:
            context.trail.target(authority)
        if raw is not None:
            context.trail.fields["method"] = raw.method
        runtime.refused(context, denied)
        return context.id

    def _alert(self, denied: Denied, context: Context | None, authority: Authority | None) -> None:
        """Refuses a ClientHello: no certificate is made, the client gets a TLS alert, the reason is in the trail."""
        self._record(denied, context, authority)
        with contextlib.suppress(Aborted):
            self._channel.write(_ALERT_ACCESS_DENIED)

    async def _linger(self) -> None:
        """Lets the client read our last answer: closing on unread bytes would reset the connection under it."""
        channel = self._channel
        channel.end_writing()
        self._deadline(LINGER_S)
        swallowed = len(channel.take())
        with contextlib.suppress(TimeoutError):
            while swallowed < LINGER_BYTES and await channel.more():
                swallowed += len(channel.take())

    def _deadline(self, seconds: float) -> None:
        self._channel.deadline_s = self._channel.loop.time() + seconds


_NO_REQUEST: Final = h1.RawHead("CONNECT", "", "1.1", ())


def _alpn_choice(hello: "ClientHello", entry: Entry) -> str:
    """`passthrough`, `h2` or `http1`. Denied proto_denied when the client offers none that the entry allows."""
    if entry.passthrough:
        if hello.ech:
            raise Denied(
                "proto_denied",
                "An encrypted ClientHello hides the name that a pass-through tunnel must show",
                where=entry.at,
                rule_id=entry.rule_id,
                remedy="Switch Encrypted ClientHello off in the client.",
            )
        return "passthrough"
    if "h2" in entry.protocols and b"h2" in hello.alpn:
        return "h2"
    if hello.alpn and b"http/1.1" not in hello.alpn:
        raise Denied(
            "proto_denied",
            "The client offers only protocols that this entry does not allow",
            where=entry.at,
            rule_id=entry.rule_id,
        )
    return "http1"
