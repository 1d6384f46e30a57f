"""Processes that die, hang or lie; stores that go away; files that are bad."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.attack.client import Observed, attack
from tests.attack.net import GW_EXPLICIT
from tests.attack.procedures import Bench, procedure
from tests.attack.procedures.keys import copy_of_state, descendants
from tests.attack.wire import Run
from tests.attack.world import EXPLICIT, send_signal, wait_until
from tests.lab.product import ROOT


def request(bench: Bench, text: str, *, source: str = "2", mode: str = "explicit", within_s: float = 3.0) -> Observed:
    """One request of an app and what came of it."""
    world = bench.world
    base = {"BASE": "http://${A}" if mode == "explicit" else "", "AUTH": "allowed.test"}
    run = Run("procedure", "", mode, {"send": text, "from": source, "want": {"within_s": within_s}}, base)
    return attack(run, world.gate(run), lambda _: None)


def status(bench: Bench, path: str = "/legal", **more: str) -> int:
    """Status of a plain GET of the allowed host; 0 closed, -2 nothing."""
    observed = request(bench, f"GET http://${{A}}{path} HTTP/1.1\r\nHost: ${{A}}\r\nConnection: close\r\n\r\n", **more)  # type: ignore[arg-type]
    return observed.answers[0].status if observed.answers else -2


def children(bench: Bench, word: str) -> list[int]:
    """Processes of the product whose command line holds `word`."""
    product = bench.world.product
    if product is None or product.process is None:
        return []
    found = []
    for pid in descendants(product.process.pid):
        try:
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


POST = (
    "POST http://${A}/x HTTP/1.1\r\nHost: ${A}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    "Content-Length: 32\r\n\r\nplease summarise this text, %s\r\n"
)


@procedure("FLT-03", fresh=True)
def inspector_hangs_and_dies(bench: Bench) -> None:
    """SIGSTOP, then SIGKILL of every inspector process: 503 within 2 s, back within 5 s (15 s to load the model)."""
    pids = children(bench, "proxy.inspector")
    bench.check(pids, "no inspector process found")
    for pid in pids:
        send_signal(pid, signal.SIGSTOP)
    started_s = time.monotonic()
    observed = request(bench, POST % "ab", within_s=5)
    code = observed.answers[0].status if observed.answers else -2
    bench.check(code == 503, f"inspector stopped: {code}")
    bench.check(
        time.monotonic() - started_s < 3, f"inspector stopped: answer after {time.monotonic() - started_s:.1f} s"
    )
    for pid in pids:
        send_signal(pid, signal.SIGCONT)
    served = wait_until(
        lambda: request(bench, POST % "cd").answers[:1] and request(bench, POST % "cd").answers[0].status == 200, 5
    )
    bench.check(served, "does not recover within 5 s of SIGCONT")
    for pid in pids:
        send_signal(pid, signal.SIGKILL)
    observed = request(bench, POST % "ef", within_s=5)
    code = observed.answers[0].status if observed.answers else -2
    bench.check(code in {503, 200}, f"inspector killed: {code}")
    back = wait_until(lambda: [a for a in request(bench, POST % "gh").answers if a.status == 200], 20)
    bench.check(back, "does not recover within 20 s of SIGKILL")


@procedure("FLT-05", fresh=True)
def worker_killed(bench: Bench) -> None:
    """SIGKILL of a worker: back within a few seconds, nothing got past it meanwhile."""
    world = bench.world
    pids = children(bench, "proxy.dataplane.worker")
    bench.check(pids, "no worker found")
    for pid in pids:
        send_signal(pid, signal.SIGKILL)
    if world.wires:
        world.wires.packets.clear()
    started_s = time.monotonic()
    back = wait_until(lambda: status(bench) == 200, 10)
    bench.check(back, "no new worker serves within 10 s")
    bench.check(time.monotonic() - started_s < 2, f"the new worker served after {time.monotonic() - started_s:.1f} s")
    if world.wires:
        strange = [packet for packet in world.wires.packets if packet.ip != "203.0.113.10" and packet.kind == "syn"]
        bench.check(not strange, f"SYN to {strange[:2]}")


@procedure("ADM-03", fresh=True)
def kill_switch(bench: Bench) -> None:
    """`egress kill`: bites within a second, survives a restart, cannot be lifted by traffic."""
    world, product = bench.world, bench.world.product
    if product is None or world.wires is None:
        return
    world.cli("kill", "alpha", "--reason", "test", check=False)
    denied = wait_until(lambda: status(bench) == 403, 1.5)
    bench.check(denied, "still served 1.5 s after the kill")
    observed = request(bench, "GET http://${A}/x HTTP/1.1\r\nHost: ${A}\r\nX-Egress-Unkill: alpha\r\n\r\n")
    bench.check([a.status for a in observed.answers] == [403], "a header lifts it")
    product.stop()
    world.wires.gw.call(product.start)
    bench.check(status(bench) == 403, "a restart lifts it")
    world.cli("unkill", "alpha", check=False)
    bench.check(wait_until(lambda: status(bench) == 200, 5), "unkill does not lift it")


@procedure("ADM-02", fresh=True)
def readiness(bench: Bench) -> None:
    """/readyz is 503 until policy, CA and inspector are there: seen at a start of the product."""
    world, product = bench.world, bench.world.product
    if product is None or world.wires is None:
        return
    product.stop()
    world.wires.gw.call(lambda: product.start(wait=False))
    seen: list[int] = []

    def look() -> bool:
        try:
            seen.append(product.page("/readyz")[0])
        except OSError:
            return False
        return seen[-1] == 200

    ready = world.wires.gw.call(lambda: wait_until(look, 40))
    bench.check(ready, f"never ready: {seen[-3:]}")
    bench.check(503 in seen, f"/readyz was never 503 while starting: {sorted(set(seen))}")
    bench.check(status(bench) == 200, "not serving when ready")


@procedure("FLT-08")
def black_hole(bench: Bench) -> None:
    """An address that swallows SYNs: 504 within 10 s; one that accepts and keeps silent: no hang for ever."""
    world = bench.world
    if world.wires is None:
        return
    rules = "table inet hole { chain input { type filter hook input priority 0; ip daddr 203.0.113.77 drop; }; }"
    subprocess.run(["ip", "netns", "exec", world.wires.net.name, "nft", "-f", "-"], input=rules, text=True, check=True)
    if world.resolver:
        world.resolver.set({"hole.allowed.test": [["203.0.113.77"]]})
    started_s = time.monotonic()
    text = "GET http://hole.allowed.test/ HTTP/1.1\r\nHost: hole.allowed.test\r\n\r\n"
    observed = request(bench, text, within_s=12)
    took_s = time.monotonic() - started_s
    bench.check([a.status for a in observed.answers] == [504], f"black hole: {[a.status for a in observed.answers]}")
    bench.check(took_s < 11, f"black hole: {took_s:.1f} s")


@procedure("FLT-01", "FLT-02", fresh=True, baseline=True)
def hook_raises(bench: Bench) -> None:
    """An inspection that raises. For a baseline: a body whose charset makes `.text` raise, with the token in it."""
    world = bench.world
    token = world.token()
    world.upstreams.mark()
    text = (
        f"POST http://${{A}}/{token} HTTP/1.1\r\nHost: ${{A}}\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n"
        "Content-Length: 21\r\n\r\nmy SSN is 123-45-6789"
    )
    observed = request(bench, text)
    if any(token.encode() in one.all for one in world.upstreams.accepted):
        bench.leak("what the check could not read was forwarded")
    if not world.baseline:
        bench.check(observed.answers and observed.answers[0].status in {400, 415, 503}, "no denial")


@procedure("FLT-06")
def broken_start(bench: Bench) -> None:
    """A broken policy module or directory: exit code 2, three lines."""
    state = copy_of_state(bench, "broken")
    command = [
        sys.executable, "-m", "proxy.cli", "run", "--state", str(state), "--directory", "/nonexistent",
        "--explicit", "127.0.0.1:0", "--transparent", "off", "--metrics", "127.0.0.1:0",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=20)
    bench.check(done.returncode == 2, f"exit {done.returncode}: {done.stderr[:200]}")


@procedure("CFG-11", fresh=True, baseline=True)
def addon_overwritten(bench: Bench) -> None:
    """The addon's file is replaced while it runs. A baseline reloads it and lets everything through."""
    world = bench.world
    if not world.baseline:
        product = world.product
        arguments = b" ".join(
            Path(f"/proc/{pid}/cmdline").read_bytes()
            for pid in descendants(product.process.pid)  # type: ignore[union-attr]
        )
        bench.check(b"-s\0" not in arguments and b"scripts" not in arguments, "a script is loaded from a path")
        return
    from tests.attack.baseline import launch

    script = Path(launch.__file__).with_name("naive.py")
    original = script.read_text()
    denied = "GET http://evil.test/x HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    try:
        script.write_text("this is no Python(")
        let = wait_until(lambda: [a for a in request(bench, denied).answers if a.status == 200], 8)
        if let:
            bench.leak("after a broken save everything is forwarded")
    finally:
        script.write_text(original)


@procedure("RES-05")
def idle_connections(bench: Bench) -> None:
    """Many idle connections of one app: another app is still served within a second."""
    world = bench.world
    idle: list[socket.socket] = []
    try:
        for _ in range(300):
            try:
                idle.append(world.dial((GW_EXPLICIT, EXPLICIT), "7"))
            except OSError:
                break
        started_s = time.monotonic()
        bench.check(status(bench, source="4") == 200, "another app is not served")
        bench.check(time.monotonic() - started_s < 1, "another app waits")
    finally:
        for one in idle:
            one.close()
