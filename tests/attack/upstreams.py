"""Servers that write down every byte, before any parsing, and answer as the case says. Lenient on purpose.

Every port speaks TLS when the first byte is a TLS record, else plain bytes: whatever arrives is logged under the
address and port that were dialled. HTTP/2 is spoken where ALPN agreed on it.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

PORTS = (22, 25, 53, 80, 443, 853, 2525, 5353, 6379, 8080, 8443, 9443, 9999)
IDLE_S = 20.0
_KEY = re.compile(rb"^sec-websocket-key:[ \t]*([^\r\n]+)", re.IGNORECASE | re.MULTILINE)


@dataclass(eq=False)
class Accepted:
    """One connection: where it was dialled to, and every decrypted byte. `text` also holds h2 headers, readable."""

    ip: str
    port: int
    time_s: float = field(default_factory=time.monotonic)
    tls: bool = False
    sni: str | None = None
    alpn: str | None = None
    raw: bytearray = field(default_factory=bytearray)
    text: bytearray = field(default_factory=bytearray)
    requests: int = 0
    error: str = ""
    over: bool = False

    @property
    def all(self) -> bytes:
        """Everything by which a token could have got here."""
        return bytes(self.raw) + bytes(self.text) + (self.sni or "").encode()


type Script = Callable[["Accepted", bytes, socket.socket], None]
"""What to do once a request is complete: (connection, its bytes, the socket to answer on)."""


def http_ok(body: bytes = b"ok", extra: bytes = b"") -> bytes:
    """A plain 200."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), extra, body)


