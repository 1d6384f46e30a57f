"""mitmproxy's HTTP/2 layers with our order of things: nothing is sent upstream unless the flow's response is gone.

`H2Stream` replaces the state machine of one request where mitmproxy's would answer with its own pages, buffer without
a limit per app, or dial what a header names. Framing, HPACK, flow control and stream states stay mitmproxy's.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mitmproxy import flow as mitmproxy_flow
from mitmproxy import http
from mitmproxy.connection import Connection, Server
from mitmproxy.proxy import events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import (
    DropStream,
    GetHttpConnection,
    GetHttpConnectionCompleted,
    HttpLayer,
    HTTPMode,
    HttpStream,
    SendHttp,
    validate_request,
)
from mitmproxy.proxy.layers.http._events import (
    ErrorCode,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._hooks import (
    HttpErrorHook,
    HttpRequestHeadersHook,
    HttpRequestHook,
    HttpResponseHeadersHook,
)
from mitmproxy.proxy.utils import ReceiveBuffer

from proxy.dataplane.h2_carrier import H2Carrier, standing_denial
from proxy.dataplane.h2_endpoints import Farewell, H2Client, H2Server
from proxy.effects import Aborted
from proxy.errors import Denied

if TYPE_CHECKING:
    from proxy.dataplane.h2_connection import H2Connection

type Commands = CommandGenerator[None]

_CANCELLED: Final = "cancelled"


def _empty_buffer() -> ReceiveBuffer:
    make: Any = ReceiveBuffer  # untyped in mitmproxy
    empty: ReceiveBuffer = make()
    return empty


@dataclass
class AnswerNow(events.Event):
    """The exchange has answered (or cut) a stream while no hook was waiting for it."""

    stream_id: int


class H2Stream(HttpStream):
    """One request and its answer. The carrier tells what the exchange decided in each hook."""

    def __init__(self, context: Context, stream_id: int, connection: "H2Connection") -> None:
        super().__init__(context, stream_id)
        self._connection = connection
        self._carrier: H2Carrier | None = None

    @property
    def carrier(self) -> H2Carrier:
        """Set with the request's head; a stream without one never sends."""
        if self._carrier is None:
            raise Denied("internal")
        return self._carrier

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, AnswerNow):
            yield from self._answer_now()
        elif isinstance(event, events.Start):
            self.client_state = self.state_wait_for_request_headers
        elif isinstance(event, RequestProtocolError):
            yield from self._client_failed(event)
        elif isinstance(event, ResponseProtocolError):
            yield from self._upstream_failed(Aborted("upstream", "ended the stream early", sent=True))
        elif isinstance(event, RequestHeaders | RequestData | RequestTrailers | RequestEndOfMessage):
            yield from self.client_state(event)
        else:
            yield from self.server_state(event)

    # -- request

    def state_wait_for_request_headers(self, event: RequestHeaders) -> Commands:
        self.flow = http.HTTPFlow(self.context.client, self.context.server)
        self.flow.request = event.request
        self.flow.live = True
        self.flow.response = standing_denial()
        self._carrier = self._connection.open_stream(self.flow, self.stream_id)
        self.client_state = self.state_consume_request_body
        self.server_state = self.state_wait_for_response_headers
        if validate_request(HTTPMode.transparent, event.request, True):
            self.flow.error = mitmproxy_flow.Error("malformed")
        authority = self._connection.authority
        event.request.data.host, event.request.data.port = authority.host, authority.port
        yield HttpRequestHeadersHook(self.flow)
        if (yield from self._client_left()):
            return
        if self.carrier.answered or self.flow.error:
            yield from self._answer()
        elif self.flow.request.headers.pop("expect", "").lower() == "100-continue":
            interim = http.Response.make(100)
            interim.headers.clear()
            yield SendHttp(ResponseHeaders(self.stream_id, interim), self.context.client)

    def state_consume_request_body(self, event: events.Event) -> Commands:
        if isinstance(event, RequestData):
            if self.carrier.accept(len(event.data)):
                self.request_body_buf += event.data
            else:
                self.request_body_buf = _empty_buffer()
        elif isinstance(event, RequestTrailers):
            self.flow.request.trailers = event.trailers
        elif isinstance(event, RequestEndOfMessage):
            self.client_state = self.state_done
            if not self.carrier.body_refused:
                self.flow.request.data.content = bytes(self.request_body_buf)
                self.request_body_buf = _empty_buffer()
                yield from self._forward()

    def _forward(self) -> Commands:
        yield HttpRequestHook(self.flow)
        if (yield from self._client_left()):
            return
        if self.flow.response is not None:
            yield from self._answer()
            return
        opened: tuple[Connection | None, str | None] = yield GetHttpConnection(("", 0), True, None)
        connection = opened[0]
        if connection is None:
            yield from self._upstream_failed(self._connection.dial_failure())
            return
        self.context.server = self.flow.server_conn = connection  # type: ignore[assignment]
        if (yield from self._client_left()):
            return
        self.carrier.sent = True
        body, trailers = self.flow.request.raw_content, self.flow.request.trailers
        ends = not (body or trailers)
        yield SendHttp(RequestHeaders(self.stream_id, self.flow.request, ends), connection)
        if body:
            yield SendHttp(RequestData(self.stream_id, body), connection)
        if trailers:
            yield SendHttp(RequestTrailers(self.stream_id, trailers), connection)
        yield SendHttp(RequestEndOfMessage(self.stream_id), connection)

    # -- answer

    def state_wait_for_response_headers(self, event: events.Event) -> Commands:
        if not isinstance(event, ResponseHeaders):
            return
        self.flow.response = event.response
        yield HttpResponseHeadersHook(self.flow)
        if (yield from self._client_left()):
            return
        if self.carrier.answered:
            if not event.end_stream:
                yield from self._cancel_upstream()
            yield from self._answer()
        elif not self.carrier.started and self.carrier.collect_limit_bytes is None:
            yield from self._reset()
        elif self.carrier.started and not event.end_stream:
            yield from self.start_response_stream()
        else:
            self.flow.response.stream = False
            self.server_state = self.state_consume_response_body

    def state_consume_response_body(self, event: events.Event) -> Commands:
        if isinstance(event, ResponseData):
            limit = self.carrier.collect_limit_bytes or 0
            try:
                if len(self.response_body_buf) + len(event.data) > limit:
                    raise Denied("too_large", f"The answer has more than {limit} bytes and must be inspected whole")
                self.carrier.hold_answer(len(event.data))
            except Denied as denied:
                self.response_body_buf = _empty_buffer()
                yield from self._upstream_failed(denied)
                return
        yield from super().state_consume_response_body(event)

    def state_stream_response_body(self, event: events.Event) -> Commands:
        if isinstance(event, ResponseTrailers):
            if self.flow.response is not None:
                self.flow.response.trailers = event.trailers
            return
        data = event.data if isinstance(event, ResponseData) else b""
        ends = isinstance(event, ResponseEndOfMessage)
        if not (data or ends):
            return  # an empty frame is not the end
        out = self.carrier.stream(data)
        if self.carrier.cut:
            # Ended properly, a truncated answer would look complete.
            yield from self._cancel_upstream()
            yield from self._reset()
            return
        if out:
            yield SendHttp(ResponseData(self.stream_id, out), self.context.client)
        if ends:
            yield from self.send_response(already_streamed=True)

    # -- ends

    def _answer(self) -> Commands:
        """Sends `flow.response` whole; whatever still comes for this stream is dropped."""
        response = self.flow.response
        body = None if response is None or self.flow.request.method == "HEAD" else response.raw_content
        self._finish()
        if response is None:
            yield from self._reset()
            return
        yield SendHttp(ResponseHeaders(self.stream_id, response, not body), self.context.client)
        if body:
            yield SendHttp(ResponseData(self.stream_id, body), self.context.client)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)
        yield DropStream(self.stream_id)

    def _answer_now(self) -> Commands:
        if self._carrier is None or self._over:
            return
        if self.carrier.sent:
            yield from self._cancel_upstream()
        yield from (self._reset() if self.carrier.cut else self._answer())

    def _cancel_upstream(self) -> Commands:
        cancel = RequestProtocolError(self.stream_id, _CANCELLED, ErrorCode.CANCEL)
        yield SendHttp(cancel, self.context.server)

    def _reset(self) -> Commands:
        self._finish()
        cancel = ResponseProtocolError(self.stream_id, _CANCELLED, ErrorCode.CANCEL)
        yield SendHttp(cancel, self.context.client)
        yield DropStream(self.stream_id)

    def _client_left(self) -> CommandGenerator[bool]:
        """True when the client has reset the stream while a hook was running; the exchange has then been told."""
        left = next((event for event in self._paused_event_queue if isinstance(event, RequestProtocolError)), None)
        if left is None:
            return False
        yield from self._client_failed(left)
        return True

    def _client_failed(self, event: RequestProtocolError) -> Commands:
        if self._carrier is None or self._over:
            return
        if self.carrier.sent:
            yield SendHttp(event, self.context.server)
        self._finish()
        yield from self._tell(Aborted("client", "closed the stream", sent=self.carrier.sent))
        yield DropStream(self.stream_id)

    def _upstream_failed(self, error: Exception) -> Commands:
        if self._carrier is None or self._over:
            return
        if not self.carrier.started and isinstance(error, Aborted):
            detail = "The upstream closed the stream without an answer"
            error = Denied("upstream_unreachable", detail, sent=self.carrier.sent)
        if self.carrier.sent and self.context.server.connected:
            yield from self._cancel_upstream()
        self.server_state = self.state_errored
        yield from self._tell(error)
        yield from (self._answer() if self.carrier.answered else self._reset())

    def _tell(self, error: Exception) -> Commands:
        self.carrier.failure = error
        self.flow.error = mitmproxy_flow.Error(str(getattr(error, "code", _CANCELLED)))
        yield HttpErrorHook(self.flow)

    @property
    def _over(self) -> bool:
        return self.server_state in (self.state_errored, self.state_done)

    def _finish(self) -> None:
        self.flow.live = False
        self.client_state = self.server_state = self.state_errored


