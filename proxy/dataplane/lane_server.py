"""What all lane connections of one worker share: listeners, sweeper, drain, refusals without an exchange."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from proxy import denials, policy
from proxy.context import Context, raise_denial
from proxy.dataplane import h1
from proxy.dataplane.bodies_held import BodiesHeld
from proxy.dataplane.callers import Callers
from proxy.dataplane.channel import Channel
from proxy.dataplane.heads import Heads
from proxy.dataplane.room import Room
from proxy.dataplane.runtime import Runtime
from proxy.dataplane.tickets import Tickets
from proxy.dataplane.upstream import UpstreamPool
from proxy.effects import Aborted
from proxy.errors import Denied
from proxy.model import Listener
from proxy.net.dial import keep_alive

if TYPE_CHECKING:
    from proxy.dataplane.services import Services

SWEEP_S: Final = 0.5
SWEEP_TURN: Final = 8
BACKLOG: Final = 4096


class LaneServer:
    """`tunnels`: WebSockets and pass-through tunnels open now. `draining`: answers close their connection, idle ones
    end soon, new ones are not accepted."""

    def __init__(self, services: "Services", handler: Callable[["LaneServer", Channel, Listener], Any]) -> None:
        self.services = services
        self.runtime = Runtime(services)
        self.pool = UpstreamPool(services.resolver, services.own)
        self.bodies = BodiesHeld()
        self.callers = Callers(services)
        self.heads = Heads()
        self.room = Room()
        self.tickets = Tickets()
        self.draining = False
        self.tunnels = 0
        self._handler = handler
        self._channels: dict[Channel, asyncio.Task[Any]] = {}
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, sockets: Mapping[Listener, Sequence[socket.socket]]) -> None:
        """Accepts on the sockets that the supervisor bound."""
        loop = asyncio.get_running_loop()
        for listener, bound in sockets.items():
            for sock in bound:
                keep_alive(sock)
                factory = self._factory(listener)
                self._servers.append(await loop.create_server(factory, sock=sock, backlog=BACKLOG))
        self._sweeper = asyncio.create_task(self._sweep(), name="lane sweeper")

    def _factory(self, listener: Listener) -> Callable[[], Channel]:
        return lambda: _Accepted(self, listener)

    def accepted(self, channel: Channel, listener: Listener) -> None:
        """A new connection: one task serves it to its end."""
        if not self.room.enter(channel):
            self._turn_away(channel, listener)
            return
        task = channel.loop.create_task(self._handler(self, channel, listener))
        self._channels[channel] = task
        task.add_done_callback(partial(self._left, channel))

    def _turn_away(self, channel: Channel, listener: Listener) -> None:
        denied = Denied("overloaded", "This worker has no room for another connection", retry_after_s=1)
        peer = channel.info("peername")
        decision_id = self.runtime.refuse(denied, listener=listener, client_ip=str(peer[0]) if peer else "")
        response = denials.render(denied, decision_id=decision_id, revision="")
        with contextlib.suppress(Aborted):
            channel.write(h1.encode_whole(response))
        channel.close()

    def _left(self, channel: Channel, _task: asyncio.Task[Any]) -> None:
        self._channels.pop(channel, None)
        self.room.leave(channel)

    @property
    def open_connections(self) -> int:
        """Client connections being served now."""
        return len(self._channels)

    def still_allowed(self, context: Context) -> None:
        """Asks today's policy about a long connection. Denied when it would not be allowed now."""
        watcher = self.services.watcher
        snapshot = watcher.current
        principal = context.principal
        if snapshot is None or principal.app not in snapshot.apps:
            raise Denied("policy_unavailable")
        if principal.token_id is not None and principal.token_id in watcher.revoked:
            raise Denied("identity_unknown", "The proxy token has been revoked", status=403)
        facts = context.last_facts
        if facts is not None:
            raise_denial(policy.rule_on(snapshot, replace(facts, now_s=time.time(), kills=watcher.kills)))

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = loop.time()
            await end_overdue(list(self._channels), now_s)
            self.heads.forget()
            self.pool.sweep(now_s)

    async def drain(self, grace_s: float) -> None:
        """Stops accepting, lets running exchanges end within `grace_s`, then cuts what is left."""
        self.draining = True
        for server in self._servers:
            server.close()
        loop = asyncio.get_running_loop()
        until_s = loop.time() + grace_s
        idle_until_s = min(until_s, loop.time() + 1.0)
        while self._channels and loop.time() < until_s:
            if loop.time() >= idle_until_s:
                for channel in self.room.idle():
                    channel.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await asyncio.wait(list(self._channels.values()))
        for channel, task in list(self._channels.items()):
            task.cancel()
            channel.abort()
        await asyncio.gather(*self._channels.values(), return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.pool.close()


async def end_overdue(channels: Sequence[Channel], now_s: float) -> None:
    """Ends connections that are past their deadline or of no use any more, few between two looks at the others: each
    still writes its last words and its record, and slow ones that came together end together."""
    ended = 0
    for channel in channels:
        overdue = channel.deadline_s is not None and channel.deadline_s <= now_s
        if overdue:
            channel.expire()
        if channel.was_reset:
            channel.abort()
        ended += overdue
        if overdue and ended % SWEEP_TURN == 0:
            await asyncio.sleep(0)


class _Accepted(Channel):
    """A client connection as the listener makes it."""

    __slots__ = ("_listener", "_server")

    def __init__(self, server: LaneServer, listener: Listener) -> None:
        super().__init__("client")
        self._server = server
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.accepted(self, self._listener)
