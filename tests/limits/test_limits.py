"""What one client can cost the proxy: memory, time, places. Real sockets, the running product (RES, TLS-06/08)."""

import contextlib
import gzip
import itertools
import os
import random
import resource
import signal
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import brotli
import pytest
import zstandard

from tests.lab.fixtures import Lab, build_lab
from tests.lab.product import eventually, read_all, read_head
from tests.lab.upstream import Received, raw, reply
from tests.limits.kit import MB, Heartbeat, bounded_memory, cpu_s, still_silent, worker_pids

HELLO_BYTES = 64 << 10


def setup(lab: Lab) -> None:
    """One app without, one with its own limits; a wildcard for names without end."""
    wild = lab.policy.entry("wild", lab.api, host="*.wild.lab.test")
    del lab.policy.platform["resolve"]["*.wild.lab.test"]
    # Pictures are not inspected: what is measured here is the lane, not the detection.
    pictures = {"uninspectable": {"image": "allow"}}
    lab.policy.app("alpha", lab.policy.entry("api", lab.api), lab.policy.entry("plain", lab.plain), wild, dlp=pictures)
    lab.policy.app("beta", lab.policy.entry("api", lab.api), limits={"connections": 5})


@pytest.fixture(scope="module")
def small() -> Iterator[Lab]:
    """One worker, so that everything meets in it."""
    with contextlib.ExitStack() as stack:
        lab = build_lab(stack, setup)
        stack.enter_context(lab.product)
        # What is loaded and grown once (codecs, parsers, pools) is not what a request costs.
        with lab.product.httpx("alpha") as client:
            for _ in range(3):
                client.post(f"{lab.url}/", content=picture(4 * MB), headers={"Content-Type": "image/png"})
                client.post(f"{lab.url}/", json={"warm": "up"})
        yield lab


def picture(size: int) -> bytes:
    """A PNG of `size` bytes, noise."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    begin = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes.fromhex("00000400000004000802000000"))
    end = chunk(b"IEND", b"")
    noise = random.Random(size).randbytes(size - len(begin) - len(end) - 12)
    return begin + chunk(b"IDAT", noise) + end


@pytest.fixture(autouse=True)
def _as_new(small: Lab) -> Iterator[None]:
    for upstream in (small.api, small.plain):
        upstream.forget()
        upstream.answer = reply()
    yield
    with small.product.httpx("alpha") as client:  # global assertion 5: a legal request right after succeeds
        assert client.get(f"{small.url}/after").status_code == 200


def ask(lab: Lab, head: str, body: bytes = b"", *, wait_s: float = 30) -> bytes:
    """Raw bytes inside a tunnel; everything that comes back."""
    with lab.product.tunnel("alpha", f"{lab.api.names[0]}:{lab.api.port}") as stream:
        stream.settimeout(wait_s)
        with contextlib.suppress(OSError):
            stream.sendall(head.encode() + body)
        return read_all(stream)


def post(lab: Lab, *fields: str) -> str:
    lines = ["POST /x HTTP/1.1", f"Host: {lab.api.names[0]}:{lab.api.port}", "Connection: close", *fields]
    return "\r\n".join([*lines, "", ""])


# -- heads


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("one header of 64 MB", lambda: [f"X: {'a' * (64 * MB)}"]),
        ("300 headers", lambda: [f"X-{n}: 1" for n in range(300)]),
        ("2 million headers", lambda: ["X: 1"] * 2_000_000),
    ],
)
def test_a_flood_of_headers_ends_at_the_limit(small: Lab, name: str, fields: Callable[[], list[str]]) -> None:
    with bounded_memory(*worker_pids(small)):
        answer = ask(small, post(small, *fields()))
    assert answer.split(b" ")[1:2] in ([b"431"], []), name
    assert small.api.requests == []


def test_a_head_just_below_the_limits_passes(small: Lab) -> None:
    answer = ask(small, post(small, "Content-Length: 0", *(f"X-{n}: {'a' * 200}" for n in range(190))))
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_long_url_is_414(small: Lab) -> None:
    head = f"GET /{'a' * (16 << 10)} HTTP/1.1\r\nHost: {small.api.names[0]}:{small.api.port}\r\n\r\n"
    assert ask(small, head).startswith(b"HTTP/1.1 414")


def test_three_hundred_slow_heads_are_cut_and_hurt_nobody(small: Lab) -> None:
    """RES-03: a byte a second each; the head's deadline ends them, and the event loop does not notice."""
    (pid,) = worker_pids(small)
    begun_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(small.product.dial()) for _ in range(300)]
        with bounded_memory(pid), Heartbeat(small, pid).running():
            for byte in itertools.cycle(b"GET / HTTP/1.1\r\nX: "):
                for stream in silent:
                    with contextlib.suppress(OSError):
                        stream.send(bytes([byte]))
                next_s = time.monotonic() + 1
                while silent and (left_s := next_s - time.monotonic()) > 0:
                    silent = still_silent(silent, left_s)
                if not silent:
                    break
                assert time.monotonic() < begun_s + 30, f"{len(silent)} of 300 are still open after 30 s"