class H2Layer(HttpLayer):
    """All streams of one client connection, over connections that this client connection alone uses."""

    def __init__(self, context: Context, connection: "H2Connection") -> None:
        super().__init__(context, HTTPMode.transparent)
        self._connection = connection
        self.connections[context.client] = H2Server(context.fork())

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, AnswerNow):
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                yield from self.event_to_child(stream, event)
        elif isinstance(event, Farewell):
            yield from self.event_to_child(self.connections[self.context.client], event)
        elif isinstance(event, events.ConnectionEvent) and event.connection not in self.connections:
            return  # the last words of a connection that has been dropped
        else:
            yield from super()._handle_event(event)

    def make_stream(self, stream_id: int) -> Commands:
        self.streams[stream_id] = H2Stream(self.context.fork(), stream_id, self._connection)
        yield from self.event_to_child(self.streams[stream_id], events.Start())

    def get_connection(self, event: GetHttpConnection, *, reuse: bool = True) -> Commands:  # noqa: ARG002
        for server in [each for each in self.connections if isinstance(each, Server)]:
            if server in self.waiting_for_establishment and self._connection.may_use(server):
                self.waiting_for_establishment[server].append(event)
                return
            if server.connected and self._connection.may_use(server):
                yield from self._give(event, server)
                return
            if not server.connected and server not in self.waiting_for_establishment:
                del self.connections[server]
        context = self.context.fork()
        context.server = self._connection.new_server()
        client = H2Client(context)
        self.connections[context.server] = client
        self.waiting_for_establishment[context.server].append(event)
        yield from self.event_to_child(client, events.Start())

    def _give(self, event: GetHttpConnection, server: Connection) -> Commands:
        stream = self.command_sources.pop(event)
        yield from self.event_to_child(stream, GetHttpConnectionCompleted(event, (server, None)))
