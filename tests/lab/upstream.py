"""An upstream that records every byte it is sent and answers as a script says.

`raw` of a connection is what came out of TLS, before any parsing: the last word on what left the proxy.
"""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tests.lab.ca import LabCA

DEADLINE_S = 20.0

type Piece = bytes | Callable[[], object]
"""Bytes to send, or something to call between them (wait for an event, close the socket)."""
type Answer = Callable[["Received"], Iterable[Piece]]


@dataclass(eq=False)
class Connection:
    """One accepted connection. `sni` and `alpn` as the client sent them; `stream` for answers that read it."""

    peer: tuple[str, int]
    raw: bytearray = field(default_factory=bytearray)
    sni: str | None = None
    alpn: str | None = None
    tls_error: str = ""
    stream: socket.socket | None = None
    closed: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Received:
    """One request as parsed from the wire; header names and values exactly as sent."""

    method: str
    target: str
    version: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    connection: Connection
    trailers: tuple[tuple[bytes, bytes], ...] = ()

    def header(self, name: str) -> str | None:
        """First field of that name."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), None)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def reply(body: bytes | str = b"ok", *, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Answer:
    """A whole answer with its length."""
    content = body.encode() if isinstance(body, str) else body

    def answer(_: Received) -> Iterator[Piece]:
        yield _head(status, [*headers, ("Content-Length", str(len(content)))]) + content

    return answer


def reply_json(value: object, *, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Answer:
    """A JSON answer."""
    return reply(json.dumps(value), status=status, headers=[("Content-Type", "application/json"), *headers])


def echo(*, headers: Sequence[tuple[str, str]] = ()) -> Answer:
    """Answers with the body that was received."""
    return lambda received: reply(received.body, headers=headers)(received)


def chunked(
    parts: Iterable[Piece], *, headers: Sequence[tuple[str, str]] = (), trailers: Sequence[tuple[str, str]] = ()
) -> Answer:
    """A chunked answer, one chunk per part; callables among the parts run in between. Ends properly."""
    listed = list(parts)

    def answer(_: Received) -> Iterator[Piece]:
        yield _head(200, [*headers, ("Transfer-Encoding", "chunked")])
        for part in listed:
            yield part if callable(part) else b"%x\r\n%s\r\n" % (len(part), part)
        yield b"0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in trailers).encode() + b"\r\n"

    return answer


def sse(events: Iterable[Piece], *, headers: Sequence[tuple[str, str]] = ()) -> Answer:
    """Server-sent events: each bytes piece becomes `data: ...` and a blank line."""
    framed = (event if callable(event) else b"data: " + event + b"\n\n" for event in events)
    return chunked(framed, headers=[("Content-Type", "text/event-stream"), *headers])


def raw(*pieces: Piece) -> Answer:
    """Exactly these bytes, then the connection ends."""

    def answer(received: Received) -> Iterator[Piece]:
        yield from pieces
        yield lambda: (_ for _ in ()).throw(ConnectionAbortedError)

    return answer


class Upstream:
    """A threaded server on a free loopback port. `names` None: plain TCP. Use as a context manager.

    `answer` may be replaced between requests. `requests` and `connections` grow; `forget` empties them.
    """

    def __init__(
        self, ca: LabCA | None, *names: str, answer: Answer | None = None, host: str = "127.0.0.1",
        alpn: tuple[str, ...] = ("http/1.1",), context: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self.answer: Answer = answer or reply()
        self.requests: list[Received] = []
        self.connections: list[Connection] = []
        self.names = names
        self._raw = bytearray()
        self._changed = threading.Condition()
        self._context = context or (ca.server_context(*names, alpn=alpn) if ca is not None else None)
        if self._context is not None:
            self._context.sni_callback = self._note_sni
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server((host, 0), backlog=128)
        self.host, self.port = self._listener.getsockname()[:2]
        self._thread = threading.Thread(target=self._accept, name=f"upstream-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE_S)
        self.drop_connections()

    @property
    def tls(self) -> bool:
        """False for plain TCP."""
        return self._context is not None

    def drop_connections(self) -> None:
        """Resets every open connection."""
        for accepted in list(self._sockets):
            with contextlib.suppress(OSError):
                accepted.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Empties the record (connections that are open stay open, and are forgotten)."""
        with self._changed:
            self.requests.clear()
            self.connections.clear()
            self._raw.clear()

    @property
    def raw(self) -> bytes:
        """Every byte of every connection since `forget`, those of connections that are older too."""
        return bytes(self._raw)

    def wait_for_requests(self, count: int = 1) -> list[Received]:
        """Blocks until that many requests are complete."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, DEADLINE_S):
                raise TimeoutError(f"{len(self.requests)} of {count} requests came")
            return list(self.requests)

    # -- server side

    def _note_sni(self, tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        for connection in reversed(self.connections):
            if isinstance(tls, ssl.SSLSocket) and connection.peer == tls.getpeername()[:2]:
                connection.sni = name
                return

    def _accept(self) -> None:
        while True:
            try:
                accepted, peer = self._listener.accept()
            except OSError:
                return
            connection = Connection(peer[:2])
            with self._changed:
                self.connections.append(connection)
                self._changed.notify_all()
            threading.Thread(target=self._serve, args=(accepted, connection), daemon=True).start()

    def _serve(self, accepted: socket.socket, connection: Connection) -> None:
        stream: socket.socket = accepted
        self._sockets.add(accepted)
        try:
            if self._context is not None:
                accepted.settimeout(DEADLINE_S)
                stream = self._context.wrap_socket(accepted, server_side=True)
                self._sockets.add(stream)
                connection.alpn = stream.selected_alpn_protocol()
            stream.settimeout(None)
            connection.stream = stream
            self._talk(stream, connection)
        except ssl.SSLError as error:
            connection.tls_error = error.reason or str(error)
        except (OSError, ValueError):
            pass
        finally:
            self._sockets -= {accepted, stream}
            with contextlib.suppress(OSError):
                stream.close()
            connection.closed.set()
            with self._changed:
                self._changed.notify_all()

    def _talk(self, stream: socket.socket, connection: Connection) -> None:
        wire = _Wire(stream, connection, self._raw)
        while received := wire.request():
            with self._changed:
                self.requests.append(received)
                self._changed.notify_all()
            for piece in self.answer(received):
                if callable(piece):
                    piece()
                else:
                    stream.sendall(piece)
            if (received.header("connection") or "").lower() == "close":
                return


class _Wire:
    """Reads requests off one connection. Lenient: the proxy under test must be the strict one."""

    def __init__(self, stream: socket.socket, connection: Connection, everything: bytearray) -> None:
        self._stream = stream
        self._everything = everything
        self._connection = connection
        self._buffer = bytearray()

    def request(self) -> Received | None:
        """The next whole request, or None at the end of the connection."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        line, *rest = head[:-4].split(b"\r\n")
        method, target, version = line.decode("latin-1").split(" ", 2)
        headers = tuple(_field(row) for row in rest)
        fields = {name.lower(): value for name, value in headers}
        trailers: tuple[tuple[bytes, bytes], ...] = ()
        if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
            body, trailers = self._chunks()
        else:
            body = self._exactly(int(fields.get(b"content-length", b"0")))
        return Received(method, target, version, headers, body, self._connection, trailers)

    def _chunks(self) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
        body = bytearray()
        while size := int((self._until(b"\r\n") or b"0").split(b";")[0], 16):
            body += self._exactly(size)
            self._exactly(2)
        trailers = []
        while (row := self._until(b"\r\n")) not in {b"\r\n", None}:
            trailers.append(_field(row.rstrip(b"\r\n")))
        return bytes(body), tuple(trailers)

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            if not self._more():
                return None
        end = self._buffer.index(mark) + len(mark)
        return self._take(end)

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._more():
                raise ValueError("the connection ended inside a body")
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _more(self) -> bool:
        data = self._stream.recv(1 << 16)
        self._buffer += data
        self._connection.raw += data
        self._everything += data
        return bool(data)


def _field(row: bytes) -> tuple[bytes, bytes]:
    name, _, value = row.partition(b":")
    return name, value.strip()


def _head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status} Scripted\r\n{fields}\r\n".encode()
