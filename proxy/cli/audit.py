"""`egress audit verify|prove|public-key|show|tail|export`: the tamper-evident trail."""

import argparse
import heapq
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from proxy.audit import for_terminal
from proxy.audit_chain import SUPERVISOR, ChainReport, Head, Problem, Vouched, check_heads, verify_chain
from proxy.audit_public import disproved, proof_of, verify_public
from proxy.audit_seal import Signer
from proxy.cli import CliError, Verb
from proxy.cli._keys import actions, load_root, parse_duration
from proxy.cli._out import show
from proxy.cli._trail import audit_directory, chain_keys, exchanges_in_order, line, records, time_of
from proxy.keys.root import AUDIT_SIGNATURE
from proxy.ocsf import activity
from proxy.sinks._reader import Follower, segments
from proxy.sinks.file import UnsafeAuditFile, writers

_FILTERS = ("app", "outcome", "code", "id")
_POLL_S = 0.3
type _Check = Callable[..., ChainReport]
_FORMATS: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {"ocsf": activity, "json": dict}


def _configure(parser: argparse.ArgumentParser) -> None:
    _add_directory(parser, default=None)
    action = actions(parser)
    verify = action("verify", "check every chain, offline; exit 1 and the first bad record if any")
    verify.add_argument(
        "--head",
        action="append",
        default=[],
        metavar="WRITER:SEQ:MAC",
        help="a head kept elsewhere that must stand in the trail (repeatable); `verify --json` prints the present ones",
    )
    verify.add_argument(
        "--public-key",
        action="append",
        default=[],
        metavar="KEY",
        help="check the signed checkpoints instead of the keyed chain, without the root key; what no checkpoint covers "
        "yet is counted apart",
    )
    verify.add_argument("--proof", type=Path, metavar="FILE", help="check what `prove` printed, by --public-key")
    _add_directory(verify, default=argparse.SUPPRESS)
    action("public-key", "print the public key of the checkpoints, of each root key")
    prove = action("prove", "print the proof that one exchange's record stands in the trail")
    prove.add_argument("id", metavar="ID", help="the exchange, as in its denial or record")
    _add_directory(prove, default=argparse.SUPPRESS)
    for name, text in (("show", "print records"), ("tail", "print records and wait for more")):
        printing = action(name, text)
        _add_directory(printing, default=argparse.SUPPRESS)
        for each in _FILTERS:
            printing.add_argument(f"--{each}", help=f"only records with this {each}")
        printing.add_argument("--last", type=int, default=20, metavar="N", help="how many (default: 20)")
        printing.add_argument("--since", metavar="DURATION", help="not older than this, like 2h or 7d")
        printing.add_argument("--events", action="store_true", help="the trail's remarks about itself, too")

    export = action(
        "export",
        "print every exchange's record, as it comes to its end, one JSON line each; exit 1 when some are damaged",
    )
    _add_directory(export, default=argparse.SUPPRESS)
    export.add_argument(
        "--format",
        choices=sorted(_FORMATS),
        default="ocsf",
        help="ocsf: HTTP Activity (default); json: as stored",
    )
    for each in _FILTERS:
        export.add_argument(f"--{each}", help=f"only records with this {each}")
    export.add_argument("--since", metavar="DURATION", help="not older than this, like 2h or 7d")


def _add_directory(parser: argparse.ArgumentParser, *, default: object) -> None:
    """Before or after the action's name, as people write it."""
    parser.add_argument(
        "--dir", type=Path, default=default, help="audit directory (default: the one in the state directory)"
    )


def _run(args: argparse.Namespace) -> int:
    try:
        return _ACTIONS[args.action](args)
    except UnsafeAuditFile as error:
        raise CliError("the audit trail is not safe to read", str(audit_directory(args)), str(error)) from None


# --- verify -----------------------------------------------------------------------------------------------------


