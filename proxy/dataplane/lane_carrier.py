"""One HTTP/1.1 request's two ends: the lane's implementation of `Carrier`."""

import asyncio
from typing import TYPE_CHECKING, Final

from proxy.dataplane import departure, h1
from proxy.dataplane.body_parts import AnswerBody, Progress
from proxy.dataplane.channel import Channel
from proxy.dataplane.heads import start_of
from proxy.dataplane.pump import copy_both_ways, run_websocket
from proxy.dataplane.runtime import refuse_stopped
from proxy.dataplane.upstream import Upstream
from proxy.dataplane.websocket_handshake import answered, check_accept, with_own_key
from proxy.effects import Aborted, Forward, Tunnel, Upgrade
from proxy.errors import Denied
from proxy.model import Headers, Response, ResponseHead, Traffic

if TYPE_CHECKING:
    from proxy.answer import AnswerTap
    from proxy.context import Context
    from proxy.dataplane.lane_server import LaneServer

# Thinking models take minutes before the first byte of an answer.
ANSWER_DEADLINE_S: Final = 600.0
# Streams pause while a model calls tools; a silent connection is given up after this.
STALL_S: Final = 300.0
MAX_INTERIM: Final = 16
_SAFE_TO_REPEAT: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class LaneCarrier:
    """Serves one request on `client`. After the exchange, `reusable` tells if the client connection may go on: not
    when the answer broke off, which only the end of the connection tells the client."""

    def __init__(
        self, server: "LaneServer", client: Channel, raw: h1.RawHead, framing: h1.Framing, context: "Context"
    ) -> None:
        self._server = server
        self._client = client
        self._raw = raw
        self._framing = framing
        self._context = context
        self._app = context.principal.app
        self._body_read = framing.empty
        self._held_bytes = 0
        self._upstream: Upstream | None = None
        self._answer: ResponseHead | None = None
        self._answer_framing = h1.Framing(0)
        self._body: AnswerBody | None = None
        self.upstream_ip = ""
        self.started = False
        self.sent = False
        self.reusable = True
        self._begun = False  # a byte of the answer's head has left
        self._told = False
        self._to_end = False

    def close(self) -> None:
        """Gives back what the request held. Called once, however the exchange ended."""
        self._server.bodies.release(self._held_bytes, self._app)
        self._held_bytes = 0
        self._drop_upstream()
        if not self._told:
            self.reusable = False
            # Framing shows a broken answer; one that the connection's end delimits must not seem whole.
            (self._client.reset if self._to_end else self._client.close)()

    # -- request

    async def read_body(self, max_bytes: int) -> tuple[bytes, Headers]:
        """The whole body. Denied: too_large, malformed, timeout, overloaded."""
        framing = self._framing
        if framing.empty:
            return b"", ()
        if framing.length is not None and framing.length > max_bytes:
            raise Denied("too_large", f"The body has {framing.length} bytes; this app may send {max_bytes}")
        self._expect_continue()
        trailers: Headers = ()
        if framing.length is not None:
            body = await self._read_sized(framing.length)
        else:
            body, trailers = await self._read_chunked(max_bytes)
        self._body_read = True
        self._client.deadline_s = None
        return body, trailers

    def _expect_continue(self) -> None:
        expectation = self._raw.first(b"expect")
        if expectation is None:
            return
        if expectation.lower() != b"100-continue":
            raise Denied("malformed", "The only expectation spoken here is 100-continue", status=417)
        if self._raw.version == "1.1" and not self._client.buffer:
            self._client.write(departure.CONTINUE)

    async def _read_sized(self, length: int) -> bytes:
        client = self._client
        self._hold(length)
        if len(client.buffer) < length:
            progress = Progress(client)
            while len(client.buffer) < length:
                progress.check(len(client.buffer))
                await self._more_from_client()
        return client.take(length)

    async def _read_chunked(self, max_bytes: int) -> tuple[bytes, Headers]:
        client, reader, parts = self._client, h1.ChunkedReader(max_bytes), bytearray()
        progress = Progress(client)
        while True:
            data = reader.feed(client.buffer)
            if len(parts) + len(data) > max_bytes:
                raise Denied("too_large", f"The body has more than {max_bytes} bytes, which is what this app may send")
            self._hold(len(data))
            parts += data
            if reader.done:
                return bytes(parts), reader.trailers
            progress.check(len(parts))
            await (asyncio.sleep(0) if reader.busy else self._more_from_client())

    async def _more_from_client(self) -> None:
        try:
            alive = await self._client.more()
        except TimeoutError:
            raise Denied("timeout", "The body arrives too slowly") from None
        if not alive:
            raise Aborted("client", "closed before the body's end", sent=False)

    def _hold(self, size: int) -> None:
        self._server.bodies.hold(size, self._app)
        self._held_bytes += size

    # -- upstream

    async def forward(self, effect: Forward) -> ResponseHead:
        """Sends the request, and once more when an idle connection proved dead and the method allows it."""
        request = effect.request
        asked = with_own_key(request.head) if request.head.protocol == "websocket" else request.head
        raw = h1.encode_from(start_of(asked, self._context.memo), asked.method, request.body, request.trailers)
        head = await self._send(effect, raw, fresh=False)
        if head is None:
            head = await self._send(effect, raw, fresh=True)
        if head is None:
            raise Denied("upstream_unreachable", f"{request.head.authority} closed the connection without an answer")
        if head.status == 101:
            check_accept(asked, head)
            head = answered(head, request.head)
        self._answer = head
        self._answer_framing = h1.response_framing(head, request.head.method)
        return head

    async def _send(self, effect: Forward, raw: bytes, *, fresh: bool) -> ResponseHead | None:
        """The final response head, or None when a repeat is safe: a reused connection ended before any byte."""
        head = effect.request.head
        upstream = await self._server.pool.take(effect.app, effect.entry, head.authority, fresh=fresh)
        self._upstream = upstream
        channel = upstream.channel
        self.upstream_ip = upstream.peer_ip
        self._server.services.counters.add("upstream_connections_total", ("reused" if upstream.reused else "new",))
        self._client.on_lost = lambda: channel.fail(Aborted("client", "went away", sent=True))
        self._client.on_eof = self._client_ended
        if self._client.eof:
            self._client_ended()
        if self._client.closing:
            raise Aborted("client", "went away", sent=False)
        repeatable = upstream.reused and not fresh and head.method in _SAFE_TO_REPEAT and not effect.request.body
        sent = False
        try:
            channel.write(raw)
            self.sent = sent = True
            if channel.blocked:
                await channel.drain()
            channel.deadline_s = channel.loop.time() + ANSWER_DEADLINE_S
            return await self._read_answer_head(channel)
        except TimeoutError:
            raise Denied(
                "upstream_timeout", f"{head.authority} did not answer in {ANSWER_DEADLINE_S:g} s", sent=sent
            ) from None
        except Aborted as aborted:
            if aborted.side == "client":
                raise
            self._drop_upstream()
            if repeatable:
                return None
            raise Denied(
                "upstream_unreachable", f"{head.authority} closed the connection without an answer", sent=sent
            ) from None

    def _client_ended(self) -> None:
        departure.ended(self._client, self._raw.version, answering=self._begun)

    async def _read_answer_head(self, channel: Channel) -> ResponseHead:
        for _ in range(MAX_INTERIM):
            while (end := _answer_head_end(channel.buffer) if channel.buffer else -1) < 0:
                if not await channel.more():
                    if channel.buffer:
                        raise Denied("upstream_malformed", "The answer ends within its head")
                    raise Aborted("upstream", "closed without an answer", sent=True)
            head = h1.parse_response_head(channel.take(end))
            if head.status >= 200 or head.status == 101:
                return head
            # 100 answers an expectation that ended here; other interim answers (103) belong to the client.
            if head.status != 100 and self._raw.version == "1.1":
                self._client.write(h1.encode_response_head(head))
        raise Denied("upstream_malformed", "The upstream sends interim answers without end")

    # -- answer

    async def relay(self, head: ResponseHead, tap: "AnswerTap") -> None:
        """Streams the body through the tap, chunked anew where its length is not known beforehand."""
        try:
            await self._relay(head, tap)
        except Aborted as aborted:
            if aborted.side == "upstream" and not self._begun:
                self.started = False
                raise Denied("upstream_malformed", f"The answer broke off: {aborted.detail}") from None
            self._cut()
            raise
        except BaseException:
            # What was begun cannot be ended properly: only a cut connection tells the client so.
            self._cut()
            raise

    async def _relay(self, head: ResponseHead, tap: "AnswerTap") -> None:
        client = self._client
        chunked = self._begin(head)
        pending = self._head_bytes(head, chunked=chunked)
        while data := await self._next_part():
            out = tap.feed(data)
            if out:
                self._begun = True
                client.write(pending + (h1.encode_chunk(out) if chunked else out))
                pending = b""
                if client.blocked:
                    await client.drain()
            elif pending and not self._upstream_has_more():
                self._begun = True
                client.write(pending)
                pending = b""
        rest = tap.finish()
        self._begun = True
        if chunked:
            rest = h1.encode_chunk(rest) + h1.encode_last_chunk()
        if pending or rest:
            client.write(pending + rest)
        if client.blocked:
            await client.drain()
        self._told = True

    def _begin(self, head: ResponseHead) -> bool:
        """Decides the client's framing; True for chunked. HTTP/1.0 clients get the end of the connection instead."""
        self.started = True
        bodyless = (self._answer_framing.empty and self._raw.method == "HEAD") or head.status in {204, 304}
        if bodyless or head.first(b"content-length") is not None:
            return False
        if self._answer_framing.empty:
            return False
        if self._raw.version != "1.1":
            self._to_end = True
            self.reusable = False
            return False
        return True

    def _head_bytes(self, head: ResponseHead, *, chunked: bool) -> bytes:
        framing: list[tuple[bytes, bytes]] = []
        if chunked:
            framing.append((b"Transfer-Encoding", b"chunked"))
        if not self._stays_open():
            framing.append((b"Connection", b"close"))
        elif self._raw.version == "1.0":
            framing.append((b"Connection", b"keep-alive"))
        return h1.encode_response_head(head, *framing)

    def _stays_open(self) -> bool:
        self.reusable = self.reusable and self._body_read and self._raw.keep_alive and not self._server.draining
        return self.reusable

    def _cut(self) -> None:
        """Ends an answer that cannot be finished. A client that counts bytes or chunks sees that some are missing; one
        that reads to the end of the connection would take a polite close for the answer's end."""
        self.reusable = False
        if self._to_end:
            self._client.abort()
        else:
            self._client.close()

    def _upstream_has_more(self) -> bool:
        return self._upstream is not None and bool(self._upstream.channel.buffer)

    async def _next_part(self) -> bytes:
        """The body in the pieces it comes in; the connection goes back to the pool at its proper end."""
        upstream, answer, body = self._upstream, self._answer, self._body
        if body is not None and body.ended:
            return b""
        if upstream is None or answer is None:
            raise Denied("internal")
        if body is None:
            body = self._body = AnswerBody(upstream.channel, self._answer_framing)
        else:
            # From here on, not from its arrival: the client may have taken its time.
            upstream.channel.deadline_s = upstream.channel.loop.time() + STALL_S
        try:
            data = b"" if body.ended else await body.next()
        except TimeoutError:
            raise Aborted("upstream", "the answer stalled", sent=True) from None
        if data:
            refuse_stopped(self._server.services, self._context.principal)
        if body.ended:
            self._finish_upstream()
        return data

    def _finish_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        self._let_client_go()
        if upstream is None or self._answer is None:
            return
        upstream.channel.deadline_s = None
        to_end = not self._answer_framing.chunked and self._answer_framing.length is None
        if to_end or not h1.response_keep_alive(self._answer):
            upstream.channel.abort()
        else:
            self._server.pool.give_back(upstream)

    def _let_client_go(self) -> None:
        self._client.on_lost = self._client.on_eof = None

    def _drop_upstream(self) -> None:
        self._let_client_go()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.channel.abort()

    async def collect(self, max_bytes: int) -> bytes:
        """The whole answer body. Denied: too_large, overloaded."""
        parts = bytearray()
        try:
            while data := await self._next_part():
                parts += data
                if len(parts) > max_bytes:
                    raise Denied("too_large", f"The answer has more than {max_bytes} bytes and must be inspected whole")
                self._hold(len(data))
        except Aborted as aborted:
            if aborted.side == "client":
                raise
            raise Denied("upstream_malformed", f"The upstream broke off: {aborted.detail}") from None
        return bytes(parts)

    # -- long connections

    async def upgrade(self, effect: Upgrade) -> Traffic:
        """Answers the handshake and runs the WebSocket."""
        upstream = self._upstream
        if upstream is None:
            raise Denied("internal")
        self._told = True
        self._server.tunnels += 1
        try:
            return await run_websocket(self._server, self._client, upstream.channel, effect, self._context, self)
        finally:
            # Closed, not aborted: a Close frame may still be on its way out.
            self._server.tunnels -= 1
            self._upstream = None
            upstream.channel.close()

    async def tunnel(self, effect: Tunnel) -> Traffic:
        """Connects to the vetted address and copies both ways."""
        channel = await self._server.pool.dial_raw(effect.entry, effect.authority)
        self.upstream_ip = channel.peer_ip
        self._server.tunnels += 1
        self.sent = True
        try:
            return await copy_both_ways(self._server, self._client, channel, effect.first_bytes, self._context)
        finally:
            self._server.tunnels -= 1
            channel.abort()

    # -- ours

    async def reply(self, response: Response) -> None:
        """A whole answer of ours. Once an answer has begun, only cutting the connection tells the client."""
        self._drop_upstream()
        if self.started:
            self._cut()
            return
        self.started = True
        head, body = response.head, response.body
        framing = [] if head.status in {204, 304} else [(b"Content-Length", b"%d" % len(body))]
        if not self._stays_open():
            framing.append((b"Connection", b"close"))
        raw = h1.encode_response_head(head, *framing)
        self._client.write(raw if self._raw.method == "HEAD" else raw + body)
        self._told = True
        await self._client.drain()


def _answer_head_end(buffer: bytearray) -> int:
    try:
        return h1.find_head_end(buffer)
    except Denied as denied:
        raise Denied("upstream_malformed", denied.detail) from None
