"""The metrics listener: /metrics, /healthz (the supervisor lives), /readyz (traffic would be served). GET only."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

HEAD_LIMIT_BYTES: Final = 8 << 10
DEADLINE_S: Final = 5.0

type Page = tuple[int, str, bytes]
type Handler = Callable[[], Page]


def json_page(status: int, value: Mapping[str, Any]) -> Page:
    """A small JSON answer."""
    return status, "application/json", json.dumps(value).encode() + b"\n"


async def serve(listener: socket.socket, pages: Mapping[str, Handler]) -> asyncio.Server:
    """Answers `GET path` with `pages[path]()`, one request per connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(DEADLINE_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(_answer(head, pages))
                    await writer.drain()
        finally:
            writer.close()

    return await asyncio.start_server(handle, sock=listener, limit=HEAD_LIMIT_BYTES)


def _answer(head: bytes, pages: Mapping[str, Handler]) -> bytes:
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    method = parts[0]
    path = parts[1].partition(b"?")[0].decode("latin-1") if len(parts) == 3 else ""
    if method not in {b"GET", b"HEAD"}:
        page: Page = (405, "text/plain", b"only GET\n")
    elif path in pages:
        page = pages[path]()
    else:
        page = (404, "text/plain", (" ".join(sorted(pages)) + "\n").encode())
    status, kind, body = page
    reason = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}[status]
    fields = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return fields.encode() + b"Connection: close\r\n\r\n" + (b"" if method == b"HEAD" else body)
