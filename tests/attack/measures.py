"""What floods and slow peers are measured by: memory, another app's latency, the time that a worker's loop is held.

A quiet latency here is a few milliseconds, of which the scheduler's own noise is a part; so ratios of latencies count
from `NOISE_S` upwards.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.attack.net import GW_EXPLICIT
from tests.attack.procedures import Bench
from tests.attack.procedures.faults import children, status
from tests.attack.world import EXPLICIT, rss_bytes
from tests.limits.kit import MAX_STALL_S, cpu_s

MIB = 1 << 20
NOISE_S = 0.1
LEAST = 40
BIG = 300 * MIB
GET = "GET http://allowed.test{path} HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n"


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
    bench.seen += f"{what}: {grown / MIB:+.1f} MiB; "
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
        """About twenty a second; what is over in no time is followed for forty requests."""
        while not self.over.wait(0.05) or len(self.times) < LEAST:
            self.ask()

    @property
    def p99(self) -> float:
        """In seconds, of the times themselves: fewer than a hundred tell nothing beyond their greatest."""
        return sorted(self.times)[int(0.99 * (len(self.times) - 1))] if self.times else 0.0


@contextlib.contextmanager
def neighbour(bench: Bench, what: str) -> Iterator[None]:
    """Notes a problem when app beta is not served, or its 99th percentile more than doubles, meanwhile."""
    quiet, loud = Neighbour(bench), Neighbour(bench)
    for _ in range(LEAST):
        quiet.ask()
    thread = threading.Thread(target=loud.keep_asking)
    thread.start()
    try:
        yield
    finally:
        loud.over.set()
        thread.join()
    bench.check(set(loud.codes) <= {200}, f"{what}: another app got {sorted(set(loud.codes))}")
    bench.seen += f"{what}: another app's p99 {loud.p99 * 1000:.0f} ms, quiet {quiet.p99 * 1000:.0f}; "
    limit_s = max(2 * quiet.p99, NOISE_S)
    bench.check(
        loud.p99 <= limit_s,
        f"{what}: another app's p99 is {loud.p99:.3f} s, quiet {quiet.p99:.3f}, limit {limit_s:.3f}",
    )


@dataclass
class Heart:
    """A legal request of another app on one connection, again and again. `beats`: (seconds, CPU seconds of the worker's
    loop) between question and answer: the second is the stall, whatever else this machine does."""

    bench: Bench
    beats: list[tuple[float, float]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def beat(self) -> None:
        """Until told to end."""
        (pid,) = children(self.bench, "proxy.dataplane.worker")
        with self.bench.world.dial((GW_EXPLICIT, EXPLICIT), "4") as sock:
            sock.settimeout(10)
            while not self.over.wait(0.01) or len(self.beats) < LEAST:
                started_s, used_s = time.monotonic(), cpu_s(pid)
                sock.sendall(b"GET http://allowed.test/legal HTTP/1.1\r\nHost: allowed.test\r\n\r\n")
                if not sock.recv(4096):
                    break
                self.beats.append((time.monotonic() - started_s, cpu_s(pid) - used_s))


@contextlib.contextmanager
def heart(bench: Bench, what: str) -> Iterator[None]:
    """Notes a problem when the worker's loop was held for longer than 100 ms, or the heart stopped."""
    one = Heart(bench)
    thread = threading.Thread(target=one.beat)
    thread.start()
    try:
        yield
    finally:
        one.over.set()
        thread.join()
    worst_s = max((cpu for _, cpu in one.beats), default=9.0)
    bench.check(len(one.beats) >= LEAST, f"{what}: only {len(one.beats)} beats")
    bench.seen += f"{what}: loop held {worst_s * 1000:.0f} ms; "
    bench.check(worst_s <= MAX_STALL_S, f"{what}: the loop was held for {worst_s:.3f} s of {len(one.beats)} beats")


@contextlib.contextmanager
def unhurt(bench: Bench, what: str, limit: int = 32 * MIB) -> Iterator[None]:
    """Memory, another app's latency and the loop, all three."""
    with memory(bench, what, limit), neighbour(bench, what), heart(bench, what):
        yield


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
