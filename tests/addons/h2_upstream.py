"""An HTTP/2 upstream for the test lab, in a thread of its own; used by policy entries as `tests.lab.Upstream` is."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Self

from tests.dataplane.h2_kit import Peer, Seen
from tests.lab.ca import LabCA

type Serve = Callable[[Peer, int, Seen], Awaitable[None]]


async def echo(peer: Peer, stream_id: int, seen: Seen) -> None:
    """Answers with the request's body."""
    await seen.done()
    peer.send(stream_id, [(b":status", b"200"), (b"content-type", b"application/json")])
    peer.send(stream_id, None, bytes(seen.body), end=True)


class H2Upstream:
    """`serve` may be replaced between requests. `arrived`: every stream that came, since `forget`."""

    tls = True

    def __init__(self, ca: LabCA, *names: str, alpn: tuple[str, ...] = ("h2",)) -> None:
        self.names = names
        self.serve: Serve = echo
        self.arrived: list[Seen] = []
        self.connections = 0
        self.host, self.port = "127.0.0.1", 0
        self._context = ca.server_context(*names, alpn=alpn)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._server: Any = None

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10):
            raise TimeoutError("the HTTP/2 upstream did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def forget(self) -> None:
        """Empties the record."""
        self.arrived.clear()
        self.connections = 0
        self.serve = echo

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, self.host, 0, ssl=self._context)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        peer = Peer(reader, writer, client=False)
        peer.on_request = self._serve
        await peer.run()
        writer.close()

    async def _serve(self, peer: Peer, stream_id: int, seen: Seen) -> None:
        self.arrived.append(seen)
        await self.serve(peer, stream_id, seen)