# -- bodies


@pytest.mark.parametrize("framing", ["sized", "chunked"])
@pytest.mark.parametrize("size", [255 << 10, 257 << 10, 1 << 20, (4 << 20) - 1])
def test_a_body_of_any_size_up_to_the_limit_arrives(small: Lab, size: int, framing: str) -> None:
    """More than the channel buffers, too."""
    body = picture(size)
    if framing == "sized":
        answer = ask(small, post(small, "Content-Type: image/png", f"Content-Length: {size}"), body)
    else:
        wire = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in cut(body, 10_000)) + b"0\r\n\r\n"
        answer = ask(small, post(small, "Content-Type: image/png", "Transfer-Encoding: chunked"), wire)
    assert answer.startswith(b"HTTP/1.1 200"), answer[:500]
    assert small.api.requests[0].body == body


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def test_a_body_that_trickles_is_given_up(small: Lab) -> None:
    with small.product.tunnel("alpha", f"{small.api.names[0]}:{small.api.port}") as stream:
        stream.sendall(post(small, "Content-Length: 100000").encode())
        begun_s = time.monotonic()
        with contextlib.suppress(OSError):
            while still_silent([stream], 0.2):
                assert time.monotonic() < begun_s + 25
                stream.sendall(b"a")
        assert b"timeout" in read_all(stream)
    assert small.api.requests == []


BOMBS = {
    "gzip": lambda: gzip.compress(bytes(64 * MB), 9),
    "gzip in gzip": lambda: gzip.compress(gzip.compress(bytes(256 * MB), 9), 9),
    "deflate": lambda: zlib.compress(bytes(64 * MB), 9),
    "br": lambda: brotli.compress(bytes(64 * MB)),
    "zstd": lambda: zstandard.compress(bytes(64 * MB)),
}


@pytest.mark.parametrize("coding", BOMBS)
def test_a_request_bomb_costs_neither_worker_nor_inspector(small: Lab, coding: str) -> None:
    bomb = BOMBS[coding]()
    named = {"gzip in gzip": "gzip, gzip"}.get(coding, coding)
    inspectors = [child["pid"] for child in small.product.status()["inspectors"]]
    with bounded_memory(*worker_pids(small), *inspectors):
        answer = ask(small, post(small, f"Content-Length: {len(bomb)}", f"Content-Encoding: {named}",
                                 "Content-Type: application/json"), bomb)  # fmt: skip
    assert answer[9:12] in {b"413", b"415", b"400"}
    assert small.api.requests == []


def test_a_big_answer_is_streamed(small: Lab) -> None:
    small.api.answer = raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 * MB), *[bytes(MB)] * 100)
    with (
        bounded_memory(*worker_pids(small)),
        small.product.httpx("alpha") as client,
        client.stream("GET", f"{small.url}/big") as answer,
    ):
        assert sum(map(len, answer.iter_raw())) == 100 * MB