def _kept_heads(texts: Sequence[str]) -> dict[str, dict[int, str]]:
    kept: dict[str, dict[int, str]] = {}
    for text in texts:
        writer, _, rest = text.rpartition(":")[0].rpartition(":")
        mac = text.rpartition(":")[2]
        if not writer or not rest.isdigit() or len(mac) != 64:
            raise CliError(
                f"{text!r} is not a head", "--head", "write WRITER:SEQ:MAC as `audit verify --json` prints it"
            )
        kept.setdefault(writer, {})[int(rest)] = mac
    return kept


def verify_directory(
    directory: Path, check: _Check, kept: Mapping[str, Mapping[int, str]]
) -> tuple[list[ChainReport], list[Problem]]:
    """Checks all chains of an audit directory against each other and against `kept` heads (writer -> seq -> MAC).
    `check`: `verify_chain` or `verify_public` with their keys."""
    present = writers(directory)
    reports: list[ChainReport] = []
    told: dict[str, Vouched] = {}
    # The supervisor's chain first: on a running system the others only grow meanwhile, so no head can seem cut off.
    if SUPERVISOR in present:
        want = frozenset(kept.get(SUPERVISOR, {}))
        reports.append(check(SUPERVISOR, segments(directory, SUPERVISOR), want=want))
        told = reports[0].told
    for writer, heads in kept.items():
        told.setdefault(writer, Vouched()).heads.update(heads)
    for writer in present:
        if writer != SUPERVISOR:
            want = frozenset(told[writer].heads) if writer in told else frozenset()
            reports.append(check(writer, segments(directory, writer), want=want))
    return reports, list(_problems(reports, told, present))


def _problems(reports: Sequence[ChainReport], told: Mapping[str, Vouched], present: Sequence[str]) -> Iterator[Problem]:
    for report in reports:
        found = report.problem or (check_heads(report, told[report.writer]) if report.writer in told else None)
        if found is not None:
            yield found
    for writer, vouched in told.items():
        if writer not in present and any(vouched.heads):
            yield Problem(writer, "the supervisor saw this chain, and it is gone")
    if present and SUPERVISOR not in present:
        yield Problem(SUPERVISOR, "the supervisor's chain is gone, so records cut off the end of others cannot be seen")


def _verify(args: argparse.Namespace) -> int:
    if args.proof is not None:
        return _verify_proof(args)
    directory = audit_directory(args)
    try:
        reports, problems = verify_directory(directory, _check_of(args), _kept_heads(args.head))
    except ValueError as error:
        raise CliError(str(error), "--public-key", "`egress audit public-key` prints it") from None
    value = {
        "ok": not problems,
        "problems": [{"where": each.where, "what": each.what} for each in problems],
        "chains": [_chain_facts(report) for report in reports],
    }
    lines = [f"BAD  {each.where}: {each.what}" for each in problems]
    lines += [f"note {note}" for report in reports for note in report.notes]
    # What no key vouches for may hold anything, also what a terminal would obey.
    show(args, value, "\n".join([*map(for_terminal, lines), _summary(reports, directory, ok=not problems)]))
    return 1 if problems else 0


def _summary(reports: Sequence[ChainReport], directory: Path, *, ok: bool) -> str:
    uncovered = sum(report.uncovered for report in reports)
    covered = sum(report.records for report in reports) - uncovered
    more = f"; {uncovered} more at their ends, which no checkpoint covers yet" if uncovered else ""
    return f"{'OK' if ok else 'NOT OK'}: {covered} records in {len(reports)} chains{more}, {directory}"


def _check_of(args: argparse.Namespace) -> _Check:
    if args.public_key:
        # One set for all chains: the supervisor's, which is first, tells of new keys to those that began with them.
        return partial(verify_public, keys=set(args.public_key))
    return partial(verify_chain, keys=chain_keys(args))


