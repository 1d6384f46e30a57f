"""The attacker's side of a run: one connection, bytes as the case says, and what came back.

HTTP answers are read leniently; a TLS alert, a reset and an end of the connection are all `close`.
"""

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from tests.attack.wire import Run, build

CLOSE = "close"
GRACE_S = 4.0


@dataclass
class Answer:
    """One final answer. `status` 0: the connection (or h2 stream) ended instead."""

    status: int
    head: bytes = b""
    body: bytes = b""
    whole: bool = True
    at_s: float = 0.0


@dataclass
class Observed:
    """What the client saw. `at_s` of answers counts from the last byte sent before it."""

    answers: list[Answer] = field(default_factory=list)
    received: bytearray = field(default_factory=bytearray)
    closed: bool = False
    tunnel_status: int = 0
    tls_error: str = ""
    error: str = ""

    def add(self, status: int, since_s: float, head: bytes = b"", body: bytes = b"", *, whole: bool = True) -> None:
        self.answers.append(Answer(status, head, body, whole, time.monotonic() - since_s))


class Pipe:
    """A socket with a buffer."""

    def __init__(self, sock: socket.socket, observed: Observed) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.observed = observed
        self.ended = False

    def send(self, data: bytes) -> None:
        """Sends; a peer that has closed already is no error of ours."""
        try:
            self.sock.settimeout(15)
            self.sock.sendall(data)
        except (OSError, ssl.SSLError) as error:
            self.observed.error = str(error)

    def more(self, deadline_s: float) -> bool:
        """Reads once; False at the end of the connection. TimeoutError."""
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self.sock.settimeout(left_s)
        try:
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            raise
        except (OSError, ssl.SSLError) as error:
            self.observed.tls_error = str(error)
            data = b""
        if not data:
            self.ended = self.observed.closed = True
            return False
        self.buffer += data
        self.observed.received += data
        return True

    def answer(self, since_s: float, deadline_s: float, *, head_only: bool = False) -> bool:
        """Reads one final answer into `observed`; False when the connection ended instead. TimeoutError."""
        while True:
            head = self._head(deadline_s)
            if head is None:
                self.observed.add(0, since_s)
                return False
            found = re.match(rb"HTTP/1\.[01] (\d{3})", head)
            status = int(found[1]) if found else -1
            if 100 <= status < 200 and status != 101:
                continue
            body, whole = self._body(head, status, deadline_s) if not head_only and status != 101 else (b"", True)
            self.observed.add(status, since_s, head, body, whole=whole)
            return True

    def _head(self, deadline_s: float) -> bytes | None:
        while b"\r\n\r\n" not in self.buffer:
            if not self.more(deadline_s):
                return None
        end = self.buffer.index(b"\r\n\r\n") + 4
        return self.take(end)

    def take(self, size: int) -> bytes:
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        return taken

    def _body(self, head: bytes, status: int, deadline_s: float) -> tuple[bytes, bool]:
        lowered = head.lower()
        if status in {204, 304}:
            return b"", True
        if b"transfer-encoding: chunked" in lowered:
            return self._chunks(deadline_s)
        length = re.search(rb"\r\ncontent-length: *(\d+)", lowered)
        if length is None:
            while self.more(deadline_s):
                pass
            return self.take(len(self.buffer)), True
        wanted = int(length[1])
        while len(self.buffer) < wanted:
            if not self.more(deadline_s):
                return self.take(len(self.buffer)), False
        return self.take(wanted), True

    def _chunks(self, deadline_s: float) -> tuple[bytes, bool]:
        body = bytearray()
        while True:
            line = self._line(deadline_s)
            if line is None:
                return bytes(body), False
            size = int(line.split(b";")[0].strip() or b"0", 16)
            if size == 0:
                while (row := self._line(deadline_s)) not in {b"\r\n", None}:
                    continue
                return bytes(body), row is not None
            while len(self.buffer) < size + 2:
                if not self.more(deadline_s):
                    return bytes(body), False
            body += self.take(size + 2)[:size]

    def _line(self, deadline_s: float) -> bytes | None:
        while b"\r\n" not in self.buffer:
            if not self.more(deadline_s):
                return None
        return self.take(self.buffer.index(b"\r\n") + 2)


@dataclass(frozen=True)
class Gate:
    """How the client gets to the proxy. `dial(address, source)`; `proxy`: the explicit listener; `trust`: our CA."""

    dial: Callable[[tuple[str, int], str | None], socket.socket]
    proxy: tuple[str, int]
    trust: Callable[[], ssl.SSLContext]
    values: Mapping[str, Any]


