"""Floods, slow peers and big bodies: memory, other clients' latency and the event loop are measured meanwhile.

A quiet latency here is a few milliseconds, of which the scheduler's own noise is a part; so ratios of latencies count
from `NOISE_S` upwards.
"""

import contextlib
import socket
import ssl
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hpack import Encoder

from tests.attack.frames import frame
from tests.attack.net import GW_EXPLICIT
from tests.attack.procedures import Bench, procedure
from tests.attack.procedures.config import check
from tests.attack.procedures.faults import children, request, status
from tests.attack.upstreams import Accepted, accept_key, big
from tests.attack.world import EXPLICIT, IP, rss_bytes, wait_until

MIB = 1 << 20
NOISE_S = 0.1
_BIG = 300 * MIB
_GET = "GET http://allowed.test{path} HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n"


@dataclass
class Memory:
    """Resident bytes of all processes of the product: before, at most, and now."""

    bench: Bench
    before: int = 0
    most: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def now(self) -> int:
        """Of this moment."""
        return rss_bytes(children(self.bench, "proxy."))

    def watch(self) -> None:
        """Samples until told to end."""
        while not self.over.wait(0.05):
            self.most = max(self.most, self.now())


@contextlib.contextmanager
def memory(bench: Bench, what: str, limit: int = 32 * MIB) -> Iterator[Memory]:
    """Notes a problem when the product's resident memory grew by more than `limit` meanwhile."""
    seen = Memory(bench)
    seen.before = seen.most = seen.now()
    bench.check(seen.before, "no processes found")
    watcher = threading.Thread(target=seen.watch)
    watcher.start()
    try:
        yield seen
    finally:
        seen.over.set()
        watcher.join()
    grown = max(seen.most, seen.now()) - seen.before
    bench.check(grown <= limit, f"{what}: RSS grew by {grown / MIB:.1f} MiB, limit {limit / MIB:g}")


@dataclass
class Neighbour:
    """Another app's requests, one after the other, while something goes on."""

    bench: Bench
    times: list[float] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """One request."""
        started_s = time.monotonic()
        self.codes.append(status(self.bench, source="4"))
        self.times.append(time.monotonic() - started_s)

    def keep_asking(self) -> None:
        """About twenty a second."""
        while not self.over.wait(0.05):
            self.ask()

    @property
    def p99(self) -> float:
        """In seconds."""
        return statistics.quantiles(self.times, n=100)[98] if len(self.times) > 1 else 0.0


@contextlib.contextmanager
def neighbour(bench: Bench, what: str) -> Iterator[None]:
    """Notes a problem when app beta is not served, or its 99th percentile more than doubles, meanwhile."""
    quiet, loud = Neighbour(bench), Neighbour(bench)
    for _ in range(40):
        quiet.ask()
    thread = threading.Thread(target=loud.keep_asking)
    thread.start()
    try:
        yield
    finally:
        loud.over.set()
        thread.join()
    bench.check(set(loud.codes) <= {200}, f"{what}: another app got {sorted(set(loud.codes))}")
    limit_s = max(2 * quiet.p99, NOISE_S)
    bench.check(
        loud.p99 <= limit_s,
        f"{what}: another app's p99 is {loud.p99:.3f} s, quiet {quiet.p99:.3f}, limit {limit_s:.3f}",
    )


def ended(sock: socket.socket) -> bool:
    """True when the peer has closed; what it said before that is read away."""
    sock.setblocking(False)
    try:
        while True:
            if not sock.recv(1 << 16):
                return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def tunnel(bench: Bench, name: str, *, source: str = "2", alpn: tuple[str, ...] = ()) -> ssl.SSLSocket:
    """TLS inside a CONNECT to port 443 of the name. OSError when the proxy does not want to."""
    sock = bench.world.dial((GW_EXPLICIT, EXPLICIT), source)
    try:
        sock.settimeout(10)
        sock.sendall(f"CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n".encode())
        answer = sock.recv(4096)
        if b" 200 " not in answer[:20]:
            raise ConnectionRefusedError(answer[:60])
        context = bench.world.trust()
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context.wrap_socket(sock, server_hostname=name)
    except BaseException:
        sock.close()
        raise


