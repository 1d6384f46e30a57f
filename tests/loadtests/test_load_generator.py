"""The load generator against a tiny local server: what it reports is what the server saw."""

import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loadtests.dataplane.load import Generator, Load, Route
from loadtests.dataplane.places import Missing, load_generator
from tests.lab.ca import LabCA

_PROMPT = b'{"say": "@UNIQUE_16_CHAR@"}'


class Handler(BaseHTTPRequestHandler):
    """Answers POST by path; keeps bodies and the number of connections."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes]
    fields: list[dict[str, str]]
    connections: list[tuple[str, int]]

    def setup(self) -> None:
        super().setup()
        self.connections.append(self.client_address)

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.fields.append(dict(self.headers.items()))
        if self.path == "/stream":
            self._stream()
            return
        self.send_response(503 if self.path == "/refused" else 200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def do_CONNECT(self) -> None:
        """A tunnel to ourselves: the bytes inside are another request."""
        self.bodies.append(self.path.encode())
        self.send_response(200)
        self.end_headers()

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        # Events cut across chunks in the worst place, and a trailer.
        for part in (b"data: 1\n", b"\ndata: 2\n\ndata: 3", b"\n\n"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\nX-Trailer: yes\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Server:
    """A started server; `route` leads to it."""

    def __init__(self, context: ssl.SSLContext | None, ca: Path | None) -> None:
        self.handler: Any = type("Recording", (Handler,), {"bodies": [], "fields": [], "connections": []})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        port = self._server.server_address[1]
        self.route = Route(f"127.0.0.1:{port}", "direct", f"origin.test:{port}", ca=ca, plain=context is None)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    try:
        load_generator()
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def plain() -> Iterator[Server]:
    server = Server(None, None)
    yield server
    server.close()


@pytest.fixture
def body(tmp_path: Path) -> Path:
    file = tmp_path / "prompt.json"
    file.write_bytes(_PROMPT)
    return file


def _load(body: Path, **changes: Any) -> Load:
    return replace(Load(body=body, path="/", connections=2, seconds=0.2, deadline_s=5), **changes)


def test_a_closed_loop_counts_every_request_and_keeps_its_connections(plain: Server, body: Path) -> None:
    answer = Generator(plain.route, _load(body)).go()
    assert answer["failed"] == 0
    assert answer["requests"] == answer["latency_us"]["n"] == len(plain.handler.bodies) - 2  # two warmed up
    assert answer["payload_bytes"] == 5 * answer["requests"]
    assert len(plain.handler.connections) == 2
    percentiles = [answer["latency_us"][name] for name in ("p50", "p90", "p99", "max")]
    assert percentiles == sorted(percentiles)
    assert percentiles[0] > 0


def test_fresh_opens_a_connection_per_request(plain: Server, body: Path) -> None:
    answer = Generator(plain.route, _load(body, fresh=True)).go()
    assert answer["failed"] == 0
    assert len(plain.handler.connections) == answer["requests"] > 0


def test_tls_is_verified_and_named(tmp_path: Path, body: Path) -> None:
    ca = LabCA(tmp_path)
    server = Server(ca.server_context("origin.test"), ca.file)
    try:
        good = Generator(server.route, _load(body, fresh=True)).go()
        other = replace(server.route, authority="elsewhere.test:443")
        bad = Generator(other, _load(body, fresh=True)).go()
    finally:
        server.close()
    assert (good["failed"], good["handshakes"]) == (0, good["requests"])
    assert bad["requests"] == 0
    assert set(bad["failures"]) == {"tls"}


def test_an_open_loop_holds_its_rate(plain: Server, body: Path) -> None:
    answer = Generator(plain.route, _load(body, rate=50.0, seconds=0.5)).go()
    assert 24 <= answer["requests"] + answer["failed"] <= 26


@pytest.mark.parametrize(("distinct", "different"), [(0, 1), (3, 3)])
def test_prompts_repeat_as_asked(plain: Server, body: Path, distinct: int, different: int) -> None:
    answer = Generator(plain.route, _load(body, distinct=distinct, warm=4)).go()
    assert answer["requests"] > 0
    assert len(set(plain.handler.bodies)) == different
    assert {len(seen) for seen in plain.handler.bodies} == {len(_PROMPT)}


def test_prompts_all_differ_when_asked(plain: Server, body: Path) -> None:
    Generator(plain.route, _load(body, distinct=-1)).go()
    assert len(set(plain.handler.bodies)) == len(plain.handler.bodies) > 2


def test_events_are_counted_across_chunks(plain: Server, body: Path) -> None:
    answer = Generator(plain.route, _load(body, path="/stream", stream=True)).go()
    assert answer["failed"] == 0
    assert answer["events"] == 3 * answer["requests"] > 0
    assert answer["first_event_us"]["n"] == answer["requests"]


def test_another_status_is_a_failure_and_is_named(plain: Server, body: Path) -> None:
    answer = Generator(plain.route, _load(body, path="/refused", fresh=True)).go()
    assert answer["requests"] == 0
    assert answer["failures"] == {"status": answer["failed"]}
    assert answer["other_status"] == 503


def test_nobody_listening_is_a_failure(body: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        route = Route(f"127.0.0.1:{nobody.getsockname()[1]}", "direct", "origin.test:1", plain=True)
        answer = Generator(route, _load(body, fresh=True)).go()
    assert answer["requests"] == 0
    assert set(answer["failures"]) == {"connect"}
    assert answer["failed"] < 100  # it waits between tries


def test_connect_carries_the_credential_of_the_proxy_and_not_to_the_origin(plain: Server, body: Path) -> None:
    route = replace(plain.route, mode="connect", proxy_authorization="Bearer token")
    answer = Generator(route, _load(body, connections=1)).go()
    assert answer["failed"] == 0
    assert plain.handler.bodies[0] == plain.route.authority.encode()
    assert not any("Proxy-Authorization" in fields for fields in plain.handler.fields)


def test_absolute_form_carries_the_credential_with_every_request(plain: Server, body: Path) -> None:
    route = replace(plain.route, mode="absolute", proxy_authorization="Bearer token")
    answer = Generator(route, _load(body, path="/x")).go()
    assert answer["failed"] == 0
    assert {fields["Proxy-Authorization"] for fields in plain.handler.fields} == {"Bearer token"}


def test_holding_keeps_connections_open_until_the_gate_opens(plain: Server, body: Path) -> None:
    holding = Generator(plain.route, _load(body, connections=20), hold=True)
    assert len(plain.handler.bodies) == 20  # each warm connection has had its answer
    assert holding.go() == {}


def test_an_interrupt_ends_a_long_run_with_figures(plain: Server, body: Path) -> None:
    generator = Generator(plain.route, _load(body, seconds=600))
    generator.begin()
    answer = generator.end(early=True)
    assert answer["failed"] == 0
    assert answer["seconds"] < 60
