"""What both listeners' connections share: reading heads, knowing who calls, refusing in words, ending politely."""

import contextlib
from typing import TYPE_CHECKING, Final

from proxy import denials
from proxy.context import Context
from proxy.dataplane import h1
from proxy.dataplane.callers import Caller
from proxy.dataplane.channel import Channel
from proxy.dataplane.heads import ReadHead
from proxy.effects import Aborted
from proxy.errors import Denied
from proxy.model import Authority, Listener, Principal

if TYPE_CHECKING:
    from proxy.dataplane.lane_server import LaneServer

# RES-03, TLS-06: nobody needs longer for a head or a hello; an idle connection may wait for its next request.
HEAD_DEADLINE_S: Final = 10.0
IDLE_DEADLINE_S: Final = 75.0
LINGER_S: Final = 2.0
# A client that sends on while it is told 413 reads the answer only if what it sends is taken off the wire.
LINGER_BYTES: Final = 64 << 20
_ALERT_ACCESS_DENIED: Final = b"\x15\x03\x03\x00\x02\x02\x31"  # RFC 8446 section 6: fatal, access_denied(49)


class Connection:
    """One connection. `_caller` is who was identified last; a changed policy or revocation asks again. `_last_head`:
    the last head, kept while it is small."""

    def __init__(self, server: "LaneServer", channel: Channel, listener: Listener) -> None:
        self._server = server
        self._channel = channel
        self._listener = listener
        peer = channel.info("peername")
        self._client_ip = str(peer[0]) if peer else ""
        self._counted_app: str | None = None
        self._credential: bytes | None = None
        self._sni: str | None = None
        self._last_head: ReadHead | None = None
        self._caller: Caller | None = None

    def close(self) -> None:
        """Ends the connection and gives its places back."""
        self._channel.close()
        self._server.room.waiting(self._channel, idle=False)
        if self._counted_app is not None:
            self._server.services.limiter.close_connection(self._counted_app)

    async def _head(self) -> h1.RawHead | None:
        """The next request head, or None when the connection ended between requests."""
        channel = self._channel
        room = self._server.room
        try:
            if not channel.buffer:
                self._deadline(IDLE_DEADLINE_S)
                room.waiting(channel, idle=True)
                if not await channel.more():
                    return None
                room.waiting(channel, idle=False)
            self._deadline(HEAD_DEADLINE_S)
            while (end := h1.find_head_end(channel.buffer)) < 0:
                h1.check_request_start(channel.buffer)
                if not await channel.more():
                    return None
            channel.deadline_s = None
            return self._parsed(channel.take(end))
        except Denied as denied:
            await self._refuse(denied)
            return None
        except TimeoutError:
            if channel.buffer:
                await self._refuse(Denied("timeout", f"No whole request head within {HEAD_DEADLINE_S:g} s"))
            return None

    def _parsed(self, data: bytes) -> h1.RawHead:
        """Clients that ask again send the very same bytes: what they mean was decided the first time."""
        before = self._last_head
        if before is not None and before.data == data:
            return before.raw
        head = (before.again(data) if before is not None else None) or self._server.heads.read(data)
        self._last_head = head if head.small else None
        return head.raw

    def _take_credential(self, raw: h1.RawHead) -> None:
        """Each plain request names its own caller (ID-04): another credential is another question."""
        credential = raw.only(b"proxy-authorization")
        if credential != self._credential:
            self._credential, self._caller = credential, None

    def _identify(self) -> Principal:
        """Who calls. The first time, the app's connection is counted. Denied."""
        callers = self._server.callers
        now_s = self._channel.loop.time()
        caller = self._caller
        if caller is not None and callers.holds(caller, now_s):
            return caller.principal
        caller = self._caller = callers.find(self._client_ip, self._credential, now_s)
        principal = caller.principal
        if self._counted_app is None:
            self._server.services.limiter.open_connection(caller.snapshot.apps[principal.app])
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
            app = self._caller.principal.app if self._caller is not None else None
            return runtime.refuse(
                denied, listener=self._listener, client_ip=self._client_ip, authority=authority, app=app
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
        """Lets the client read our last answer."""
        await self._channel.linger(LINGER_S, LINGER_BYTES)

    def _deadline(self, seconds: float) -> None:
        self._channel.deadline_s = self._channel.loop.time() + seconds