def _verify_proof(args: argparse.Namespace) -> int:
    if not args.public_key:
        raise CliError("a proof is checked with a public key", "--proof", "add --public-key ed25519:…")
    try:
        proof = json.loads(args.proof.read_text())
        why = disproved(proof, frozenset(args.public_key))
    except FileNotFoundError:
        raise CliError("there is no such file", str(args.proof), "name what `egress audit prove ID` printed") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CliError(f"not a proof: {error}", str(args.proof), "`egress audit prove ID` prints one") from None
    show(args, {"ok": not why, "problem": why or None}, f"NOT OK: {why}" if why else f"OK: {proof['record']}")
    return 1 if why else 0


def _prove(args: argparse.Namespace) -> int:
    directory = audit_directory(args)
    for writer in writers(directory):
        proof = proof_of(args.id, segments(directory, writer))
        if proof is not None:
            print(json.dumps(proof))
            return 0
    raise CliError("no checkpoint covers the end of such an exchange", args.id, "a checkpoint comes within a second")


def _public_key(args: argparse.Namespace) -> int:
    rows = [
        {"root_key_id": each.id, "public_key": Signer(each.derive(AUDIT_SIGNATURE)).public}
        for each in load_root(args.paths).generations
    ]
    show(args, rows, "\n".join(row["public_key"] for row in rows))
    return 0


def _chain_facts(report: ChainReport) -> dict[str, Any]:
    # A head that is to be kept must be one that is proved.
    head: Head = report.proved or report.head
    return {
        "writer": report.writer,
        "records": report.records - report.uncovered,
        "uncovered": report.uncovered,
        "head": f"{report.writer}:{head.seq}:{head.mac}",
        "notes": report.notes,
        "still_open": len(report.opened),
    }


# --- show, tail -------------------------------------------------------------------------------------------------


def _wanted(args: argparse.Namespace, fields: Mapping[str, Any]) -> bool:
    if fields.get("kind") == "event" and not args.events:
        return False
    return _matches(args, fields)


def _matches(args: argparse.Namespace, fields: Mapping[str, Any]) -> bool:
    return all(getattr(args, name) in (None, str(fields.get(name))) for name in _FILTERS)


def _print(args: argparse.Namespace, fields: Mapping[str, Any]) -> None:
    print(json.dumps(fields) if args.json else line(fields), flush=True)


def _newest(args: argparse.Namespace) -> list[Mapping[str, Any]]:
    since_s = time.time() - parse_duration(args.since) if args.since else 0.0
    # A filter that must occur in the line spares the check of every other record.
    needle = next((f'"{getattr(args, name)}"'.encode() for name in _FILTERS if getattr(args, name)), b"")
    found = (fields for fields in records(args, since_s=since_s, having=needle) if _wanted(args, fields))
    recent = (fields for fields in found if time_of(fields) >= since_s)
    return heapq.nlargest(max(0, args.last), recent, key=lambda fields: (str(fields["time"]), fields["seq"]))[::-1]


def _show(args: argparse.Namespace) -> int:
    for fields in _newest(args):
        _print(args, fields)
    return 0


def _export(args: argparse.Namespace) -> int:
    since_s = time.time() - parse_duration(args.since) if args.since else 0.0
    shape = _FORMATS[args.format]
    damaged: list[Problem] = []

    def warn(problem: Problem) -> None:
        damaged.append(problem)
        print(for_terminal(f"warning: {problem.where}: {problem.what}"), file=sys.stderr)

    for fields in exchanges_in_order(args, warn, since_s=since_s):
        if time_of(fields) >= since_s and _matches(args, fields):
            print(json.dumps(shape(fields)))
    if damaged:
        print("the export has gaps: `egress audit verify` tells more", file=sys.stderr)
    return 1 if damaged else 0


def _tail(args: argparse.Namespace) -> int:
    follower = Follower(audit_directory(args), chain_keys(args))
    _show(args)
    while True:
        time.sleep(_POLL_S)
        for record in follower.poll():
            if _wanted(args, record.fields):
                _print(args, record.fields)


_ACTIONS = {
    "verify": _verify, "prove": _prove, "public-key": _public_key, "show": _show, "tail": _tail, "export": _export,
}  # fmt: skip
VERB = Verb("audit", "verify and show the tamper-evident trail", _configure, _run)
