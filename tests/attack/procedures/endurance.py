"""Everything at once under a limit of memory, and everything legal for minutes."""

import contextlib
import gzip
import itertools
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.attack.cgroup import MemoryGroup, NoGroups
from tests.attack.frames import frame
from tests.attack.measures import BIG, GET, MIB, tunnel
from tests.attack.net import GW_EXPLICIT
from tests.attack.procedures import Bench, procedure
from tests.attack.procedures.faults import children, request, status
from tests.attack.procedures.h2floods import FLOODS, flood
from tests.attack.procedures.websockets import Swallower, open_websocket
from tests.attack.upstreams import Accepted, big, websocket
from tests.attack.world import EXPLICIT, IP, rss_bytes, wait_until

CAP_BYTES = 512 * MIB
STORM_S = 25.0
SOAK_S = 120.0
EVIL = "GET http://evil.test/x HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n"


@dataclass
class Crowd:
    """Threads that do the same again and again until told to end. `done`: how often; `errors`: what broke."""

    over: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, act: Callable[[], object], pause_s: float = 0.0) -> None:
        """One more thread."""

        def again() -> None:
            while not self.over.wait(pause_s):
                try:
                    act()
                except OSError as error:
                    self.errors[f"{act.__name__}: {type(error).__name__}"] += 1
                self.done[act.__name__] += 1

        self.threads.append(threading.Thread(target=again, daemon=True))
        self.threads[-1].start()

    def disperse(self) -> None:
        """Ends all."""
        self.over.set()
        for thread in self.threads:
            thread.join(30)


@contextlib.contextmanager
def crowd() -> Iterator[Crowd]:
    """One that goes home."""
    one = Crowd()
    try:
        yield one
    finally:
        one.disperse()


POST = "POST http://allowed.test/x HTTP/1.1\r\nHost: allowed.test\r\nContent-Type: application/json\r\n"


