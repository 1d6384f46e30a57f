"""`egress usage`: calls, tokens and money by app, owner, cost centre, model or provider."""

import argparse
import asyncio
import csv
import io
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from proxy.budget import usd
from proxy.cli import EXIT_CLEAN, CliError, Verb
from proxy.cli._issue import open_store
from proxy.cli._out import table
from proxy.cli._policy import add_store
from proxy.stores.usage_rows import COUNTERS

GROUPS: Final = ("app", "owner", "cost_center", "model", "provider", "day")
_COLUMNS: Final = {
    "requests": "CALLS",
    "input_tokens": "INPUT",
    "output_tokens": "OUTPUT",
    "cache_read_input_tokens": "CACHED",
    "cost_usd_nanos": "COST USD",
    "saved_usd_nanos": "SAVED USD",
    "cache_hits": "HITS",
    "estimated": "ESTIMATED",
    "unpriced": "UNPRICED",
}


def _configure(parser: argparse.ArgumentParser) -> None:
    today = time.strftime("%Y-%m-%d", time.gmtime())
    parser.add_argument("--app", help="one app only")
    parser.add_argument("--since", metavar="DAY", default=f"{today[:8]}01", help="first day (default: of this month)")
    parser.add_argument("--until", metavar="DAY", default=today, help="last day, included (default: today, UTC)")
    parser.add_argument("--by", choices=GROUPS, default="app")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    add_store(parser)


def _run(args: argparse.Namespace) -> int:
    rows = asyncio.run(_rows(args))
    totals = grouped(rows, args.by)
    if args.json or args.format == "json":
        print(json.dumps({"since": args.since, "until": args.until, "by": args.by, "rows": totals}, indent=2))
    elif args.format == "csv":
        print(_csv(totals, args.by), end="")
    else:
        print(_table(totals, args.by) if totals else f"no calls from {args.since} to {args.until}")
    return EXIT_CLEAN


async def _rows(args: argparse.Namespace) -> list[Mapping[str, Any]]:
    store = open_store(args.store, args.paths)
    try:
        return list(await store.budget.usage(since=args.since, until=args.until, app=args.app))
    except ValueError as error:
        raise CliError(str(error), "--since, --until", "write days like 2026-11-24") from None
    finally:
        await store.aclose()


def grouped(rows: Iterable[Mapping[str, Any]], by: str) -> list[dict[str, Any]]:
    """Sums per value of `by`, the dearest first."""
    totals: dict[str, dict[str, Any]] = {}
    for row in rows:
        total = totals.setdefault(str(row[by]), {by: str(row[by])} | dict.fromkeys(COUNTERS, 0))
        for name in COUNTERS:
            total[name] += row[name]
    key = (lambda row: row[by]) if by == "day" else (lambda row: (-row["cost_usd_nanos"], row[by]))
    return sorted(totals.values(), key=key)


def _table(totals: list[dict[str, Any]], by: str) -> str:
    total = {by: "TOTAL"} | {name: sum(row[name] for row in totals) for name in COUNTERS}
    header = (by.replace("_", " ").upper(), *_COLUMNS.values())
    return table(header, [(row[by] or "-", *(_cell(name, row[name]) for name in _COLUMNS)) for row in [*totals, total]])


def _cell(name: str, value: int) -> str:
    return usd(value) if name.endswith("_usd_nanos") else str(value)


def _csv(totals: list[dict[str, Any]], by: str) -> str:
    """Money in dollars, exact. A cell that a spreadsheet would run as a formula gets a leading apostrophe (OWASP, CSV
    injection): model names come from requests."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([by, *(name.replace("_usd_nanos", "_usd") for name in COUNTERS)])
    for row in totals:
        label = row[by]
        writer.writerow(
            [f"'{label}" if label[:1] in ("=", "+", "-", "@", "\t", "\r") else label]
            + [_cell(name, row[name]) for name in COUNTERS]
        )
    return out.getvalue()


VERB = Verb("usage", "calls, tokens and money: print or export", _configure, _run)
