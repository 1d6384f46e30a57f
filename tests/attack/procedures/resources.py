"""Slow peers, big bodies, noisy neighbours and long scans on HTTP/1.1."""

import contextlib
import socket
import time

from tests.attack.measures import BIG, GET, MIB, NOISE_S, ended, heart, memory, neighbour
from tests.attack.net import GW_EXPLICIT
from tests.attack.procedures import Bench, procedure
from tests.attack.procedures.config import check
from tests.attack.procedures.faults import request, status
from tests.attack.upstreams import Accepted, big
from tests.attack.world import EXPLICIT, IP


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
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
        while sent < BIG:
            sent += stream.send(b"A" * 65536)

    world.upstreams.script = count
    with memory(bench, "slow reader"), neighbour(bench, "slow reader"), world.dial((GW_EXPLICIT, EXPLICIT)) as sock:
        sock.sendall(GET.format(path="/big").encode())
        for _ in range(8):
            bench.check(sock.recv(1), "the slow reader's connection ended")
            time.sleep(1)
    world.upstreams.plain()
    bench.check(sent < 32 * MIB, f"slow reader: the upstream could send {sent / MIB:.0f} MiB ahead")


def download(sock: socket.socket) -> tuple[float, int]:
    """(seconds to the first byte, bytes of answer)."""
    started_s = time.monotonic()
    sock.settimeout(30)
    sock.sendall(GET.format(path="/big").encode())
    size = len(sock.recv(1 << 18))
    first_s = time.monotonic() - started_s
    while data := sock.recv(1 << 18):
        size += len(data)
    return first_s, size


@procedure("RES-06", fresh=True)
def big_answers(bench: Bench) -> None:
    """300 MiB pass as a stream: memory stays, and the first byte is there as it comes."""
    world = bench.world
    world.upstreams.script = big(BIG)
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
    bench.check(size >= BIG, f"{size} bytes arrived")
    bench.check(first_s <= max(2 * direct_s, NOISE_S), f"first byte after {first_s:.3f} s, direct {direct_s:.3f}")
    world.upstreams.plain()


@procedure("RES-08", fresh=True)
def noisy_neighbour(bench: Bench) -> None:
    """An app at twenty times its 30 a minute gets 429 with Retry-After; another's latency stays."""
    heads: list[tuple[int, bytes]] = []
    with neighbour(bench, "noise"):
        for _ in range(60):
            observed = request(bench, GET.format(path="/x"), source="7")
            heads += [(one.status, one.head.lower()) for one in observed.answers]
            time.sleep(0.1)
    codes = [code for code, _ in heads]
    bench.check(codes[:30] == [200] * 30, f"within its limit: {sorted(set(codes[:30]))}")
    bench.check(set(codes[31:]) == {429}, f"past its limit: {sorted(set(codes[31:]))}")
    bench.check(all(b"\nretry-after:" in head for code, head in heads if code == 429), "no Retry-After")


SCANNED = "".join(f"line {at}: the quick brown fox, order {at * 7919}\n" for at in range(120_000))[:5_000_000]


@procedure("RES-09", fresh=True)
def stalled_loop(bench: Bench) -> None:
    """5 MB to scan, thrice: each is answered, no other exchange of the same worker waits, and memory stays."""
    world = bench.world
    world.apps["alpha"]["limits"] = {**world.apps["alpha"]["limits"], "max_body": "8MiB"}
    world.push()
    codes = [_scan(bench, SCANNED[:MIB])]  # What a first long text loads and leaves in memos is taken once.
    with memory(bench, "scan"), neighbour(bench, "scan"), heart(bench, "scan"):
        codes += [_scan(bench, f"{at}{SCANNED}") for at in range(3)]
    bench.check(codes == [[200]] * 4, f"scan: {codes}")
    pattern = "version: 1\ndlp: {patterns: [{entity: X, regex: '(a)\\1+$'}]}\n"
    done = check(bench, "regex", pattern, file="platform.yaml")
    bench.check(done.returncode != 0 and "platform.yaml" in done.stdout + done.stderr, "a back-reference is accepted")


def _scan(bench: Bench, text: str) -> list[int]:
    """Statuses of a request with this body."""
    head = "POST http://${A}/x HTTP/1.1\r\nHost: ${A}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    body = f"{head}Content-Length: {len(text)}\r\n\r\n{text}"
    return [one.status for one in request(bench, body, within_s=20).answers]