@procedure("RES-03", fresh=True)
def slow_heads(bench: Bench) -> None:
    """300 connections with a byte of head a second: all closed within 30 s, and nobody else waits."""
    world = bench.world
    with memory(bench, "slow heads"), neighbour(bench, "slow heads"):
        alive = [world.dial((GW_EXPLICIT, EXPLICIT)) for _ in range(300)]
        started_s = time.monotonic()
        for byte in b"GET http://allowed.test/slow HTTP":
            for one in list(alive):
                with contextlib.suppress(OSError):
                    one.send(bytes([byte]))
                if ended(one):
                    one.close()
                    alive.remove(one)
            if not alive or time.monotonic() - started_s > 30:
                break
            time.sleep(1)
        bench.check(not alive, f"{len(alive)} of 300 are open after {time.monotonic() - started_s:.0f} s")
        for one in alive:
            one.close()


@procedure("RES-04", fresh=True)
def slow_bodies(bench: Bench) -> None:
    """A byte of body a second ends in 408 and nothing sent; a client that does not read pauses the upstream."""
    world = bench.world
    world.upstreams.mark()
    token = world.token()
    with world.dial((GW_EXPLICIT, EXPLICIT)) as sock, memory(bench, "slow upload"):
        head = f"POST http://allowed.test/{token} HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 1000\r\n\r\n"
        sock.sendall(head.encode())
        started_s = time.monotonic()
        received = b""
        while time.monotonic() - started_s < 30 and b"\r\n" not in received:
            with contextlib.suppress(OSError):
                sock.send(b"a")
            sock.settimeout(1)
            with contextlib.suppress(TimeoutError):
                received += sock.recv(4096) or b"closed\r\n"
        bench.check(b" 408 " in received[:20], f"slow upload: {received[:40]!r}")
    if any(token.encode() in one.all for one in world.upstreams.accepted):
        bench.leak("a part of the slow upload was forwarded")
    _slow_reader(bench)


def _slow_reader(bench: Bench) -> None:
    world = bench.world
    sent = 0

    def count(_: Accepted, __: bytes, stream: socket.socket) -> None:
        nonlocal sent
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _BIG)
        while sent < _BIG:
            sent += stream.send(b"A" * 65536)

    world.upstreams.script = count
    with memory(bench, "slow reader"), neighbour(bench, "slow reader"), world.dial((GW_EXPLICIT, EXPLICIT)) as sock:
        sock.sendall(_GET.format(path="/big").encode())
        for _ in range(8):
            bench.check(sock.recv(1), "the slow reader's connection ended")
            time.sleep(1)
    world.upstreams.plain()
    bench.check(sent < 32 * MIB, f"slow reader: the upstream could send {sent / MIB:.0f} MiB ahead")


def download(sock: socket.socket) -> tuple[float, int]:
    """(seconds to the first byte, bytes of answer)."""
    started_s = time.monotonic()
    sock.settimeout(30)
    sock.sendall(_GET.format(path="/big").encode())
    size = len(sock.recv(1 << 18))
    first_s = time.monotonic() - started_s
    while data := sock.recv(1 << 18):
        size += len(data)
    return first_s, size


@procedure("RES-06", fresh=True)
def big_answers(bench: Bench) -> None:
    """300 MiB pass as a stream: memory stays, and the first byte is there as it comes."""
    world = bench.world
    world.upstreams.script = big(_BIG)
    bench.check(status(bench) == 200, "not serving before")
    if world.wires is None:
        return
    with world.wires.gw.call(lambda: socket.create_connection((IP["allowed"], 80), 5)) as sock:
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: allowed.test\r\n\r\n")
        started_s = time.monotonic()
        sock.recv(1)
        direct_s = time.monotonic() - started_s
    with memory(bench, "download"), world.dial((GW_EXPLICIT, EXPLICIT)) as sock:
        first_s, size = download(sock)
    bench.check(size >= _BIG, f"{size} bytes arrived")
    bench.check(first_s <= max(2 * direct_s, NOISE_S), f"first byte after {first_s:.3f} s, direct {direct_s:.3f}")
    world.upstreams.plain()


def h2_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113 section 4.1."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def _floods() -> dict[str, Callable[[], Iterator[bytes]]]:
    head = Encoder().encode(
        [(":method", "GET"), (":scheme", "https"), (":authority", "allowed.test"), (":path", "/flood")], huffman=False
    )
    return {
        "rapid reset": lambda: (
            h2_frame(1, 5, 2 * at + 1, head) + h2_frame(3, 0, 2 * at + 1, b"\0\0\0\x08") for at in range(5000)
        ),
        "continuation": lambda: iter([h2_frame(1, 1, 1, head), *[h2_frame(9, 0, 1, b"\0\1a\1b" * 200)] * 4000]),
        "ping": lambda: iter([h2_frame(6, 0, 0, b"12345678")] * 50_000),
        "settings": lambda: iter([h2_frame(4, 0, 0, b"\0\4\0\0\xff\xff")] * 50_000),
    }


