"""Clients that send one inference call over one path, and may go at any moment: sockets in the test's own hands."""

import json
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

import h2.config
import h2.connection
import h2.events

from tests.full_stack.plane import CALL, Bench

DEADLINE_S = 15.0


class Leaver(Protocol):
    """`stream`: ask for one. Reading returns what came so far once `wanted` is in it, or at the end."""

    def read_until(self, wanted: bytes) -> bytes: ...

    def leave(self) -> None: ...


def _tunnel(bench: Bench, name: str, port: int) -> socket.socket:
    sock = socket.create_connection(bench.listener.getsockname(), DEADLINE_S)
    sock.sendall(f"CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n\r\n".encode())
    received = b""
    while b"\r\n\r\n" not in received:
        received += sock.recv(1)
    assert b" 200 " in received
    return sock


def _body(*, stream: bool) -> bytes:
    return json.dumps({**CALL, "stream": stream}).encode()


def request_bytes(url: str, host: str, *, stream: bool = False, version: str = "1.1", connection: str = "") -> bytes:
    """One call. `url`: the request target up to the path."""
    body = _body(stream=stream)
    return (
        f"POST {url}/v1/chat/completions HTTP/{version}\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"{connection}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


class Bare:
    """HTTP/1.1 without TLS, in absolute form."""

    def __init__(
        self, bench: Bench, *, stream: bool = False, version: str = "1.1", times: int = 1, stray: bytes = b""
    ) -> None:
        host = f"plain.lab.test:{bench.plain.port}"
        self.sock = socket.create_connection(bench.listener.getsockname(), DEADLINE_S)
        self.sock.sendall(request_bytes(f"http://{host}", host, stream=stream, version=version) * times + stray)

    def read_until(self, wanted: bytes) -> bytes:
        received = b""
        while wanted not in received and (data := self.sock.recv(1 << 16)):
            received += data
        return received

    def half_close(self) -> None:
        """Nothing more to say, but all ears."""
        self.sock.shutdown(socket.SHUT_WR)

    def leave(self) -> None:
        self.sock.close()


class Tls:
    """HTTP/1.1 in TLS, through CONNECT. `goodbye`: says close_notify before it goes."""

    def __init__(self, bench: Bench, *, stream: bool = False, goodbye: bool = False) -> None:
        self._goodbye = goodbye
        sock = _tunnel(bench, "api.lab.test", bench.api.port)
        trust = ssl.create_default_context(cadata=bench.trust)
        self._sock = trust.wrap_socket(sock, server_hostname="api.lab.test")
        self._sock.sendall(request_bytes("", f"api.lab.test:{bench.api.port}", stream=stream))

    def read_until(self, wanted: bytes) -> bytes:
        received = b""
        while wanted not in received and (data := self._sock.recv(1 << 16)):
            received += data
        return received

    def leave(self) -> None:
        if self._goodbye:
            self._sock.setblocking(False)  # the answer to our goodbye is not waited for
            try:
                self._sock.unwrap()
            except ssl.SSLWantReadError:
                pass
        self._sock.close()


class Http2:
    """One stream. It leaves by RST_STREAM(CANCEL), or with the whole connection."""

    def __init__(self, bench: Bench, *, stream: bool = False, whole: bool = False) -> None:
        self._whole = whole
        sock = _tunnel(bench, "h2.lab.test", bench.h2.port)
        trust = ssl.create_default_context(cadata=bench.trust)
        trust.set_alpn_protocols(["h2"])
        self._sock = trust.wrap_socket(sock, server_hostname="h2.lab.test")
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.initiate_connection()
        body = _body(stream=stream)
        head = {":method": "POST", ":scheme": "https", ":authority": f"h2.lab.test:{bench.h2.port}"}
        head |= {":path": "/v1/chat/completions", "content-type": "application/json", "content-length": str(len(body))}
        self._h2.send_headers(1, list(head.items()))
        self._h2.send_data(1, body, end_stream=True)
        self._sock.sendall(self._h2.data_to_send())

    def read_until(self, wanted: bytes) -> bytes:
        received, over = b"", False
        while wanted not in received and not over and (data := self._sock.recv(1 << 16)):
            for event in self._h2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    received += " ".join(value for name, value in event.headers if name == ":status").encode()
                elif isinstance(event, h2.events.DataReceived):
                    received += event.data
                over = over or isinstance(event, h2.events.StreamEnded | h2.events.StreamReset)
            self._sock.sendall(self._h2.data_to_send())
        return received

    def leave(self) -> None:
        if self._whole:
            self._sock.close()
            return
        self._h2.reset_stream(1, 8)
        self._sock.sendall(self._h2.data_to_send())


type Path = Callable[..., Leaver]
PATHS: dict[str, Path] = {
    "plain": Bare,
    "plain with a stray byte": lambda bench, **options: Bare(bench, stray=b"\r", **options),
    "tls": Tls,
    "tls with goodbye": lambda bench, **options: Tls(bench, goodbye=True, **options),
    "h2 reset": Http2,
    "h2 connection": lambda bench, **options: Http2(bench, whole=True, **options),
}