def attack(run: Run, gate: Gate, on_step: Callable[[Mapping[str, Any]], None]) -> Observed:
    """Carries the run out. `on_step` gets the steps that are not the client's (dns, policy, ...)."""
    observed = Observed()
    values = {**gate.values, **run.values}
    spec = run.spec
    pipe: Pipe | None = None
    try:
        opened = connected(run, gate, values, observed)
        if opened is None:
            return observed
        pipe = opened
        if run.mode.endswith("h2") and spec.get("tls") is not False:
            _speak_h2(run, pipe, values, observed)
            return observed
        steps = spec.get("steps") or [{"send": spec.get("send", "")}, {"answers": 1}]
        _steps(steps, pipe, values, observed, on_step, float(run.want.get("within_s", 1.0)) + GRACE_S)
        if run.want.get("closed") and not run.secure and not observed.closed:
            with contextlib.suppress(TimeoutError):
                while pipe.more(time.monotonic() + 1.0):
                    pass
    except TimeoutError:
        observed.error = "nothing came in time"
    except (OSError, ssl.SSLError, h2.exceptions.ProtocolError) as error:
        observed.error = observed.error or f"{type(error).__name__}: {error}"
    finally:
        if pipe is not None:
            pipe.sock.close()
    return observed


def connected(run: Run, gate: Gate, values: Mapping[str, Any], observed: Observed) -> Pipe | None:
    """The run's connection through the proxy, tunnel and TLS included; None when it was refused on the way."""
    spec = run.spec
    source = spec.get("from")
    secure = run.mode not in {"explicit", "connect-plain", "transparent"}
    if run.mode.startswith("transparent"):
        to = spec.get("to", "${AIP}")
        port = int(spec.get("port", 443 if secure else 80))
        pipe = Pipe(gate.dial((build(to, values).decode(), port), source), observed)
    else:
        pipe = Pipe(gate.dial(gate.proxy, source), observed)
        if run.mode != "explicit":
            target = build(spec.get("connect", "${AC}" if secure else "${APC}"), values)
            credential = build(spec.get("values", {}).get("AUTHORIZATION", ""), values)
            since_s = time.monotonic()
            head = b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (target, target, credential)
            pipe.send(head + build(spec.get("early", ""), values))
            if not pipe.answer(since_s, since_s + GRACE_S + 1, head_only=True):
                return None
            observed.tunnel_status = observed.answers[-1].status
            if observed.tunnel_status != 200:
                return None
            observed.answers.clear()
    if secure and spec.get("tls") is not False:
        return _handshake(run, pipe, gate, values, observed)
    return pipe


def _handshake(run: Run, pipe: Pipe, gate: Gate, values: Mapping[str, Any], observed: Observed) -> Pipe | None:
    spec = run.spec
    context = gate.trust()
    context.check_hostname = False
    options = spec.get("client_tls", {})
    if "max" in options:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = getattr(ssl.TLSVersion, options["max"])
    if "ciphers" in options:
        context.set_ciphers(options["ciphers"])
    alpn = spec.get("alpn", ["h2"] if run.mode.endswith("h2") else [])
    if alpn:
        context.set_alpn_protocols(alpn)
    sni = spec.get("sni", "${AN}")
    name = build(sni, values).decode("latin-1") if sni is not None else None
    since_s = time.monotonic()
    pipe.sock.settimeout(GRACE_S + 1)
    try:
        wrapped = context.wrap_socket(pipe.sock, server_hostname=name)
    except (OSError, ssl.SSLError, ValueError) as error:
        observed.tls_error = str(error)
        if isinstance(error, TimeoutError):
            raise
        observed.closed = True
        observed.add(0, since_s)
        return None
    return Pipe(wrapped, observed)


def _steps(  # noqa: C901 - one arm per step
    steps: list[Any], pipe: Pipe, values: Mapping[str, Any], observed: Observed,
    on_step: Callable[[Mapping[str, Any]], None], patience_s: float,
) -> None:  # fmt: skip
    since_s = time.monotonic()
    for step in steps:
        [(verb, operand)] = step.items()
        if verb == "send":
            pipe.send(build(operand, values))
            since_s = time.monotonic()
        elif verb == "trickle":
            for byte in build(operand, values):
                pipe.send(bytes([byte]))
            since_s = time.monotonic()
        elif verb == "answers":
            for _ in range(int(operand)):
                if not pipe.answer(since_s, time.monotonic() + patience_s):
                    return
        elif verb == "heads":
            if not pipe.answer(since_s, time.monotonic() + patience_s, head_only=True):
                return
        elif verb == "drain":
            while pipe.more(time.monotonic() + patience_s):
                pass
            observed.add(0, since_s)
        elif verb == "pause_s":
            time.sleep(float(operand))
        elif verb == "shut":
            pipe.sock.shutdown(socket.SHUT_WR)
        else:
            on_step(step)


