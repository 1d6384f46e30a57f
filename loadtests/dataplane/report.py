"""From results to a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from loadtests.dataplane.rounds import Result

_WIDTHS = (28, 12, 8, 9, 9, 9, 8)
_TITLES = ("case", "cpu us/req", "x", "req/s", "p50 ms", "p99 ms", "failed")


def lines(results: Mapping[str, Result], absent: Mapping[str, str], extras: Mapping[str, Any]) -> Sequence[str]:
    """The table: CPU per request, times cheaper than bare mitmdump in the same discipline, rate, latency."""
    found = [_row(_TITLES)]
    for name, result in results.items():
        bare = results.get("mitmdump fresh" if result.case.load.fresh else "mitmdump keepalive")
        times = bare.cpu / result.cpu if bare is not None and bare.cpu and result.cpu else None
        cells = (
            name, _number(result.cpu, 1), _number(times, 2), _number(result.rate, 0),
            _number(result.latency("p50"), 2, 1e-3), _number(result.latency("p99"), 2, 1e-3), str(result.failed),
        )  # fmt: skip
        found.append(_row(cells) + (f"  {result.trouble}" if result.trouble else ""))
    found += [f"absent: {name}: {why}" for name, why in absent.items()]
    found += [f"{name}: {value}" for name, value in extras.items()]
    return found


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return "-" if value is None else f"{value * factor:.{digits}f}"


def _row(cells: Sequence[str]) -> str:
    first, *others = cells
    return first.ljust(_WIDTHS[0]) + "".join(cell.rjust(width) for cell, width in zip(others, _WIDTHS[1:], strict=True))