def test_a_reader_that_does_not_read_pauses_the_upstream(small: Lab) -> None:
    sent = 0

    def answer(_: Received) -> Iterator[bytes]:
        nonlocal sent
        yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (300 * MB)
        for _ in range(300):
            yield bytes(MB)
            sent += MB

    small.api.answer = answer
    with bounded_memory(*worker_pids(small)):
        stream = small.product.tunnel("alpha", f"{small.api.names[0]}:{small.api.port}")
        stream.sendall(f"GET /slow HTTP/1.1\r\nHost: {small.api.names[0]}:{small.api.port}\r\n\r\n".encode())
        read_head(stream)
        seen = [-1]
        eventually(lambda: seen.append(sent) or len(set(seen[-20:])) == 1, "the upstream stops sending")
        assert sent < 64 * MB
        stream.close()
    eventually(lambda: all(one.closed.is_set() for one in small.api.connections), "the upstream connection is cut")


# -- the event loop


BODIES = {
    "a picture of 4 MB": ("image/png", picture(4 * MB)),
    "half a million leaves": ("application/json", b'{"items": [' + b'"a word",' * 450_000 + b'""]}'),
    "a hundred thousand levels": ("application/json", b"[" * 100_000 + b"]" * 100_000),
    "a million form fields": ("application/x-www-form-urlencoded", b"a=b&" * 1_000_000 + b"z="),
    "bytes of no kind": ("application/octet-stream", bytes(range(256)) * (15 << 10)),
}


@pytest.mark.parametrize("name", BODIES)
def test_no_body_holds_the_event_loop(small: Lab, name: str) -> None:
    kind, body = BODIES[name]
    head = post(small, f"Content-Type: {kind}", f"Content-Length: {len(body)}")
    with Heartbeat(small, *worker_pids(small)).running(), bounded_memory(*worker_pids(small)):
        answer = ask(small, head, body, wait_s=120)
    assert answer.startswith(b"HTTP/1.1 "), name


def test_tiny_chunks_do_not_hold_the_event_loop(small: Lab) -> None:
    head = post(small, "Transfer-Encoding: chunked", "Content-Type: application/octet-stream")
    with Heartbeat(small, *worker_pids(small)).running():
        ask(small, head, b"1\r\na\r\n" * 600_000 + b"0\r\n\r\n", wait_s=60)


def test_tiny_chunks_of_an_answer_do_not_either(small: Lab) -> None:
    small.api.answer = raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 300_000, b"0\r\n\r\n"
    )
    with Heartbeat(small, *worker_pids(small)).running(), small.product.httpx("alpha") as client:
        assert client.get(f"{small.url}/tiny").content == b"a" * 300_000


def test_ten_thousand_pipelined_requests_take_turns(small: Lab) -> None:
    token = small.product.token("alpha")
    one = f"GET http://evil.lab.test/ HTTP/1.1\r\nHost: evil.lab.test\r\nProxy-Authorization: Bearer {token}\r\n\r\n"
    with Heartbeat(small, *worker_pids(small)).running(), small.product.dial() as bare:
        answers = threading.Thread(target=read_all, args=(bare,), daemon=True)
        answers.start()
        with contextlib.suppress(OSError):
            bare.sendall(one.encode() * 10_000)
            bare.shutdown(socket.SHUT_WR)
        answers.join(120)
    assert not answers.is_alive()


# -- ClientHello