def flood(bench: Bench, frames: Iterator[bytes]) -> str:
    """Sends as fast as the proxy takes it, reading meanwhile: `goaway`, `close` or `open` (still there after it)."""
    with tunnel(bench, "allowed.test", alpn=("h2",)) as tls:
        bench.check(tls.selected_alpn_protocol() == "h2", "no h2")
        received = bytearray()
        gone = "open"
        tls.settimeout(5)
        try:
            tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + h2_frame(4, 0, 0))
            pending = bytearray()
            for one in frames:
                pending += one
                if len(pending) > 16384:
                    tls.sendall(pending)
                    pending.clear()
            tls.sendall(pending)
        except OSError:
            gone = "close"
        with contextlib.suppress(OSError):
            while data := tls.recv(1 << 16):
                received += data
            gone = "close"
        return "goaway" if _has_goaway(received) else gone


def _has_goaway(data: bytearray) -> bool:
    at = 0
    while at + 9 <= len(data):
        if data[at + 3] == 7:
            return True
        at += 9 + int.from_bytes(data[at : at + 3])
    return False


@procedure("RES-07", fresh=True)
def h2_floods(bench: Bench) -> None:
    """Rapid reset, CONTINUATION, PING and SETTINGS floods end the connection; others do not notice."""
    flood(bench, iter([]))  # What a first HTTP/2 connection loads is no part of the flood.
    for name, frames in _floods().items():
        with memory(bench, name), neighbour(bench, name):
            how = flood(bench, frames())
        bench.check(how in {"goaway", "close"}, f"{name}: the connection is {how}")
    _zero_window(bench)


def _zero_window(bench: Bench) -> None:
    head = Encoder().encode(
        [(":method", "GET"), (":scheme", "https"), (":authority", "allowed.test"), (":path", "/big")], huffman=False
    )
    bench.world.upstreams.h2_body = b"A" * 65000
    with memory(bench, "zero window"), neighbour(bench, "zero window"), tunnel(
        bench, "allowed.test", alpn=("h2",)
    ) as tls:  # fmt: skip
        tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + h2_frame(4, 0, 0, b"\0\4\0\0\0\0"))
        for at in range(90):
            tls.sendall(h2_frame(1, 5, 2 * at + 1, head))
        time.sleep(2)
    bench.world.upstreams.plain()


@procedure("RES-08", fresh=True)
def noisy_neighbour(bench: Bench) -> None:
    """An app at twenty times its 30 a minute gets 429 with Retry-After; another's latency stays."""
    heads: list[tuple[int, bytes]] = []
    with neighbour(bench, "noise"):
        for _ in range(60):
            observed = request(bench, _GET.format(path="/x"), source="7")
            heads += [(one.status, one.head.lower()) for one in observed.answers]
            time.sleep(0.1)
    codes = [code for code, _ in heads]
    bench.check(codes[:30] == [200] * 30, f"within its limit: {sorted(set(codes[:30]))}")
    bench.check(set(codes[31:]) == {429}, f"past its limit: {sorted(set(codes[31:]))}")
    bench.check(all(b"\nretry-after:" in head for code, head in heads if code == 429), "no Retry-After")


