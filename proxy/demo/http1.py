"""A small, strict HTTP/1.1 server on asyncio streams: keep-alive, Content-Length and chunked, nothing else."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

_HEAD_LIMIT_BYTES = 64 << 10
_BODY_LIMIT_BYTES = 32 << 20
_IDLE_S = 60
_TOKEN_CHARS = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 413: "Content Too Large"}


class BadRequest(Exception):
    """The request is not HTTP that this server speaks."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `raw` is the head as received; field names are lower case in `fields`."""

    method: str
    target: str
    fields: Mapping[str, str]
    body: bytes
    raw: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. With `parts` it is streamed, chunk by chunk; otherwise `body` goes out whole."""

    body: bytes = b""
    media_type: str = "application/json"
    status: int = 200
    parts: Iterable[bytes] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


type Handler = Callable[[Request], Answer]


class Listener:
    """A listening server that can end its open connections (asyncio.Server can only from Python 3.13 on)."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Listens, and returns the port; 0 takes a free one."""
        self._server = await asyncio.start_server(self._connected, host, port, ssl=context, limit=_HEAD_LIMIT_BYTES)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def aclose(self) -> None:
        """Stops listening and ends open connections."""
        if self._server is not None:
            self._server.close()
            for writer in self._writers:
                writer.transport.abort()
            await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError, ssl.SSLError):
                await _converse(self._handler, reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()
        with contextlib.suppress(OSError, TimeoutError, ssl.SSLError):
            await writer.wait_closed()


async def _converse(handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            async with asyncio.timeout(_IDLE_S):
                request = await _read(reader, writer)
        except (BadRequest, asyncio.LimitOverrunError) as error:
            writer.write(_head(Answer(status=400), len(str(error)), close=True) + str(error).encode())
            await writer.drain()
            return
        if request is None:
            return
        close = request.fields.get("connection", "").lower() == "close"
        await _send(handler(request), writer, close=close, bodiless=request.method == "HEAD")
        if close:
            return


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise BadRequest("the request head is cut short") from None
        return None
    first, *lines = raw[:-4].split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or parts[2] != b"HTTP/1.1" or not parts[1].startswith(b"/"):
        raise BadRequest("the request line is not `METHOD /target HTTP/1.1`")
    fields = _fields(lines)
    if fields.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await _body(reader, fields)
    return Request(parts[0].decode("ascii", "replace"), parts[1].decode("latin-1"), fields, body, raw)


def _fields(lines: list[bytes]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or not _TOKEN_CHARS.issuperset(name):
            raise BadRequest("a header field is malformed")
        key = name.decode("ascii").lower()
        if key in fields and key in {"content-length", "transfer-encoding", "host"}:
            raise BadRequest(f"the field {key} stands twice")
        fields[key] = value.strip(b" \t").decode("latin-1")
    if "host" not in fields:
        raise BadRequest("the Host field is missing")
    return fields


async def _body(reader: asyncio.StreamReader, fields: Mapping[str, str]) -> bytes:
    coding, length = fields.get("transfer-encoding"), fields.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise BadRequest("the body's framing is ambiguous")
        return await _chunked(reader)
    if length is None:
        return b""
    if not (length.isascii() and length.isdigit()) or int(length) > _BODY_LIMIT_BYTES:
        raise BadRequest("Content-Length is not a number within the limit")
    return await reader.readexactly(int(length))


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        line = (await reader.readuntil(b"\r\n")).partition(b";")[0].strip()
        try:
            size = int(line, 16)
        except ValueError:
            raise BadRequest("a chunk has no size") from None
        if size < 0 or len(body) + size > _BODY_LIMIT_BYTES:
            raise BadRequest("the chunks exceed the limit")
        if size == 0:
            break
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise BadRequest("a chunk does not end where it should")
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return bytes(body)


async def _send(answer: Answer, writer: asyncio.StreamWriter, *, close: bool, bodiless: bool) -> None:
    if answer.parts is None:
        writer.write(_head(answer, len(answer.body), close=close) + (b"" if bodiless else answer.body))
        await writer.drain()
        return
    writer.write(_head(answer, None, close=close))
    for part in answer.parts:
        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def _head(answer: Answer, length: int | None, *, close: bool) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [
        f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}",
        f"Content-Type: {answer.media_type}",
        framing,
        *(f"{name}: {value}" for name, value in answer.fields.items()),
        *(["Connection: close"] if close else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
