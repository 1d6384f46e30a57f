"""`egress replay`: judges recorded traffic by a policy that is not published yet, and shows what would change."""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.audit import for_terminal
from proxy.cli import EXIT_CLEAN, EXIT_FINDINGS, EXIT_USAGE, CliError, Verb
from proxy.cli import _policy as policy
from proxy.cli._keys import parse_duration
from proxy.cli._out import show
from proxy.cli._trail import records, time_of
from proxy.sinks.file import UnsafeAuditFile

if TYPE_CHECKING:
    from proxy.replay import Report

_SHOWN = 50


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", nargs="?", type=Path, default=Path("allowlists"), help="the candidate (default: ./allowlists)"
    )
    parser.add_argument("--app", help="only this app's records (default: all)")
    parser.add_argument("--since", default="7d", help="how far back, like 24h or 7d (default: 7d)")


def _run(args: argparse.Namespace) -> int:
    from proxy.config.compile import compile_snapshot
    from proxy.replay import replay

    content = policy.load(args.directory, args.paths)
    if content is None:
        return EXIT_USAGE
    now_s = time.time()
    since_s = now_s - parse_duration(args.since)
    candidate = compile_snapshot(content.canonical, seq=0)
    try:
        found = (
            fields
            for fields in records(args, since_s=since_s)
            if time_of(fields) >= since_s and args.app in (None, fields.get("app"))
        )
        report = replay(found, candidate, now_s)
    except UnsafeAuditFile as error:
        raise CliError("the audit trail is not safe to read", str(args.paths.audit_dir), str(error)) from None
    value = {
        "judged": report.judged,
        "changes": [asdict(change) for change in report.changes],
        "skipped": dict(report.skipped),
    }
    show(args, value, _text(report, args.since))
    return EXIT_FINDINGS if report.changes else EXIT_CLEAN


def _text(report: "Report", since: str) -> str:
    lines = []
    for became in ("denied", "allowed"):
        changes = [change for change in report.changes if change.became == became]
        total = sum(change.count for change in changes)
        if changes:
            lines.append(f"newly {became}: {total} request{'s' * (total != 1)}")
        for change in changes[:_SHOWN]:
            lines.append(f"  {change.count:>6} x  {change.app}  {change.code}  {change.target}")
            lines.append(f"            {change.detail}{f' ({change.where})' if change.where else ''}")
        if len(changes) > _SHOWN:
            lines.append(f"  … and {len(changes) - _SHOWN} more kinds; --json shows all")
    if not lines:
        lines.append(f"nothing changes for the {report.judged} requests of the last {since}")
    lines += [f"not replayed: {count} ({why})" for why, count in report.skipped.most_common()]
    lines.append("inspection, key pins, budgets and rates are not in the records and were not replayed")
    return "\n".join(for_terminal(line) for line in lines)


VERB = Verb("replay", "what a policy would have said to recorded traffic", _configure, _run)
