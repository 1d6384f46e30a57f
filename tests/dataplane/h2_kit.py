"""Small HTTP/2 peers over real sockets, and a runtime line that a test writes itself."""

import asyncio
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h2.config
import h2.connection
import h2.events

from proxy.config.snapshot import DlpPolicy, Entry, Limits
from proxy.dataplane.bodies_held import BodiesHeld
from proxy.dataplane.channel import Channel
from proxy.dataplane.h2 import serve_h2
from proxy.dataplane.master import build_master
from proxy.dataplane.room import Room
from proxy.dataplane.upstream import UpstreamPool
from proxy.errors import Denied
from proxy.keys.authority import CertificateAuthority, new_authority
from proxy.keys.leaf import LeafStore, server_context
from proxy.model import Authority, Principal, RequestHead, Response, ResponseHead
from proxy.net.dial import OwnAddresses
from proxy.net.resolver import Resolver

LOOPBACK = (ip_network("127.0.0.0/8"),)


@dataclass
class Seen:
    """One message as a peer received it."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[bytes, bytes]] | None = None
    ended: bool = False
    reset: int | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def get(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def status(self) -> int:
        return int(self.get(b":status") or 0)

    async def until(self, condition: Callable[["Seen"], bool]) -> "Seen":
        async with asyncio.timeout(10):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()
        return self

    async def done(self) -> "Seen":
        return await self.until(lambda seen: seen.ended or seen.reset is not None)


class Peer:
    """One end of an HTTP/2 connection. `terminated`: the error code of a GOAWAY, or -1 at the end of the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool) -> None:
        self.reader, self.writer = reader, writer
        config = h2.config.H2Configuration(client_side=client, header_encoding=None, validate_outbound_headers=False)
        config.normalize_outbound_headers = False
        self.h2 = h2.connection.H2Connection(config)
        self.streams: dict[int, Seen] = {}
        self.terminated: int | None = None
        self.over = asyncio.Event()
        self.acknowledge = True
        self.on_request: Callable[[Peer, int, Seen], Awaitable[None]] | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.news: asyncio.Event | None = None
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def open(
        self, headers: list[tuple[bytes, bytes]], body: bytes = b"", *, end: bool = True, trailers: Any = None
    ) -> tuple[int, Seen]:
        stream_id = self.h2.get_next_available_stream_id()
        seen = self.streams[stream_id] = Seen()
        self.h2.send_headers(stream_id, headers, end_stream=end and not body and not trailers)
        if body:
            self.h2.send_data(stream_id, body, end_stream=end and not trailers)
        if trailers:
            self.h2.send_headers(stream_id, trailers, end_stream=True)
        self.flush()
        return stream_id, seen

    def send(self, stream_id: int, headers: Any = None, body: bytes | None = None, *, end: bool = False) -> None:
        if headers is not None:
            self.h2.send_headers(stream_id, headers, end_stream=end and body is None)
        if body is not None:
            self.h2.send_data(stream_id, body, end_stream=end)
        self.flush()

    def reset(self, stream_id: int) -> None:
        self.h2.reset_stream(stream_id, 8)
        self.flush()

    async def run(self) -> None:
        try:
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._take(event)
                self.flush()
        except (OSError, h2.exceptions.ProtocolError):
            pass
        self.terminated = -1 if self.terminated is None else self.terminated
        for seen in self.streams.values():
            if not seen.ended and seen.reset is None:
                seen.reset = -1
            seen.changed.set()
        self.over.set()

    def _take(self, event: Any) -> None:
        match event:
            case h2.events.RequestReceived() | h2.events.ResponseReceived():
                seen = self.streams.setdefault(event.stream_id, Seen())
                seen.headers = list(event.headers)
                if isinstance(event, h2.events.RequestReceived) and self.on_request is not None:
                    task = asyncio.ensure_future(self.on_request(self, event.stream_id, seen))
                    self.tasks.add(task)  # type: ignore[arg-type]
            case h2.events.DataReceived():
                self.streams[event.stream_id].body += event.data
                if self.acknowledge and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                self.streams[event.stream_id].trailers = list(event.headers)
            case h2.events.StreamEnded():
                self.streams[event.stream_id].ended = True
            case h2.events.StreamReset():
                self.streams[event.stream_id].reset = int(event.error_code)
            case h2.events.ConnectionTerminated():
                self.terminated = int(event.error_code)
        if self.news is not None:
            self.news.set()
        if getattr(event, "stream_id", None) in self.streams:
            self.streams[event.stream_id].changed.set()


class PassTap:
    """An AnswerTap that changes nothing."""

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


type Line = Callable[[RequestHead, Any], Awaitable[None]]


