"""`make soak MINUTES=30`: steady load while policy is reloaded, workers are restarted and the store goes away.

The first half has hot restarts, reloads and store outages; the second goes on without restarts, so that the workers
live long enough for the slope of their memory to mean something. Ends with one JSON line; a slope over minutes is
noise, over hours a figure.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from loadtests.dataplane import cases, extras, namespace, processes, product
from loadtests.dataplane.load import Generator
from loadtests.dataplane.peers import Running
from loadtests.dataplane.places import ROOT, Missing, load_generator, python
from loadtests.dataplane.scene import Scene

_SAMPLE_EVERY_S: Final = 2.0
_DISTURB_EVERY_S: Final = 15.0
_OUTAGE_S: Final = 4.0
_STORE: Final = "valkey-server"
_MIB: Final = 1 << 20


@dataclass
class Soak:
    """One run. `disturbances` counts what was done to the product."""

    scene: Scene
    running: Running
    samples: list[tuple[float, processes.Sample]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    disturbances: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("reload", "restart", "outage"), 0))

    def go(self, seconds: float) -> dict[str, Any]:
        """Loads, disturbs and samples for so long; the figures."""
        generators = self._load(seconds)
        began_s = time.monotonic()
        half_s = began_s + seconds / 2
        stormy = itertools.cycle((self.reload, self.restart, self.outage))
        calm = itertools.cycle((self.reload, self.outage))
        disturb_s = began_s + _DISTURB_EVERY_S
        while (now_s := time.monotonic()) < began_s + seconds:
            self.samples.append((now_s, self.running.sample()))
            self.names.update((pid, _name(pid)) for pid in self.samples[-1][1].rss_bytes if pid not in self.names)
            if now_s >= disturb_s:
                next(stormy if now_s < half_s else calm)()
                disturb_s = time.monotonic() + _DISTURB_EVERY_S
            time.sleep(_SAMPLE_EVERY_S)
        return self._figures([generator.end() for generator in generators], half_s)

    def _load(self, seconds: float) -> Sequence[Generator]:
        """50 requests a second on kept connections, 10 on fresh ones, from 200 prompts that have all been seen."""
        steady = replace(
            cases.loads(self.scene, seconds)["rate"], body=self.scene.body("small-unique"), rate=50.0, distinct=200,
            connections=32, warm=8, seconds=seconds,
        )  # fmt: skip
        route = self.running.routes["bench-all"]
        generators = [Generator(route, steady), Generator(route, replace(steady, fresh=True, rate=10.0))]
        for generator in generators:
            generator.begin()
        return generators

    # -- what is done to it

    def reload(self) -> None:
        """Publishes another policy."""
        self.disturbances["reload"] += 1
        file = self.scene.folder / self.running.name / "policy" / "apps" / "bench-all.yaml"
        app = json.loads(file.read_text())
        app["allow"][0]["reason"] = f"soak, revision {self.disturbances['reload']}"
        file.write_text(json.dumps(app))
        self._cli("push", str(file.parents[1]), "--reason", "soak")

    def restart(self) -> None:
        """One hot restart of all workers."""
        self.disturbances["restart"] += 1
        extras.restart(self.running)

    def outage(self) -> None:
        """The store does not answer for some seconds."""
        root = self.running.process.pid if self.running.process else 0
        stores = [pid for pid in processes.tree(root) if _STORE in _program(pid)]
        if not stores:
            raise RuntimeError("no store process found")
        self.disturbances["outage"] += 1
        for pid in stores:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(_OUTAGE_S)
        for pid in stores:
            os.kill(pid, signal.SIGCONT)

    def _cli(self, *arguments: str) -> None:
        command = [python(), "-m", "proxy.cli", *arguments, "--state", str(self.running.state_dir)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"egress {arguments[0]}: {done.stderr.strip()}")

    # -- figures

    def _figures(self, answers: Sequence[dict[str, Any]], half_s: float) -> dict[str, Any]:
        settled = [(at_s, sample) for at_s, sample in self.samples if at_s >= half_s + _DISTURB_EVERY_S]
        first, last = (settled or self.samples)[0][1], self.samples[-1][1]
        late = [(at_s, sample) for at_s, sample in settled if at_s >= half_s + (self.samples[-1][0] - half_s) / 2]
        latencies = [answer["latency_us"] for answer in answers if answer["latency_us"]]
        return {
            "requests": sum(answer["requests"] for answer in answers),
            "failed_requests": sum(answer["failed"] for answer in answers),
            "failures": [answer["failures"] for answer in answers],
            "p50_ms": round(max(latency["p50"] for latency in latencies) / 1e3, 2),
            "p99_ms": round(max(latency["p99"] for latency in latencies) / 1e3, 2),
            "rss_mb": [round(sample.rss_total_bytes / _MIB, 1) for sample in (first, last)],
            # What fills while it is new (allocator, caches) shows in the first slope and not in the second.
            "rss_slope_mb_per_h": _mb_per_h(settled),
            "rss_slope_last_quarter_mb_per_h": _mb_per_h(late),
            "rss_slope_by_process_mb_per_h": self._by_process(settled),
            "rss_slope_by_process_last_quarter_mb_per_h": self._by_process(late),
            "descriptors": [first.descriptors, last.descriptors],
            "descriptors_peak": max(sample.descriptors for _, sample in self.samples),
            "denied": self._denied(),
            **{f"{name}s": count for name, count in self.disturbances.items()},
        }

    def _by_process(self, settled: Sequence[tuple[float, processes.Sample]]) -> dict[str, float]:
        """The slope of each process that was there to the end."""
        lasting = [
            pid for pid in self.samples[-1][1].rss_bytes if all(pid in sample.rss_bytes for _, sample in settled)
        ]
        return {f"{self.names.get(pid, '')} {pid}": _mb_per_h(settled, pid) for pid in lasting}

    def _denied(self) -> dict[str, int]:
        """Denials by reason, from the audit trail."""
        codes = Counter[str]()
        for file in (self.running.state_dir or Path()).glob("audit/*/*.jsonl"):
            for line in file.read_bytes().splitlines():
                record = json.loads(line)
                if record.get("outcome") == "denied":
                    codes[str(record.get("code"))] += 1
        return dict(codes)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares; 0 of fewer than two points."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def _mb_per_h(points: Sequence[tuple[float, processes.Sample]], pid: int | None = None) -> float:
    """The slope of all memory, or of one process's."""
    bytes_at = [(at_s, float(s.rss_total_bytes if pid is None else s.rss_bytes[pid])) for at_s, s in points]
    return round(slope(bytes_at) * 3600 / _MIB, 2)


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []


def _program(pid: int) -> str:
    return "".join(_command(pid)[:1])


def _name(pid: int) -> str:
    """The module of ours that a process runs (a child's stands behind its launcher's), or its program."""
    modules = [part for part in _command(pid) if part.startswith("proxy.")]
    return modules[-1] if modules else Path(_program(pid)).name


def main(start: Callable[[Scene], Running] = product.start) -> int:
    """Exit 0 when the run came to its end, 2 when it cannot be made here."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.dataplane.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("MINUTES") or 10))
    args = parser.parse_args()
    try:
        load_generator()
        namespace.enter("loadtests.dataplane.soak")
        processes.end_on_sigterm()
    except Missing as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="egress-soak-") as folder:
        scene = Scene.prepare(Path(folder))
        scene.start()
        try:
            running = start(scene)
            try:
                figures = Soak(scene, running).go(args.minutes * 60)
            finally:
                running.stop()
        finally:
            scene.stop()
    print(json.dumps({"minutes": args.minutes} | figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
