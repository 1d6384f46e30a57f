"""One HTTP/2 client connection: mitmproxy's layers over the lane's own channels, dialling and TLS.

Both TLS ends are the lane's (our leaf towards the client, the one verifier towards the upstream), so mitmproxy sees
plaintext with ALPN already settled: `h2` on both sides, or no connection at all. Never translated to HTTP/1.1.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from mitmproxy import addonmanager, http
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.proxy import commands, events, mode_specs
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.server import ConnectionHandler, ConnectionIO

from proxy.config.snapshot import Entry
from proxy.dataplane.channel import Channel
from proxy.dataplane.h2_carrier import H2Carrier
from proxy.dataplane.h2_endpoints import Farewell
from proxy.dataplane.h2_frames import Flood
from proxy.dataplane.h2_layers import AnswerNow, H2Layer
from proxy.dataplane.h2_pipes import ClientPipe, UpstreamPipe, Use
from proxy.dataplane.lane_connection import LINGER_BYTES, LINGER_S
from proxy.dataplane.upstream import HANDSHAKE_DEADLINE_S
from proxy.dataplane.verifier import upstream_context
from proxy.effects import Aborted
from proxy.errors import Denied
from proxy.model import Authority, Listener, Principal
from proxy.net.names import is_ip_literal

if TYPE_CHECKING:
    from proxy.dataplane.bodies_held import BodiesHeld
    from proxy.dataplane.lane_server import LaneServer
    from proxy.dataplane.master import Master

# mitmproxy buffers what the client's flow-control window does not take; reading from the upstream waits above this.
_MAX_BACKLOG_BYTES: Final = 1 << 20
# mitmproxy and h2 remember every stream of a connection: after so many it ends once it is idle.
MAX_STREAMS: Final = 4096
# What a piece costs beside its bytes: an upstream that sends single octets must not make a million of them.
_CHUNK_COST_BYTES: Final = 200


class H2Connection(ConnectionHandler):
    """`authority`: where every stream must go. `identify`: who calls, asked for each stream. `entry`: what the last
    forwarded stream's policy says about dialling."""

    def __init__(
        self,
        server: "LaneServer",
        master: "Master",
        channel: Channel,
        identify: Callable[[], Principal],
        listener: Listener,
        entry: Entry,
        authority: Authority,
    ) -> None:
        self.server = server
        self.identify = identify
        self.principal = identify()
        self.listener = listener
        self.authority = authority
        self.sni = None if is_ip_literal(authority.host) else authority.host
        self.bodies: BodiesHeld = server.bodies
        self._master = master
        self._channel = channel
        self._entry = entry
        self._generation = 0
        self._generations: dict[str, int] = {}
        self._dial_failure: Denied | None = None
        self._exchanges: dict[asyncio.Task[None], H2Carrier] = {}
        self._begun = 0
        self._injected: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._room.set()
        client = Client(
            peername=channel.info("peername") or ("", 0),
            sockname=channel.info("sockname") or ("", 0),
            timestamp_start=time.time(),
            proxy_mode=mode_specs.ProxyMode.parse("regular"),
            state=ConnectionState.OPEN,
        )
        client.alpn, client.tls, client.sni = b"h2", True, authority.host
        context = Context(client, master.options)
        super().__init__(context)
        context.layers.clear()
        self._layer = H2Layer(context, self)
        self.layer = self._layer
        self._pipe = ClientPipe(channel, self._use, self._give_up)
        pipe: Any = self._pipe
        self.transports[client] = ConnectionIO(handler=None, reader=pipe, writer=pipe)

    async def serve(self) -> None:
        """Runs until the client has left; every exchange has ended by then."""
        try:
            await self.handle_client()
        finally:
            for task in list(self._exchanges):
                task.cancel()
            await asyncio.gather(*self._exchanges, *self._injected, return_exceptions=True)
            await self._channel.linger(LINGER_S, LINGER_BYTES)
            self._channel.close()

    def _use(self) -> Use:
        return Use(bool(self._exchanges), self._begun >= MAX_STREAMS, self._backlog_bytes() > 0)

    async def _give_up(self, flood: Flood) -> None:
        """Ends the connection with GOAWAY; one record, unless there is nothing to be told."""
        if flood.denied is not None:
            self.server.runtime.refuse(
                flood.denied,
                listener=self.listener,
                client_ip=self.principal.client_ip,
                authority=self.authority,
                app=self.principal.app,
            )
        if self.client.connected:
            await self.server_event(Farewell(flood.error, flood.detail))

    # -- for the layers and carriers

    def open_stream(self, flow: http.HTTPFlow, stream_id: int) -> H2Carrier:
        """A new request's carrier."""
        return H2Carrier(self, flow, stream_id)

    def track(self, carrier: H2Carrier, task: "asyncio.Task[None]") -> None:
        """Keeps an exchange until it ends, so that none outlives its connection."""
        self._exchanges[task] = carrier
        self._begun += 1
        self.server.room.waiting(self._channel, idle=False)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        carrier = self._exchanges.pop(task)
        carrier.ended()
        if not task.cancelled():
            task.exception()  # seen: the standing denial answers
        self.server.room.waiting(self._channel, idle=not self._exchanges)
        self._pipe.look()

    def answer_now(self, stream_id: int) -> None:
        """Lets the layers send what an exchange decided while no hook was waiting."""
        task = asyncio.create_task(self.server_event(AnswerNow(stream_id)), name="h2 answer")
        self._injected.add(task)
        task.add_done_callback(self._injected.discard)

    def use_entry(self, entry: Entry) -> None:
        """Dials by `entry` from now on; connections made under other addresses or trust are not used again."""
        if (entry.addresses, entry.upstream_ca) != (self._entry.addresses, self._entry.upstream_ca):
            self._generation += 1
        self._entry = entry

    def new_server(self) -> Server:
        """An upstream connection to be opened."""
        server = Server(address=(self.authority.host, self.authority.port), transport_protocol="tcp")
        server.tls, server.sni = True, self.authority.host
        self._generations[server.id] = self._generation
        return server

    def may_use(self, server: Server) -> bool:
        """True while policy for dialling is what it was when `server` was opened."""
        return self._generations.get(server.id) == self._generation

    def dial_failure(self) -> Denied:
        """Why the last dial failed."""
        return self._dial_failure or Denied("upstream_unreachable", f"{self.authority} did not accept the connection")

    # -- mitmproxy's handler

    async def handle_hook(self, hook: commands.StartHook) -> None:
        """Our own addons alone. Foreign ones are offered the request by the exchange, before it is inspected: here they
        could still change it afterwards, or lift its standing denial."""
        manager: Any = self._master.addons
        for addon in self._master.own:
            with addonmanager.safecall():
                await manager.invoke_addon(addon, hook)

    async def server_event(self, event: events.Event) -> None:
        """As mitmproxy, then lets upstream readers go on while the client takes what it is sent."""
        await super().server_event(event)
        self._pipe.look()
        if self._backlog_bytes() > _MAX_BACKLOG_BYTES:
            self._room.clear()
        else:
            self._room.set()

    def _backlog_bytes(self) -> int:
        client: Any = self._layer.connections.get(self.client)
        buffers = client.h2_conn.stream_buffers.values() if client is not None else ()
        return sum(len(chunk.data) + _CHUNK_COST_BYTES for queue in buffers for chunk in queue)

    async def open_connection(self, command: commands.OpenConnection) -> None:
        """Dials a vetted address and speaks TLS with ALPN h2, or completes with the refusal."""
        server = command.connection
        try:
            channel = await self._dial()
        except Denied as denied:
            self._dial_failure = denied
            self._generations.pop(server.id, None)
            server.error = denied.code
            await self.server_event(events.OpenConnectionCompleted(command, denied.code))
            return
        server.state, server.alpn, server.timestamp_start = ConnectionState.OPEN, b"h2", time.time()
        server.peername, server.sockname = channel.info("peername"), channel.info("sockname")
        pipe: Any = UpstreamPipe(channel, self._room)
        self.transports[server] = ConnectionIO(handler=asyncio.current_task(), reader=pipe, writer=pipe)
        try:
            await self.server_event(events.OpenConnectionCompleted(command, None))
            await self.handle_connection(server)
        finally:
            self._generations.pop(server.id, None)
            channel.abort()

    async def _dial(self) -> Channel:
        entry, authority = self._entry, self.authority
        channel = await self.server.pool.dial_raw(entry, authority)
        try:
            async with asyncio.timeout(HANDSHAKE_DEADLINE_S):
                await channel.start_tls(
                    upstream_context(entry.upstream_ca, ("h2",)), server_side=False, server_hostname=authority.host
                )
            _require_h2(channel, authority)
        except BaseException as error:
            channel.abort()
            denied = _tls_denial(error, authority)
            if denied is None:
                raise
            raise denied from None
        return channel

    def log(self, *_: Any, **__: Any) -> None:
        """Mitmproxy's messages hold hosts, payloads and URLs: none of them is kept."""


def _require_h2(channel: Channel, authority: Authority) -> None:
    if channel.tls is None or channel.tls.selected_alpn_protocol() != "h2":
        raise Denied(
            "proto_denied",
            f"{authority} does not speak HTTP/2, and requests are not translated",
            status=502,
            remedy="Ask the admin to remove h2 from `protocols:` of the entry; the client then uses HTTP/1.1.",
        )


def _tls_denial(error: BaseException, authority: Authority) -> Denied | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Denied("upstream_tls", f"{authority}: {error.verify_message}")
    if isinstance(error, ssl.SSLError | Aborted):
        remedy = "Check that the service speaks TLS 1.2 or newer and HTTP/2 on this port."
        return Denied("upstream_tls", f"{authority}: the TLS handshake failed", remedy=remedy)
    if isinstance(error, TimeoutError):
        return Denied("upstream_timeout", f"{authority}: no TLS handshake in {HANDSHAKE_DEADLINE_S:g} s")
    return error if isinstance(error, Denied) else None
