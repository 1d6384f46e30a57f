"""One HTTP/2 stream's two ends: where mitmproxy's hooks and the exchange meet.

mitmproxy waits in a hook until the exchange has decided what the hook was asked; the exchange waits until a hook
delivers the next part. The flow's response is a standing denial from the first moment, and only `forward` clears it.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from mitmproxy import http

from proxy import denials
from proxy.dataplane.body_parts import BODY_WINDOW_BYTES, BODY_WINDOW_S
from proxy.dataplane.h2_messages import apply_request, client_headers, response_head, whole_response
from proxy.dataplane.runtime import refuse_stopped
from proxy.effects import Aborted, Forward, Tunnel, Upgrade
from proxy.errors import Denied
from proxy.model import Headers, Response, ResponseHead, Traffic

if TYPE_CHECKING:
    from proxy.answer import AnswerTap
    from proxy.dataplane.h2_connection import H2Connection

# As the lane: a body must make this much progress in each window; answers may think for minutes, then must flow.
ANSWER_DEADLINE_S: Final = 600.0
STALL_S: Final = 300.0

_CARRIERS: "WeakKeyDictionary[http.HTTPFlow, H2Carrier]" = WeakKeyDictionary()


def carrier_of(flow: http.HTTPFlow) -> "H2Carrier | None":
    """The carrier of a flow that came in over HTTP/2 here; None for flows that addons made up."""
    return _CARRIERS.get(flow)


def standing_denial() -> http.Response:
    """What a stream answers as long as nothing better has been decided."""
    return whole_response(denials.render(Denied("internal"), decision_id="", revision=""))


class H2Carrier:
    """Implements `Carrier`. The flags tell the stream layer what was decided: `answered` (send `flow.response`),
    `cut` (reset the stream); `sent` is set by it once the request goes upstream."""

    def __init__(self, connection: "H2Connection", flow: http.HTTPFlow, stream_id: int) -> None:
        self.connection = connection
        self.flow = flow
        self.stream_id = stream_id
        self.upstream_ip = ""
        self.started = False
        self.answered = False
        self.sent = False
        self.cut = False
        self.body_refused = False
        self.collect_limit_bytes: int | None = None
        self.failure: Exception | None = None  # what the stream layer is about to tell through the error hook
        self._wants_trailers = flow.request.headers.get_all("te") == ["trailers"]
        self._task: asyncio.Task[None] | None = None
        self._decision: asyncio.Future[None] | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._inbox: deque[Any] = deque()
        self._failure: Exception | None = None
        self._client_gone = False
        self._max_body_bytes = 0
        self._body_bytes = 0
        self._held_bytes = 0
        self._app = connection.principal.app
        self._answer_bytes = 0
        self._tap: AnswerTap | None = None
        _CARRIERS[flow] = self

    # -- mitmproxy's side

    async def begin(self, run: Coroutine[Any, Any, None]) -> None:
        """Starts the exchange; returns when it wants the body or has answered."""
        decision = self._decision = asyncio.get_running_loop().create_future()
        task = self._task = asyncio.create_task(run, name="h2 exchange")
        self.connection.track(self, task)
        await self._decided(decision, task)

    async def deliver(self, part: Any) -> None:
        """Hands a part over: (body, trailers), then a ResponseHead, then the bytes left at the answer's end."""
        await self._step(lambda: self._put(part))

    async def fail(self, error: Exception) -> None:
        """Tells the exchange that one side failed; returns when it has answered or ended."""
        self._client_gone = self._client_gone or (isinstance(error, Aborted) and error.side == "client")
        await self._step(lambda: self._break(error))

    def accept(self, size: int) -> bool:
        """Counts body bytes as they come; False when they are not wanted (the exchange is told why)."""
        if self.body_refused:
            return False
        try:
            if self._body_bytes + size > self._max_body_bytes:
                raise Denied(
                    "too_large", f"The body has more than {self._max_body_bytes} bytes; the app may not send more"
                )
            self.connection.bodies.hold(size, self._app)
        except Denied as denied:
            self.body_refused = True
            self._break(denied)
            return False
        self._body_bytes += size
        self._held_bytes += size
        return True

    def hold_answer(self, size: int) -> None:
        """Counts bytes of an answer that is collected. Denied overloaded."""
        self.connection.bodies.hold(size, self._app)
        self._held_bytes += size

    def ended(self) -> None:
        """The exchange is over, once: memory goes back, and a stream that it left undecided is denied."""
        self.connection.bodies.release(self._held_bytes, self._app)
        self._held_bytes = 0
        if not (self.started or self.answered or self._client_gone):
            self.answered = True
            self.flow.response = standing_denial()
            self.connection.answer_now(self.stream_id)

    def stream(self, data: bytes) -> bytes:
        """Mitmproxy's `response.stream`: each piece of the answer, then b"" at its end."""
        tap = self._tap
        if tap is None or self.cut:
            return b""
        try:
            self._answer_bytes += len(data)
            refuse_stopped(self.connection.server.services, self.connection.principal)
            if data:
                return tap.feed(data)
            self._tap = None
            return tap.finish()
        except Denied as denied:
            self._break(denied)
            self._cut()
            return b""
        except Exception:  # noqa: BLE001 - an answer that cannot be read any more is not relayed
            self._break(Denied("internal"))
            self._cut()
            return b""

    async def _step(self, act: Any) -> None:
        task = self._task
        if task is None:
            return
        decision = self._decision = asyncio.get_running_loop().create_future()
        act()
        await self._decided(decision, task)

    async def _decided(self, decision: "asyncio.Future[None]", task: "asyncio.Task[None]") -> None:
        try:
            await asyncio.wait({decision, task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._decision = None

    def _put(self, part: Any) -> None:
        self._inbox.append(part)
        self._wake()

    def _break(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    # -- the exchange's side

    async def read_body(self, max_bytes: int) -> tuple[bytes, Headers]:
        """The whole body. Denied: too_large, timeout, overloaded; Aborted: client."""
        declared = self.flow.request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > max_bytes:
            raise Denied("too_large", f"The body has {declared} bytes; this app may send {max_bytes}")
        self._max_body_bytes = max_bytes
        self._decide()
        while True:
            before = self._body_bytes
            try:
                part = await self._receive(BODY_WINDOW_S)
            except TimeoutError:
                if self._body_bytes - before < BODY_WINDOW_BYTES:
                    self.body_refused = True
                    raise Denied("timeout", "The body arrives too slowly") from None
            else:
                body, trailers = part
                return body, trailers

    async def forward(self, effect: Forward) -> ResponseHead:
        """Lets mitmproxy send the request. Denied: what dialling raised, upstream_*; Aborted: client."""
        self._raise_failure()
        if self.flow.response is None or self._decision is None:
            raise Denied("internal")
        apply_request(self.flow.request, effect.request, wants_trailers=self._wants_trailers)
        self.connection.use_entry(effect.entry)
        # The denial that has stood since the head is lifted here, and nowhere else.
        self.flow.response = None
        self._decide()
        try:
            head = await self._receive(ANSWER_DEADLINE_S)
        except TimeoutError:
            raise Denied("upstream_timeout", f"No answer within {ANSWER_DEADLINE_S:g} s", sent=self.sent) from None
        if not isinstance(head, http.Response):
            raise Denied("internal")
        peer = self.flow.server_conn.peername
        self.upstream_ip = str(peer[0]) if peer else ""
        return response_head(head)

    async def relay(self, head: ResponseHead, tap: "AnswerTap") -> None:
        """Streams the answer through the tap. Aborted when either side ends it early."""
        response = self.flow.response
        if response is None:
            raise Denied("internal")
        self.started = True
        self._tap = tap
        response.status_code = head.status
        response.headers = client_headers(head.headers)
        response.stream = self.stream
        self._decide()
        rest = await self._answer_end()
        if self._tap is not None:  # the answer had no body to stream
            self._tap = None
            response.raw_content = tap.feed(rest) + tap.finish() if rest else tap.finish()

    async def _answer_end(self) -> bytes:
        while True:
            before = self._answer_bytes
            try:
                rest: bytes = await self._receive(STALL_S)
            except TimeoutError:
                if self._answer_bytes == before:
                    self._cut()
                    raise Aborted("upstream", "the answer stalled", sent=True) from None
            else:
                return rest

    async def collect(self, max_bytes: int) -> bytes:
        """The whole answer body. Denied too_large; Aborted."""
        self.collect_limit_bytes = max_bytes
        self._decide()
        return await self._answer_end()

    async def reply(self, response: Response) -> None:
        """A whole answer of ours; once an answer has begun, only a reset can follow."""
        if self._client_gone:
            raise Aborted("client", "closed the stream", sent=self.sent)
        if self.started:
            self._cut()
            return
        self.answered = True
        self.flow.response = whole_response(response)
        if not self._decide():
            self.connection.answer_now(self.stream_id)

    async def upgrade(self, effect: Upgrade) -> Traffic:  # noqa: ARG002 - the protocol names it
        """Not in HTTP/2."""
        raise Denied("proto_denied", "WebSocket is not spoken inside HTTP/2 streams")

    async def tunnel(self, effect: Tunnel) -> Traffic:
        """Not in HTTP/2."""
        raise Denied("proto_denied", f"Tunnels to {effect.authority} are not spoken inside HTTP/2 streams")

    def _cut(self) -> None:
        self.cut = True
        self._tap = None
        self.connection.answer_now(self.stream_id)

    def _decide(self) -> bool:
        """Lets the waiting hook return; False when none waits."""
        decision = self._decision
        if decision is None or decision.done():
            return False
        decision.set_result(None)
        return True

    async def _receive(self, deadline_s: float) -> Any:
        self._raise_failure()
        if not self._inbox:
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._arrival, deadline_s)
            finally:
                self._arrival = None
            self._raise_failure()
        return self._inbox.popleft()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
