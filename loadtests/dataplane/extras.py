"""What is no request per second: streams, idle connections, a large download, restarts under load."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any, Final

from loadtests.dataplane import processes
from loadtests.dataplane.cases import AUTHORIZATION, loads
from loadtests.dataplane.load import Generator, Load, Route
from loadtests.dataplane.peers import Running
from loadtests.dataplane.product import WORKER
from loadtests.dataplane.scene import BURST_PORT, DOWNLOAD_BYTES, HOST, PACED_PORT, Scene
from proxy.cli._admin import ask
from proxy.paths import Paths

_MIB: Final = 1 << 20
_RESTART_S: Final = 60.0


def _to(route: Route, port: int) -> Route:
    """The same way to another port of the origin."""
    target = f"127.0.0.1:{port}" if route.mode == "direct" else route.target
    return replace(route, target=target, authority=f"{HOST}:{port}")


def streams(scene: Scene, running: Running, route: Route) -> dict[str, float]:
    """Time to the first event of paced streams on 20 connections; events per second, and CPU per event, of bursts."""
    load = Load(body=scene.body("stream"), fields=(AUTHORIZATION,), connections=20, seconds=3, stream=True)
    paced = Generator(_to(route, PACED_PORT), load).go()
    before = running.sample() if running.process else None
    burst = Generator(_to(route, BURST_PORT), replace(load, connections=4)).go()
    found = {
        "first_event_ms": round(paced["first_event_us"]["p50"] / 1e3, 2),
        "paced_failed": paced["failed"] + burst["failed"],
        "events_per_s": round(burst["events_per_s"]),
    }
    if before is not None:
        found["cpu_us_per_event"] = round(running.sample().cpu_since(before) / (burst["events"] or 1) * 1e6, 2)
    return found


def idle(running: Running, route: Route, load: Load, count: int) -> float:
    """KB of resident memory per open, intercepted connection that has had its first answer."""
    # One round beforehand, so that what is made once (contexts, pools, code) does not count.
    Generator(route, replace(load, connections=16, warm=2), hold=True).go()
    before = running.sample().rss_total_bytes
    holding = Generator(route, replace(load, connections=count, warm=1), hold=True)
    kept = running.sample().rss_total_bytes - before
    holding.go()
    return kept / count / 1024


@contextmanager
def _peak_rss(running: Running) -> Iterator[list[int]]:
    """The tree's highest resident memory while the block ran, as the only element."""
    peak = [running.sample().rss_total_bytes]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], running.sample().rss_total_bytes)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def download(running: Running, route: Route) -> dict[str, float]:
    """One download of 200 MB: how far resident memory rose, and how long it took."""
    load = Load(method="GET", path="/download", connections=1, seconds=0.001, warm=0, deadline_s=120)
    before = running.sample().rss_total_bytes
    with _peak_rss(running) as peak:
        answer = Generator(route, load).go()
    if answer["payload_bytes"] != DOWNLOAD_BYTES:
        raise RuntimeError(f"the download had {answer['payload_bytes']} bytes instead of {DOWNLOAD_BYTES}")
    return {"rss_mb": round((peak[0] - before) / _MIB, 1), "seconds": round(answer["seconds"], 2)}


def restart(running: Running) -> None:
    """One hot restart; returns when all workers are new and serve."""
    if running.process is None or running.state_dir is None:
        raise RuntimeError(f"{running.name} cannot be restarted")
    paths = Paths(running.state_dir)

    def workers() -> dict[str, str]:
        return {worker["id"]: worker["state"] for worker in ask(paths, "status")["workers"]}

    old = set(workers())
    running.process.send_signal(signal.SIGHUP)

    def renewed() -> bool:
        now = workers()
        return not old & set(now) and all(state == "serving" for state in now.values())

    processes.wait_for(renewed, "hot restart", _RESTART_S)


def restarts(running: Running, route: Route, load: Load, count: int) -> dict[str, Any]:
    """`count` hot restarts under load, fresh and kept-alive connections at once; every failed request counts."""
    kinds = {"fresh": replace(load, fresh=True, connections=8), "keepalive": replace(load, connections=8)}
    generators = {name: Generator(route, replace(kind, seconds=count * _RESTART_S)) for name, kind in kinds.items()}
    for generator in generators.values():
        generator.begin()
    for _ in range(count):
        restart(running)
    answers = {name: generator.end(early=True) for name, generator in generators.items()}
    return {
        "restarts": count,
        "requests": sum(answer["requests"] for answer in answers.values()),
        **{f"failed_{name}": answer["failed"] for name, answer in answers.items()},
        "failures": {name: answer["failures"] for name, answer in answers.items() if answer["failed"]},
    }


def two_workers(scene: Scene, one: Running, two: Running, rounds: int, seconds: float) -> dict[str, float]:
    """CPU per request of two workers over that of one, interleaved, and how evenly two workers share the load."""
    load = replace(loads(scene, seconds)["keepalive"], connections=64)
    cpu: dict[str, list[float]] = {"one": [], "two": []}
    shares: list[float] = []
    for _ in range(rounds):
        for name, running in (("one", one), ("two", two)):
            generator = Generator(running.routes["bench-all"], load)
            before = running.sample()
            answer = generator.go()
            after = running.sample()
            cpu[name].append(after.cpu_since(before) / answer["requests"] * 1e6)
            if name == "two":
                workers = processes.matching(WORKER, running.process.pid) if running.process else []
                spent = [after.cpu_s[pid] - before.cpu_s.get(pid, 0) for pid in workers]
                shares.append(100 * max(spent) / sum(spent))
    return {
        "cpu_one_us": round(median(cpu["one"]), 1),
        "cpu_two_us": round(median(cpu["two"]), 1),
        "cpu_2_workers_x": round(median(cpu["two"]) / median(cpu["one"]), 3),
        "busier_worker_percent": round(median(shares), 1),
    }
