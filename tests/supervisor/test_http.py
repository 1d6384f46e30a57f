"""The metrics listener speaks just enough HTTP, and nothing it is sent can hurt it."""

import asyncio
import socket

import pytest

from proxy.supervisor import http
from proxy.supervisor.sockets import bind_slots

PAGES: dict[str, http.Handler] = {
    "/page": lambda: (200, "text/plain", b"text"),
    "/readyz": lambda: http.json_page(503, {"ready": False}),
}


def _ask(raw: bytes) -> bytes:
    async def run() -> bytes:
        (listener,) = bind_slots("127.0.0.1:0", 1)
        port = listener.getsockname()[1]
        server = await http.serve(listener, PAGES)

        def client() -> bytes:
            with socket.create_connection(("127.0.0.1", port), 10) as peer:
                peer.sendall(raw)
                received = b""
                try:
                    while chunk := peer.recv(4096):
                        received += chunk
                except ConnectionResetError:
                    pass
                return received

        try:
            return await asyncio.to_thread(client)
        finally:
            server.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        (b"GET /page HTTP/1.1", 200, b"text"),
        (b"GET /page?x=1 HTTP/1.1", 200, b"text"),
        (b"HEAD /page HTTP/1.1", 200, b""),
        (b"GET /readyz HTTP/1.1", 503, b'{"ready": false}\n'),
        (b"GET /nothing HTTP/1.1", 404, b"/page /readyz\n"),
        (b"POST /page HTTP/1.1", 405, b"only GET\n"),
        (b"GET", 404, b"/page /readyz\n"),
        (b"\x16\x03\x01 \x00 \xff", 405, b"only GET\n"),
    ],
)
def test_answers(request_line: bytes, status: int, body: bytes) -> None:
    head, _, content = _ask(request_line + b"\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert content == body
    assert b"Connection: close" in head


def test_an_endless_head_is_cut_off() -> None:
    assert _ask(b"GET /page HTTP/1.1\r\nX: " + b"a" * (http.HEAD_LIMIT_BYTES * 4)) == b""