# ---------------------------------------------------------------- HTTP/2

_DROP = {b"host", b"connection", b"transfer-encoding", b"keep-alive", b"proxy-connection", b"upgrade"}


def as_h2(request: bytes, authority: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """An HTTP/1.1 request said in HTTP/2: the same fields, the body unframed."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *rows = head.split(b"\r\n")
    method, target, _ = line.split(b" ", 2)
    pairs = [(name.lower(), value.strip(b" \t")) for name, _, value in (row.partition(b":") for row in rows)]
    host = next((value for name, value in pairs if name == b"host"), authority)
    fields = [(name, value) for name, value in pairs if name not in _DROP]
    if any(name == b"transfer-encoding" for name, _ in pairs):
        body = b"".join(_unchunk(body))
    return [(b":method", method), (b":scheme", b"https"), (b":authority", host), (b":path", target), *fields], body


def _unchunk(body: bytes) -> list[bytes]:
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].split(b";")[0], 16)
        if size == 0:
            return parts
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size


def _speak_h2(run: Run, pipe: Pipe, values: Mapping[str, Any], observed: Observed) -> None:
    if isinstance(pipe.sock, ssl.SSLSocket) and pipe.sock.selected_alpn_protocol() != "h2":
        observed.add(0, time.monotonic())
        observed.error = "the proxy does not speak h2 here"
        return
    config = h2.config.H2Configuration(
        client_side=True, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False,
        validate_inbound_headers=False,
    )  # fmt: skip
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    pipe.send(connection.data_to_send())
    streams = run.spec.get("h2") or [{"request": run.spec.get("send", "")}]
    deadline_s = time.monotonic() + float(run.want.get("within_s", 1.0)) + GRACE_S
    for stream in streams:
        if "raw" in stream:
            pipe.send(build(stream["raw"], values))
            stream_id = 0
        else:
            stream_id = _open_stream(connection, stream, values, pipe)
        since_s = time.monotonic()
        if stream.get("await", True) and not _h2_answer(connection, stream_id, pipe, observed, since_s, deadline_s):
            return


def _open_stream(
    connection: h2.connection.H2Connection, stream: Mapping[str, Any], values: Mapping[str, Any], pipe: Pipe
) -> int:
    if "headers" in stream:
        headers = [(build(name, values), build(value, values)) for name, value in stream["headers"]]
        body = build(stream.get("body", ""), values)
    else:
        headers, body = as_h2(build(stream["request"], values), build("${AS}", values))
    trailers = [(build(name, values), build(value, values)) for name, value in stream.get("trailers", [])]
    ends = bool(stream.get("end", True))
    stream_id = connection.get_next_available_stream_id()
    connection.send_headers(stream_id, headers, end_stream=not body and not trailers)
    pipe.send(connection.data_to_send())
    for at in range(0, len(body), 16384):
        part = body[at : at + 16384]
        if connection.local_flow_control_window(stream_id) < len(part):
            break
        connection.send_data(stream_id, part, end_stream=ends and at + len(part) >= len(body) and not trailers)
    if trailers:
        connection.send_headers(stream_id, trailers, end_stream=True)
    pipe.send(connection.data_to_send())
    return stream_id


def _h2_answer(
    connection: h2.connection.H2Connection, stream_id: int, pipe: Pipe, observed: Observed, since_s: float,
    deadline_s: float,
) -> bool:  # fmt: skip
    status, head, body = 0, b"", bytearray()
    while True:
        if not pipe.more(deadline_s):
            observed.add(0, since_s)
            return False
        for event in connection.receive_data(pipe.take(len(pipe.buffer))):
            if isinstance(event, h2.events.ConnectionTerminated):
                observed.add(0, since_s)
                return False
            if getattr(event, "stream_id", stream_id) != stream_id:
                continue
            if isinstance(event, h2.events.ResponseReceived):
                pairs = [(bytes(name), bytes(value)) for name, value in event.headers or []]
                status = int(dict(pairs)[b":status"])
                head = b"".join(b"%s: %s\r\n" % pair for pair in pairs)
            elif isinstance(event, h2.events.TrailersReceived):
                head += b"".join(b"trailer %s: %s\r\n" % (bytes(n), bytes(v)) for n, v in event.headers or [])
            elif isinstance(event, h2.events.DataReceived):
                body += event.data or b""
                connection.acknowledge_received_data(event.flow_controlled_length or 0, stream_id)
            elif isinstance(event, h2.events.StreamReset):
                observed.add(0, since_s)
                return True
            elif isinstance(event, h2.events.StreamEnded):
                observed.received += head + bytes(body)
                observed.add(status, since_s, head, bytes(body))
                pipe.send(connection.data_to_send())
                return True
        pipe.send(connection.data_to_send())
