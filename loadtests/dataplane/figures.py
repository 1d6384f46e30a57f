"""The figures that the bars are set on, from results. Pure."""

import math
from collections.abc import Mapping
from typing import Any, Final

from loadtests.dataplane.rounds import Result

# key -> (better when higher?, bar). What an `_x` compares stands in docs/explanation/performance.md.
BARS: Final[Mapping[str, tuple[bool, float]]] = {
    "lane_keepalive_x": (True, 10), "lane_fresh_x": (True, 8), "all_on_seen_keepalive_x": (True, 5),
    "all_on_seen_fresh_x": (True, 6), "lane_fresh_vs_squid_x": (True, 3), "cpu_2_workers_x": (False, 1.1),
    "cache_hit_vs_miss_x": (True, 1.5), "added_p50_ms": (False, 1.2), "added_p50_vs_mitmdump_x": (False, 0.5),
    "added_p99_ms": (False, 3), "idle_connection_kb": (False, 50), "download_200mb_rss_mb": (False, 32),
    "failed_requests": (False, 0),
}  # fmt: skip


def key_figures(results: Mapping[str, Result], extras: Mapping[str, Any]) -> dict[str, Any]:
    """The closing JSON line. None: not measured in this run."""

    def cpu(name: str) -> float | None:
        return results[name].cpu if name in results else None

    def added_us(name: str, which: str) -> float | None:
        served, straight = results.get(f"{name} rate"), results.get("direct rate")
        return _minus(served.latency(which) if served else None, straight.latency(which) if straight else None)

    ours_us = added_us("all", "p50")
    return {
        "mitmdump_cpu_us": _rounded(cpu("mitmdump keepalive"), 1),
        "mitmdump_fresh_cpu_us": _rounded(cpu("mitmdump fresh"), 1),
        "lane_keepalive_x": _over(cpu("mitmdump keepalive"), cpu("lane keepalive")),
        "lane_fresh_x": _over(cpu("mitmdump fresh"), cpu("lane fresh")),
        "all_on_seen_keepalive_x": _over(cpu("mitmdump keepalive"), cpu("all keepalive")),
        "all_on_seen_10k_keepalive_x": _over(
            cpu("mitmdump keepalive-10k") or cpu("mitmdump keepalive"), cpu("all keepalive-10k")
        ),
        "all_on_seen_fresh_x": _over(cpu("mitmdump fresh"), cpu("all fresh")),
        "lane_fresh_vs_squid_x": _over(cpu("squid fresh"), cpu("lane fresh")),
        "cpu_2_workers_x": extras.get("two_workers", {}).get("cpu_2_workers_x"),
        "cache_hit_vs_miss_x": _over(cpu("cache miss"), cpu("cache hit")),
        "added_p50_ms": _ms(ours_us),
        "added_p50_vs_mitmdump_x": _over(ours_us, added_us("mitmdump", "p50")),
        "added_p99_ms": _ms(added_us("all", "p99")),
        "idle_connection_kb": _rounded(extras.get("memory", {}).get("idle_kb"), 1),
        "download_200mb_rss_mb": extras.get("memory", {}).get("download", {}).get("rss_mb"),
        "failed_requests": _failed(results, extras),
    }


def missed(figures: Mapping[str, Any]) -> list[str]:
    """The keys whose bar is not met, in the bars' order; what was not measured is not judged."""
    found = []
    for key, (higher, bar) in BARS.items():
        value = figures.get(key)
        if value is not None and (value < bar if higher else value > bar):
            found.append(key)
    return found


def _failed(results: Mapping[str, Result], extras: Mapping[str, Any]) -> int:
    """Of the product alone: peers' failures are theirs."""
    restarted = extras.get("restarts", {})
    under_restarts = sum(number for key, number in restarted.items() if key.startswith("failed_"))
    return int(under_restarts) + sum(result.failed for result in results.values() if result.case.server == "product")


def _over(upper: float | None, lower: float | None) -> float | None:
    return None if upper is None or not lower else round(upper / lower, 2)


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def _ms(us: float | None) -> float | None:
    return None if us is None else round(us / 1e3, 3)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or math.isnan(value) else round(value, digits)