class Attacker:
    """RES-01 to RES-07, each as something that can be done again and again, until `over`."""

    def __init__(self, bench: Bench, over: threading.Event) -> None:
        self.bench, self.over = bench, over
        self.zeros = gzip.compress(bytes(64 * MIB), 9)
        self.names = itertools.cycle(FLOODS)
        plain = [self.bomb, self.long_head, self.idle, self.download, self.h2_flood, self.websocket_flood]
        twice = [self.slow_head, self.slow_body, self.slow_reader, self.scan]
        self.all: list[Callable[[], object]] = [*plain, *twice, *twice]

    def _send(self, data: bytes, wait_s: float = 5.0) -> None:
        with self.bench.world.dial((GW_EXPLICIT, EXPLICIT)) as sock:
            sock.settimeout(wait_s)
            sock.sendall(data)
            while not self.over.is_set() and sock.recv(1 << 16):
                pass

    def bomb(self) -> None:
        """64 MiB of zeros, packed."""
        self._send(f"{POST}Content-Encoding: gzip\r\nContent-Length: {len(self.zeros)}\r\n\r\n".encode() + self.zeros)

    def long_head(self) -> None:
        """A field of 1 MiB."""
        self._send(b"GET http://allowed.test/ HTTP/1.1\r\nX: " + b"a" * MIB)

    def slow_head(self) -> None:
        """A head that does not go on."""
        self._send(b"GET http://allowed.test/slow")

    def slow_body(self) -> None:
        """A body that stops at its first quarter."""
        self._send(f"{POST}Content-Length: 4000000\r\n\r\n".encode() + b'"' + b"a" * MIB)

    def idle(self) -> None:
        """A hundred connections that say nothing."""
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(self.bench.world.dial((GW_EXPLICIT, EXPLICIT), "7"))
            self.over.wait(1)

    def download(self) -> None:
        """300 MiB."""
        self._send(GET.format(path="/big").encode(), wait_s=20)

    def slow_reader(self) -> None:
        """300 MiB that nobody reads."""
        with self.bench.world.dial((GW_EXPLICIT, EXPLICIT)) as sock:
            sock.sendall(GET.format(path="/big").encode())
            self.over.wait(5)

    def scan(self) -> None:
        """440 KB of names, each time another text."""
        text = f"{time.monotonic()} " + "Please ask Jane Roe of Springfield about invoice 4711.\n" * 8000
        head = POST.replace("application/json", "text/plain")
        self._send(f"{head}Connection: close\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode(), wait_s=60)

    def h2_flood(self) -> None:
        """The next of the floods."""
        flood(self.bench, FLOODS[next(self.names)].frames())

    def websocket_flood(self) -> None:
        """A message without end."""
        with open_websocket(self.bench) as sock:
            for _ in range(100):
                sock.sendall(frame(2, b"a" * 60_000, fin=False))


@procedure("RES-10", fresh=True)
def memory_cap(bench: Bench) -> None:
    """512 MiB for all processes, and RES-01 to -07, long scans and WebSockets together: nothing is killed for memory,
    or it is back within 2 s; what is denied stays denied."""
    world, product = bench.world, bench.world.product
    if product is None or world.wires is None:
        return
    product.stop()
    try:
        with MemoryGroup(CAP_BYTES) as group:
            product.prefix = group.prefix
            try:
                world.wires.gw.call(product.start)
                _storm(bench, group)
            finally:
                product.stop()
                product.prefix = ()
    except NoGroups as why:
        bench.check(False, f"no control group for memory here: {why}")


def _storm(bench: Bench, group: MemoryGroup) -> None:
    world = bench.world
    if world.wires is None:
        return
    bench.check(group.resident_bytes > 50 * MIB, "the product is not in the group")
    pids = sorted(children(bench, "proxy."))
    world.upstreams.script = _big_or_websocket
    world.wires.packets.clear()
    denied: Counter[int] = Counter()
    away_s = 0.0
    with crowd() as attackers:
        for act in Attacker(bench, attackers.over).all:
            attackers.add(act, 0.05)
        until_s = time.monotonic() + STORM_S
        while time.monotonic() < until_s:
            observed = request(bench, EVIL, source="4", within_s=5)
            denied[observed.answers[0].status if observed.answers else 0] += 1
            started_s = time.monotonic()
            wait_until(lambda: status(bench, source="4") == 200, 10)
            away_s = max(away_s, time.monotonic() - started_s)
    world.upstreams.plain()
    strange = [packet for packet in world.wires.packets if packet.kind == "syn" and packet.ip == IP["evil"]]
    if strange:
        bench.leak(f"{len(strange)} SYN to the denied host")
    bench.check(set(denied) <= {403, 0}, f"the denied host answered {dict(denied)}")
    bench.check(denied[403] > 0, "no denial was seen")
    survived = sorted(children(bench, "proxy.")) == pids
    bench.check(survived or away_s <= 2, f"{group.kills} killed for memory, not served for {away_s:.1f} s")
    figure = f"peak {group.peak_bytes / MIB:.0f} MiB, {group.kills} killed, not served for {away_s:.1f} s at most"
    bench.check(status(bench) == 200, f"not serving after it: {figure}")
    bench.seen += f"{figure}; {dict(attackers.done)}"


def _big_or_websocket(accepted: Accepted, handshake: bytes, stream: object) -> None:
    act = Swallower() if b"/ws" in handshake.partition(b"\n")[0] else big(BIG)
    act(accepted, handshake, stream)  # type: ignore[arg-type]  # the socket that every script is given


def _legal(bench: Bench) -> list[Callable[[], object]]:
    """Traffic of every kind that the product serves."""
    numbers = itertools.count()

    def plain() -> None:
        status(bench, f"/legal?{next(numbers)}")

    def denied() -> None:
        request(bench, EVIL)

    def inspected() -> None:
        text = f"message {next(numbers)} for Jane Roe"
        request(
            bench,
            "POST http://allowed.test/x HTTP/1.1\r\nHost: allowed.test\r\nContent-Type: text/plain\r\n"
            f"Connection: close\r\nContent-Length: {len(text)}\r\n\r\n{text}",
        )

    def tls() -> None:
        with tunnel(bench, "allowed.test") as sock:
            sock.sendall(b"GET /legal HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n")
            while sock.recv(1 << 16):
                pass

    def h2() -> None:
        flood(bench, itertools.islice(FLOODS["rapid reset"].frames(), 4))

    def talk() -> None:
        with open_websocket(bench) as sock:
            sock.sendall(frame(1, b"message %d" % next(numbers)))
            sock.recv(1000)

    return [plain, plain, denied, inspected, tls, h2, talk]


@procedure("RES-11", fresh=True, limit_s=SOAK_S + 120)
def soak(bench: Bench) -> None:
    """Two minutes of everything (`make soak` is the long run): memory and descriptors stay where the first half left
    them."""
    world = bench.world
    world.upstreams.script = websocket
    samples: list[tuple[int, int]] = []
    with crowd() as clients:
        for act in _legal(bench):
            clients.add(act, 0.1)
        began_s = time.monotonic()
        while time.monotonic() - began_s < SOAK_S:
            pids = children(bench, "proxy.")
            samples.append((rss_bytes(pids), _descriptors(pids)))
            time.sleep(1)
    world.upstreams.plain()
    half = len(samples) // 2
    early, late = samples[half : half + half // 2], samples[half + half // 2 :]
    grown = statistics.median(rss for rss, _ in late) - statistics.median(rss for rss, _ in early)
    opened = statistics.median(fds for _, fds in late) - statistics.median(fds for _, fds in early)
    figure = f"{grown / MIB:+.2f} MiB, {opened:+.0f} descriptors in the last {SOAK_S / 4:.0f} s"
    bench.check(grown <= 2 * MIB, f"memory: {figure}")
    bench.check(abs(opened) <= 10, f"descriptors: {figure}")
    bench.check(min(clients.done[act.__name__] for act in _legal(bench)) > 20, f"too little was done: {clients.done}")
    bench.check(not clients.errors, f"broke: {dict(clients.errors)}")
    bench.seen += f"{figure}; {dict(clients.done)}"


def _descriptors(pids: list[int]) -> int:
    """Open descriptors of the processes together."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return total