class Upstreams:
    """All servers of one namespace (or of loopback). `script` answers; `/legal` is always answered 200."""

    def __init__(self, context_of: Callable[[str], ssl.SSLContext | None]) -> None:
        self.accepted: list[Accepted] = []
        self.script: Script | None = None
        self.greeting: bytes = b""
        self.h2_headers: list[tuple[str, str]] = []
        self.h2_body: bytes | None = None
        self.h2_trailers: list[tuple[str, str]] = []
        self._context_of = context_of
        self._listeners: list[socket.socket] = []
        self._open: set[socket.socket] = set()

    def listen(self, addresses: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        """Binds (in the calling thread's namespace) and serves."""
        bound = []
        for host, port in addresses:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((host, port))
            listener.listen(512)
            self._listeners.append(listener)
            bound.append(listener.getsockname()[:2])
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return bound

    def close(self) -> None:
        """Stops all servers."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.drop()

    def drop(self) -> None:
        """Ends every open connection."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mark(self) -> None:
        """Forgets what has been seen: connections that are over, and the bytes of those that stay open."""
        self.accepted = [one for one in self.accepted if not one.over]
        for one in self.accepted:
            one.raw.clear()
            one.text.clear()
            one.requests, one.sni = 0, None

    def plain(self) -> None:
        """Back to answering 200."""
        self.script, self.greeting = None, b""
        self.h2_headers, self.h2_body, self.h2_trailers = [], None, []

    # -- one connection

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        name = sock.getsockname()
        accepted = Accepted(name[0], name[1])
        self.accepted.append(accepted)
        self._open.add(sock)
        stream = sock
        try:
            sock.settimeout(IDLE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.greeting and accepted.port in {22, 25, 2525}:
                sock.sendall(self.greeting)
            if sock.recv(1, socket.MSG_PEEK)[:1] == b"\x16":
                stream = self._handshake(sock, accepted)
            if accepted.alpn == "h2":
                self._speak_h2(stream, accepted)
            else:
                self._speak_h1(stream, accepted)
        except (OSError, ValueError, h2.exceptions.ProtocolError) as error:
            accepted.error = f"{type(error).__name__}: {error}"
        finally:
            accepted.over = True
            self._open -= {sock, stream}
            with contextlib.suppress(OSError):
                stream.close()

    def _handshake(self, sock: socket.socket, accepted: Accepted) -> socket.socket:
        context = self._context_of(accepted.ip)
        accepted.tls = True
        if context is None:
            accepted.raw += sock.recv(65536)
            return sock

        def note(_: Any, name: str | None, __: ssl.SSLContext) -> None:
            accepted.sni = name

        context.sni_callback = note
        stream = context.wrap_socket(sock, server_side=True)
        self._open.add(stream)
        accepted.alpn = stream.selected_alpn_protocol()
        return stream

    def _speak_h1(self, stream: socket.socket, accepted: Accepted) -> None:
        buffer = b""
        while True:
            data = stream.recv(1 << 16)
            if not data:
                return
            accepted.raw += data
            buffer += data
            while (end := request_end(buffer)) is not None:
                request, buffer = buffer[:end], buffer[end:]
                accepted.requests += 1
                self._answer(stream, accepted, request)

    def _answer(self, stream: socket.socket, accepted: Accepted, request: bytes) -> None:
        if b"/legal" in request.split(b"\n", 1)[0]:
            stream.sendall(http_ok(b"legal"))
        elif self.script is not None:
            self.script(accepted, request, stream)
        else:
            stream.sendall(http_ok())

    def _speak_h2(self, stream: socket.socket, accepted: Accepted) -> None:
        config = h2.config.H2Configuration(
            client_side=False, header_encoding="latin-1", validate_inbound_headers=False,
            validate_outbound_headers=False,
        )  # fmt: skip
        connection = h2.connection.H2Connection(config)
        connection.initiate_connection()
        stream.sendall(connection.data_to_send())
        paths: dict[int, str] = {}
        while data := stream.recv(1 << 16):
            accepted.raw += data
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived | h2.events.TrailersReceived):
                    pairs = [(str(name), str(value)) for name, value in event.headers or []]
                    accepted.text += "".join(f"{name}: {value}\n" for name, value in pairs).encode("latin-1", "replace")
                    if isinstance(event, h2.events.RequestReceived):
                        paths[event.stream_id or 0] = dict(pairs).get(":path", "")
                elif isinstance(event, h2.events.DataReceived):
                    accepted.text += event.data or b""
                    connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
                elif isinstance(event, h2.events.StreamEnded):
                    accepted.requests += 1
                    self._answer_h2(connection, event.stream_id or 0, paths.get(event.stream_id or 0, ""))
            stream.sendall(connection.data_to_send())

    def _answer_h2(self, connection: h2.connection.H2Connection, stream_id: int, path: str) -> None:
        body = b"legal" if path.startswith("/legal") else self.h2_body if self.h2_body is not None else b"ok"
        head = [(":status", "200"), *self.h2_headers]
        if not self.h2_trailers:
            head.append(("content-length", str(len(body))))
        connection.send_headers(stream_id, head)
        connection.send_data(stream_id, body, end_stream=not self.h2_trailers)
        if self.h2_trailers:
            connection.send_headers(stream_id, self.h2_trailers, end_stream=True)


def request_end(data: bytes) -> int | None:
    """Where the first request in `data` ends by a lenient reading, or None while it is incomplete."""
    if data[:3] == b"PRI":
        return len(data)
    found = re.search(rb"\r?\n\r?\n", data)
    if found is None:
        return None
    head, at = data[: found.start()].lower(), found.end()
    if re.search(rb"^transfer-encoding:[^\n]*chunked", head, re.MULTILINE):
        end = re.search(rb"(^|\n)0[^\n]*\n([^\n]+\n)*\r?\n", data[at:])
        return at + end.end() if end else None
    length = re.search(rb"^content-length:[ \t]*([0-9]+)[ \t\r]*$", head, re.MULTILINE)
    size = int(length[1]) if length else 0
    return at + size if len(data) >= at + size else None


# ---------------------------------------------------------------- scripts that cases name


def reply(pieces: list[bytes | float], *, close: bool) -> Script:
    """Sends the pieces; a number is a pause in seconds. Then closes, or goes on."""

    def script(_: Accepted, __: bytes, stream: socket.socket) -> None:
        for piece in pieces:
            if isinstance(piece, bytes):
                stream.sendall(piece)
            else:
                time.sleep(piece)
        if close:
            raise ConnectionAbortedError("as the script says")

    return script


def echo(_: Accepted, request: bytes, stream: socket.socket) -> None:
    """The request's body comes back."""
    head, _sep, body = request.partition(b"\r\n\r\n")
    kind = re.search(rb"^content-type:[^\r\n]*", head, re.IGNORECASE | re.MULTILINE)
    stream.sendall(http_ok(body, kind[0] + b"\r\n" if kind else b""))


def accept_key(request: bytes) -> bytes:
    """Sec-WebSocket-Accept for a handshake (RFC 6455 section 4.2.2)."""
    key = _KEY.search(request)
    joined = (key[1].strip() if key else b"") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1(joined, usedforsecurity=False).digest())