@procedure("RES-09", fresh=True)
def stalled_loop(bench: Bench) -> None:
    """5 MB to scan, thrice: no other exchange of the same worker waits over 100 ms for its answer."""
    world = bench.world
    world.apps["alpha"]["limits"] = {**world.apps["alpha"]["limits"], "max_body": "8MiB"}
    world.push()
    text = "".join(f"line {at}: the quick brown fox, order {at * 7919}\n" for at in range(120_000))[:5_000_000]
    head = "POST http://${A}/x HTTP/1.1\r\nHost: ${A}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    body = f"{head}Content-Length: {len(text)}\r\n\r\n{text}"
    beats: list[float] = []
    over = threading.Event()

    def heart() -> None:
        with world.dial((GW_EXPLICIT, EXPLICIT), "4") as sock:
            sock.settimeout(10)
            while not over.wait(0.01):
                started_s = time.monotonic()
                sock.sendall(b"GET http://allowed.test/legal HTTP/1.1\r\nHost: allowed.test\r\n\r\n")
                if not sock.recv(4096):
                    break
                beats.append(time.monotonic() - started_s)

    thread = threading.Thread(target=heart)
    thread.start()
    try:
        codes = [[one.status for one in request(bench, body, within_s=20).answers] for _ in range(3)]
    finally:
        over.set()
        thread.join()
    bench.check(codes == [[200]] * 3, f"scan: {codes}")
    bench.check(len(beats) > 5 and max(beats) <= 0.1, f"{len(beats)} beats, the slowest {max(beats, default=9):.3f} s")
    pattern = "version: 1\ndlp: {patterns: [{entity: X, regex: '(a)\\1+$'}]}\n"
    done = check(bench, "regex", pattern, file="platform.yaml")
    bench.check(done.returncode != 0 and "platform.yaml" in done.stdout + done.stderr, "a back-reference is accepted")


@procedure("TUN-10", fresh=True)
def websocket_memory(bench: Bench) -> None:
    """100 messages of 1 MB, then one of 100 MB that never ends: memory stays, and is given back."""
    world = bench.world

    def swallow(_: Accepted, handshake: bytes, stream: socket.socket) -> None:
        stream.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept_key(handshake) + b"\r\n\r\n"
        )  # fmt: skip
        while stream.recv(1 << 18):
            pass

    world.upstreams.script = swallow
    message = frame(1, b"the quick brown fox jumps over " * 32_258)
    with _websocket(bench) as sock:
        sock.sendall(frame(1, b"hello"))
    with memory(bench, "100 messages", 16 * MIB) as seen:
        with _websocket(bench) as sock:
            for _ in range(100):
                sock.sendall(message)
            wait_until(lambda: ended(sock), 3)
        with _websocket(bench) as sock:
            piece = frame(0, b"a" * 60_000, fin=False)
            refused = False
            try:
                sock.sendall(frame(1, b"a", fin=False))
                for _ in range(1700):
                    sock.sendall(piece)
            except OSError:
                refused = True
            bench.check(refused or wait_until(lambda: ended(sock), 5), "a message of 100 MB is not refused")
    world.upstreams.plain()
    given_back = wait_until(lambda: seen.now() - seen.before <= 16 * MIB, 5)
    bench.check(given_back, f"{(seen.now() - seen.before) / MIB:.1f} MiB are kept after the close")


def _websocket(bench: Bench) -> socket.socket:
    sock = bench.world.dial((GW_EXPLICIT, EXPLICIT))
    sock.settimeout(30)
    sock.sendall(
        b"GET http://allowed.test/ws HTTP/1.1\r\nHost: allowed.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    answer = sock.recv(4096)
    bench.check(b" 101 " in answer[:20], f"no WebSocket: {answer[:60]!r}")
    return sock


@procedure("TLS-08", fresh=True)
def mint_flood(bench: Bench) -> None:
    """5,000 names under a wildcard: an app gets so many certificates a second; memory stays; others get theirs."""
    good = 0
    bad: set[str] = set()
    started_s = time.monotonic()
    with memory(bench, "mint flood"), neighbour(bench, "mint flood"):
        for at in range(5000):
            try:
                tunnel(bench, f"n{at}.allowed.test").close()
                good += 1
            except OSError as error:
                bad.add(type(error).__name__)
        with tunnel(bench, "allowed.test", source="4") as tls:
            tls.sendall(b"GET /legal HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n")
            bench.check(b" 200 " in tls.recv(100)[:20], "another app gets no certificate")
    most = 200 + 20 * (time.monotonic() - started_s) + 20
    bench.check(200 <= good <= most, f"{good} certificates, expected at most {most:.0f} ({', '.join(sorted(bad))})")


@procedure("TLS-11")
def revoked_upstream(bench: Bench) -> None:
    """No CRL can be configured, so none is silently ignored; that certificates are not checked against one is said."""
    from tests.lab.product import ROOT

    done = check(bench, "crl", "version: 1\ncrl: revoked.pem\n", file="platform.yaml")
    bench.check(done.returncode != 0 and "crl" in done.stdout + done.stderr, "an unknown option `crl` is accepted")
    text = (ROOT / "docs" / "explanation" / "threat-model.md").read_text()
    bench.check("CRL" in text and "Revocation" in text, "the threat model does not say it")
