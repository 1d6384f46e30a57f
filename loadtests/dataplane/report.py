"""From results to a table and the JSON line."""

from collections.abc import Mapping

from loadtests.dataplane.rounds import Result


def show(results: Mapping[str, Result], absent: Mapping[str, str]) -> None:
    """Prints a table."""
    print(f"{'case':<24}{'cpu us/req':>11}{'req/s':>9}{'p50 us':>9}{'p99 us':>9}{'failed':>8}")
    for name, result in results.items():
        numbers = (result.cpu, result.rate, result.latency("p50"), result.latency("p99"))
        print(
            f"{name:<24}"
            + "".join(
                f"{'-' if n is None else format(n, '.0f'):>{w}}" for n, w in zip(numbers, (11, 9, 9, 9), strict=True)
            )
            + f"{result.failed:>8}"
            + (f"  {result.broken}" if result.broken else "")
            + (f" {result.runs[-1]['failures']} {result.runs[-1]['other_status']}" if result.failed else "")
        )
    for name, why in absent.items():
        print(f"absent: {name}: {why}")
