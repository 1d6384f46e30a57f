"""Runs cases in interleaved rounds and takes medians."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from loadtests.dataplane.cases import Case
from loadtests.dataplane.load import Generator
from loadtests.dataplane.peers import Running


@dataclass
class Result:
    """All rounds of one case. `cpu_us`: of the server's whole process tree, per request served."""

    case: Case
    cpu_us: list[float] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    broken: str | None = None

    @property
    def cpu(self) -> float | None:
        """Median CPU per request in microseconds; None without a measured process or a single success."""
        return median(self.cpu_us) if self.cpu_us else None

    @property
    def failed(self) -> int:
        """Failed requests in all rounds."""
        return sum(run["failed"] for run in self.runs)

    @property
    def trouble(self) -> str:
        """What went wrong, in words; empty when nothing did."""
        if self.broken:
            return self.broken
        kinds = Counter[str]()
        for run in self.runs:
            kinds.update(run["failures"])
        status = {run["other_status"] for run in self.runs} - {0}
        return ", ".join([f"{kind} {count}" for kind, count in kinds.items()] + [f"status {code}" for code in status])

    def latency(self, which: str = "p50") -> float | None:
        """Median over the rounds of one percentile, in microseconds."""
        found = [run["latency_us"][which] for run in self.runs if run["latency_us"]]
        return median(found) if found else None

    @property
    def rate(self) -> float | None:
        """Median requests per second."""
        return median(run["requests_per_s"] for run in self.runs) if self.runs else None


def once(server: Running, case: Case) -> tuple[float | None, dict[str, Any]]:
    """One round of one case: CPU seconds of the server and lg's answer."""
    generator = Generator(server.routes[case.route], case.load)
    if server.process is None:
        return None, generator.go()
    before = server.sample()
    answer = generator.go()
    return server.sample().cpu_since(before), answer


def measure(servers: Mapping[str, Running], cases: Sequence[Case], count: int) -> dict[str, Result]:
    """`count` rounds of all cases whose server is there, one case after the other in each round."""
    results = {case.name: Result(case) for case in cases if case.server in servers}
    for number in range(count):
        for result in results.values():
            _round(servers[result.case.server], result)
            print(f"\rround {number + 1}/{count}  {result.case.name:<24}", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    return results


def _round(server: Running, result: Result) -> None:
    try:
        cpu_s, answer = once(server, result.case)
    except RuntimeError as error:
        result.broken = str(error)
        return
    result.runs.append(answer)
    if cpu_s is not None and answer["requests"]:
        result.cpu_us.append(cpu_s / answer["requests"] * 1e6)
