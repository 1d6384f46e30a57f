"""mitmproxy's two ends of HTTP/2, with bounds on what the peer's settings make us keep, and a goodbye of our own."""

from dataclasses import dataclass
from typing import Any, Final

from h2.errors import ErrorCodes
from hpack import Encoder
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import HttpClient, RegisterHttpConnection
from mitmproxy.proxy.layers.http._http2 import Http2Client, Http2Server

from proxy.dataplane.h2_frames import CLIENT_FRAME_BYTES

type Commands = CommandGenerator[None]

# RFC 7541 section 4.2: the peer's number is what it can keep, not what we must. hpack searches the table in a row, so
# the table of 4 GiB that a peer may offer would cost memory and time with every field that we send.
MAX_TABLE_BYTES: Final = 4096


class BoundedEncoder(Encoder):
    """Keeps at most `MAX_TABLE_BYTES` of fields, whatever the peer's SETTINGS_HEADER_TABLE_SIZE."""

    @property
    def header_table_size(self) -> int:
        """In bytes as RFC 7541 section 4.1 counts them."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        bounded = min(value, MAX_TABLE_BYTES)
        self.header_table.maxsize = bounded
        if self.header_table.resized:
            self.table_size_changes.append(bounded)


@dataclass
class Farewell(events.Event):
    """The client connection is given up: GOAWAY with `error` and these words, then the end."""

    error: ErrorCodes
    words: str


class H2Server(Http2Server):
    """The end that faces the client."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        connection = self.h2_conn
        connection.encoder = BoundedEncoder()
        connection.local_settings.max_frame_size = connection.max_inbound_frame_size = CLIENT_FRAME_BYTES
        connection.local_settings.acknowledge()

    def _handle_event(self, event: events.Event) -> Commands:
        if isinstance(event, Farewell):
            yield from self.protocol_error(event.words, event.error)
        else:
            yield from super()._handle_event(event)


class H2Client(HttpClient):
    """The end that faces the upstream: dials, then speaks HTTP/2 alone."""

    def _handle_event(self, event: events.Event) -> Commands:
        failed: str | None = yield commands.OpenConnection(self.context.server)
        if not failed:
            self.child_layer = end = Http2Client(self.context)
            end.h2_conn.encoder = BoundedEncoder()
            handle: Any = end.handle_event
            self._handle_event = handle  # type: ignore[method-assign]  # as mitmproxy's own does once it is connected
            yield from end.handle_event(event)
        yield RegisterHttpConnection(self.context.server, failed)