def hello_of(size: int) -> bytes:
    """A ClientHello for the upstream's name, padded to `size` by an extension of no meaning (GREASE, RFC 8701)."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="api.lab.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    message = outgoing.read()[5:]
    padding = max(0, size - len(message) - 4)
    at = 4 + 2 + 32
    at += 1 + message[at]
    at += 2 + int.from_bytes(message[at : at + 2])
    at += 1 + message[at]
    extensions = message[at + 2 :] + (0xFAFA).to_bytes(2) + padding.to_bytes(2) + bytes(padding)
    body = message[4:at] + len(extensions).to_bytes(2) + extensions
    return b"\1" + len(body).to_bytes(3) + body


def in_records(message: bytes, size: int) -> bytes:
    parts = (message[at : at + size] for at in range(0, len(message), size))
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts)


@pytest.mark.parametrize("record_bytes", [16_000, 4_000, 1_000])
def test_a_big_hello_in_one_byte_segments_is_read(small: Lab, record_bytes: int) -> None:
    (pid,) = worker_pids(small)
    raw_hello = in_records(hello_of(60_000), record_bytes)
    stream, head = small.product.connect("alpha", f"{small.api.names[0]}:{small.api.port}")
    with stream, bounded_memory(pid), Heartbeat(small, pid).running():
        assert b" 200 " in head
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(20_000):
            stream.send(raw_hello[at : at + 1])
        stream.sendall(raw_hello[20_000:])
        assert stream.recv(1) == b"\x16", "the proxy answers with its ServerHello"


def test_a_hello_beyond_the_limit_and_one_without_end_are_closed(small: Lab) -> None:
    for message in (b"\1\xff\xff\xff", hello_of(60_000)[:50_000]):
        stream, _ = small.product.connect("alpha", f"{small.api.names[0]}:{small.api.port}")
        with stream:
            begun_s = time.monotonic()
            stream.sendall(in_records(message, 16_000))
            read_all(stream)
            assert time.monotonic() - begun_s < 12


def test_a_walk_through_a_wildcard_mints_within_bounds(small: Lab) -> None:
    (pid,) = worker_pids(small)
    refused = 0
    with bounded_memory(pid), Heartbeat(small, pid).running():
        for number in range(600):
            name = f"host{number}.wild.lab.test"
            try:
                small.product.tunnel("alpha", f"{name}:{small.api.port}").close()
            except (ssl.SSLError, OSError):
                refused += 1
    assert refused > 50
    assert small.product.wait_for_records(1, code="overloaded", app="alpha")
    with small.product.httpx("beta") as client:
        assert client.get(f"{small.url}/").status_code == 200


# -- places


def test_an_app_has_its_own_number_of_connections(small: Lab) -> None:
    where = f"{small.api.names[0]}:{small.api.port}"
    held = [small.product.connect("beta", where) for _ in range(5)]
    try:
        assert all(b" 200 " in head for _, head in held)
        stream, head = small.product.connect("beta", where)
        stream.close()
        assert b"HTTP/1.1 429 " in head
        stream, head = small.product.connect("alpha", where)
        stream.close()
        assert b" 200 " in head
    finally:
        for stream, _ in held:
            stream.close()

    def free() -> bool:
        stream, head = small.product.connect("beta", where)
        stream.close()
        return b" 200 " in head

    eventually(free, "closed connections give their places back")


def test_silent_connections_make_way_when_descriptors_run_out(lab_factory: Callable[..., Lab]) -> None:
    """RES-05: `ulimit -n 64`, 157 idle clients, and one that means it."""
    lab = lab_factory(setup)
    old = worker_pids(lab)[0]
    if lab.product.process is not None:
        resource.prlimit(lab.product.process.pid, resource.RLIMIT_NOFILE, (64, 64))
    os.kill(old, signal.SIGKILL)  # its successor inherits the limit

    def successor() -> int | None:
        serving = [worker for worker in lab.product.status()["workers"] if worker["state"] == "serving"]
        return serving[0]["pid"] if serving and serving[0]["pid"] != old else None

    pid = eventually(successor, "the worker is replaced", 60)
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (64, 64)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(lab.product.dial()) for _ in range(157)]
        begun_s, cpu_begun_s = time.monotonic(), cpu_s(pid)
        for _ in range(5):
            with lab.product.httpx("alpha") as client:
                assert client.get(f"{lab.url}/").status_code == 200
        assert time.monotonic() - begun_s < 5
        assert cpu_s(pid) - cpu_begun_s < 1, "the accept loop does not spin"
        assert len(idle) - len(still_silent(idle, 0)) > 100, "the oldest made way"
