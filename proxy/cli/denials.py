"""`egress denials --app A`: what was refused lately, why, how often, and what to do about it."""

import argparse
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.audit import for_terminal
from proxy.cli import CliError, Verb
from proxy.cli._keys import ago, parse_duration
from proxy.cli._out import show
from proxy.cli._trail import records, target, time_of
from proxy.errors import REASONS
from proxy.sinks.file import UnsafeAuditFile


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--app", help="only this app's (default: all)")
    parser.add_argument("--since", default="24h", help="how far back, like 30m, 24h or 7d (default: 24h)")
    parser.add_argument("--code", help="only this reason code")
    parser.add_argument("--last", type=int, default=20, metavar="N", help="how many kinds of denial (default: 20)")


@dataclass(slots=True)
class Group:
    """Denials that have the same cause. `fields` are those of the newest; `enforced` False: report mode let it pass."""

    fields: Mapping[str, Any]
    code: str
    enforced: bool
    count: int
    last_s: float
    first_s: float


def group(found: Iterable[Mapping[str, Any]], *, app: str | None, code: str | None, since_s: float) -> list[Group]:
    """Denials by app, code, target and rule, the most recent kind first."""
    groups: dict[tuple[object, ...], Group] = {}
    for fields in found:
        cause = str(fields.get("code") or fields.get("would_deny") or "")
        at_s = time_of(fields)
        if not cause or at_s < since_s or app not in (None, fields.get("app")) or code not in (None, cause):
            continue
        enforced = fields.get("outcome") == "denied"
        key = (fields.get("app"), cause, enforced, target(fields), fields.get("rule_id"))
        known = groups.setdefault(key, Group(fields, cause, enforced, 0, at_s, at_s))
        known.count += 1
        known.first_s = min(known.first_s, at_s)
        if at_s > known.last_s:
            known.fields, known.last_s = fields, at_s
    return sorted(groups.values(), key=lambda each: -each.last_s)


def _remedy(each: Group) -> str:
    if each.fields.get("remedy"):
        return str(each.fields["remedy"])
    return REASONS[each.code].remedy if each.code in REASONS else "See `egress explain`."


def _text(each: Group, now_s: float) -> str:
    fields = each.fields
    verdict = each.code if each.enforced else f"{each.code} (report mode let it pass)"
    what = fields.get("detail") or (REASONS[each.code].title if each.code in REASONS else "")
    times = "once" if each.count == 1 else f"{each.count} times"
    rule = " at ".join(str(fields[name]) for name in ("rule_id", "rule_at") if fields.get(name))
    return for_lines(
        f"{verdict}  {fields.get('app', '-')}  {target(fields)}",
        f"  what:  {what}",
        *([f"  rule:  {rule}"] if rule else []),
        f"  fix:   {_remedy(each)}",
        f"  when:  {times}, last {ago(each.last_s, now_s)} (decision {fields.get('id')})",
    )


def for_lines(*lines: str) -> str:
    """Each line made safe for a terminal."""
    return "\n".join(for_terminal(line) for line in lines)


def _facts(each: Group) -> dict[str, Any]:
    return {
        "app": each.fields.get("app"),
        "code": each.code,
        "enforced": each.enforced,
        "count": each.count,
        "first_s": each.first_s,
        "last_s": each.last_s,
        "target": target(each.fields),
        "detail": each.fields.get("detail"),
        "rule_id": each.fields.get("rule_id"),
        "rule_at": each.fields.get("rule_at"),
        "remedy": _remedy(each),
        "decision_id": each.fields.get("id"),
    }


def _run(args: argparse.Namespace) -> int:
    now_s = time.time()
    since_s = now_s - parse_duration(args.since)
    try:
        found = [
            *records(args, since_s=since_s, having=b'"outcome":"denied"'),
            *records(args, since_s=since_s, having=b'"would_deny":'),
        ]
    except UnsafeAuditFile as error:
        raise CliError("the audit trail is not safe to read", str(args.paths.audit_dir), str(error)) from None
    unique = {(fields["writer"], fields["seq"]): fields for fields in found if fields.get("kind") == "terminal"}
    groups = group(unique.values(), app=args.app, code=args.code, since_s=since_s)[: max(0, args.last)]
    whose = f" for {args.app}" if args.app else ""
    text = "\n\n".join(_text(each, now_s) for each in groups) or f"no denials{whose} in the last {args.since}"
    show(args, [_facts(each) for each in groups], text)
    return 0


VERB = Verb("denials", "the last denials of an app, each with its remedy", _configure, _run)