class LineRuntime:
    """Runs a test's own line in place of the exchange, and counts how each request ended."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.ends: list[str] = []
        self.heads: list[RequestHead] = []
        self.context_error: Exception | None = None
        self.news = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for something that an exchange or an upstream stream does."""
        async with asyncio.timeout(10):
            while not condition():
                self.news.clear()
                await self.news.wait()

    def context(self, *_: Any) -> Any:
        if self.context_error is not None:
            raise self.context_error
        trail = SimpleNamespace(target=lambda authority: None)
        return SimpleNamespace(id="d-1", trail=trail, app=None, started_s=0.0, snapshot=SimpleNamespace(revision="r"))

    def refused(self, context: Any, denied: Denied) -> None:
        self.ends.append(denied.code)

    def refuse(self, denied: Denied, **_: Any) -> str:
        self.ends.append(denied.code)
        return "d-2"

    async def run(self, context: Any, head: RequestHead, carrier: Any) -> None:
        self.heads.append(head)
        self.news.set()
        end = "returned"
        try:
            await self.line(head, carrier)
        except BaseException as error:
            end = getattr(error, "code", None) or ":".join([type(error).__name__, *map(str, error.args[:1])])
            raise
        finally:
            self.ends.append(end)
            self.news.set()


def answer(status: int, body: bytes) -> Response:
    return Response(ResponseHead(status, "", ((b"Content-Type", b"text/plain"),)), body)


@dataclass
class Lab:
    """An upstream that `serve` scripts, the proxy's h2 path before it, and a client."""

    client: Peer
    runtime: LineRuntime
    upstream_peers: list[Peer]
    entry: Entry
    master: Any
    bodies: BodiesHeld
    authority: bytes
    watcher: Any
    channels: list[Channel]

    def request(self, path: bytes = b"/", method: bytes = b"POST", **changes: bytes) -> list[tuple[bytes, bytes]]:
        head = {b":method": method, b":scheme": b"https", b":authority": self.authority, b":path": path}
        head.update({b":" + name.encode(): value for name, value in changes.items()})
        return list(head.items())

    @property
    def arrived(self) -> list[Seen]:
        return [seen for peer in self.upstream_peers for seen in peer.streams.values()]


def entry_for(port: int, roots: str) -> Entry:
    return Entry(
        rule_id="up", host="up.test", wildcard=False, scheme="https", ports=frozenset({port}), methods=None, paths=None,
        models=None, tiers=None, protocols=frozenset({"h2"}), passthrough=False, credentials=None, addresses=LOOPBACK,
        upstream_ca=roots, dlp=DlpPolicy("balanced", (), "redact"), cache=None, limits=Limits(), expires_at_s=None,
    )  # fmt: skip


@asynccontextmanager
async def lab(  # type: ignore[no-untyped-def]
    line: Line,
    serve: Callable[[Peer, int, Seen], Awaitable[None]],
    *,
    upstream_alpn: str = "h2",
    trusted: bool = True,
    held_bytes: int = 1 << 20,
    identify: Callable[[], Principal] = lambda: Principal("app", "network", "127.0.0.1"),
):
    now_s = time.time()
    ours, theirs = new_authority(now_s, now_s), new_authority(now_s, now_s)
    upstream_peers: list[Peer] = []

    async def accept_upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, client=False)
        peer.on_request, peer.news = serve, runtime.news
        upstream_peers.append(peer)
        await peer.run()
        writer.close()

    runtime = LineRuntime(line)
    their_leaves = LeafStore(CertificateAuthority(Path(tempfile.gettempdir()), (theirs,)))
    upstream_tls = server_context(their_leaves.leaf_pem("up.test"))
    upstream_tls.set_alpn_protocols([upstream_alpn])
    upstream = await asyncio.start_server(accept_upstream, "127.0.0.1", 0, ssl=upstream_tls)
    port = upstream.sockets[0].getsockname()[1]
    entry = entry_for(port, (theirs if trusted else ours).pem().decode())
    services = SimpleNamespace(
        leaf_store=LeafStore(CertificateAuthority(Path(tempfile.gettempdir()), (ours,))),
        watcher=SimpleNamespace(revoked=frozenset(), kills={}),
        limiter=SimpleNamespace(admit_request=lambda app, now: None),
    )
    resolver = Resolver(static={"up.test": ["127.0.0.1"]})
    bodies = BodiesHeld(held_bytes)
    server: Any = SimpleNamespace(
        services=services, runtime=runtime, pool=UpstreamPool(resolver, OwnAddresses()), bodies=bodies,
        room=Room(),
    )  # fmt: skip
    master = build_master(confdir=Path("/nonexistent"))
    serving: list[asyncio.Task[None]] = []
    channels: list[Channel] = []

    class Accepted(Channel):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            authority = Authority("https", "up.test", port)
            channels.append(self)
            serving.append(asyncio.ensure_future(serve_h2(server, self, identify, "explicit", entry, authority)))

    proxy = await asyncio.get_running_loop().create_server(lambda: Accepted("client"), "127.0.0.1", 0)
    client_tls = ssl.create_default_context(cadata=ours.pem().decode())
    client_tls.set_alpn_protocols(["h2", "http/1.1"])
    proxy_port = proxy.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy_port, ssl=client_tls, server_hostname="up.test")
    client = Peer(reader, writer, client=True)
    running = asyncio.ensure_future(client.run())
    try:
        yield Lab(
            client, runtime, upstream_peers, entry, master, bodies, b"up.test:%d" % port, services.watcher, channels
        )
    finally:
        writer.close()
        await asyncio.wait([running, *serving], timeout=10)
        proxy.close()
        upstream.close()
        for peer in upstream_peers:
            peer.writer.close()
        resolver.close()
        assert master.crashes.count == 0, "mitmproxy has crashed inside"
        assert all(task.done() for task in serving)
        assert bodies.held_bytes == 0