def websocket(accepted: Accepted, request: bytes, stream: socket.socket, *, extra: bytes = b"") -> None:
    """Accepts any handshake and reads frames for ever; unmasked payloads go to `text`."""
    stream.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept_key(request) + b"\r\n" + extra + b"\r\n"
    )  # fmt: skip
    buffer = b""
    while data := stream.recv(1 << 16):
        accepted.raw += data
        buffer += data
        while (taken := unmask(buffer)) is not None:
            opcode, payload, size = taken
            buffer = buffer[size:]
            accepted.text += payload
            if opcode in {1, 2}:
                stream.sendall(server_frame(opcode, b"got it"))
            elif opcode == 9:
                stream.sendall(server_frame(10, payload))
            elif opcode == 8:
                stream.sendall(server_frame(8, payload))
                return


def unmask(data: bytes) -> tuple[int, bytes, int] | None:
    """(opcode, payload, bytes used) of the first frame, or None while it is incomplete."""
    if len(data) < 2:
        return None
    size, at = data[1] & 127, 2
    if size >= 126:
        wide = 2 if size == 126 else 8
        size, at = int.from_bytes(data[2 : 2 + wide]), 2 + wide
    key = data[at : at + 4] if data[1] & 128 else b"\0\0\0\0"
    at += 4 if data[1] & 128 else 0
    if len(data) < at + size:
        return None
    return data[0] & 15, bytes(c ^ key[i % 4] for i, c in enumerate(data[at : at + size])), at + size


def server_frame(opcode: int, payload: bytes) -> bytes:
    """An unmasked frame."""
    size = len(payload)
    head = struct.pack("!BB", 0x80 | opcode, size) if size < 126 else struct.pack("!BBH", 0x80 | opcode, 126, size)
    return head + payload


def upgrade(protocol: bytes) -> Script:
    """101 to whatever protocol, then every byte is logged."""

    def script(accepted: Accepted, _: bytes, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n")
        while data := stream.recv(1 << 16):
            accepted.raw += data

    return script


def big(total: int) -> Script:
    """A long download."""

    def script(_: Accepted, __: bytes, stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        block = b"A" * (1 << 18)
        sent = 0
        while sent < total:
            part = block[: total - sent]
            stream.sendall(part)
            sent += len(part)

    return script


def chat(usage: Mapping[str, int] | None = None, model: str = "gpt-4o-mini") -> Script:
    """A look-alike of the OpenAI chat API: echoes the last message, streams when asked."""
    counted = dict(usage or {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15})

    def script(_: Accepted, request: bytes, stream: socket.socket) -> None:
        call = json.loads(request.partition(b"\r\n\r\n")[2])
        text = str(call["messages"][-1]["content"])
        base = {"id": "c1", "created": 1, "model": model}
        if not call.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = json.dumps({**base, "object": "chat.completion", "choices": [choice], "usage": counted}).encode()
            stream.sendall(http_ok(body, b"Content-Type: application/json\r\n"))
            return
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        words: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"content": word + " "}, "finish_reason": None}]}
            for word in text.split()
        ]
        words.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if (call.get("stream_options") or {}).get("include_usage"):
            words.append({"choices": [], "usage": counted})
        for word in words:
            _chunk(stream, b"data: " + json.dumps({**base, "object": "chat.completion.chunk", **word}).encode())
        _chunk(stream, b"data: [DONE]")
        stream.sendall(b"0\r\n\r\n")

    return script


def _chunk(stream: socket.socket, line: bytes) -> None:
    data = line + b"\n\n"
    stream.sendall(b"%x\r\n%s\r\n" % (len(data), data))
