"""`egress check`: every mistake in the policy files at once, each with its place and a value that would work."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.cli import EXIT_CLEAN, EXIT_FINDINGS, EXIT_USAGE, CliError, Verb
from proxy.cli._out import show

if TYPE_CHECKING:
    from proxy.config.compile import Content
    from proxy.config.errors import ConfigError
    from proxy.config.snapshot import AppPolicy, Snapshot

_SOON_S = 14 * 86400


@dataclass(frozen=True, slots=True)
class Note:
    """Something that is legal and worth a look. `finding` False: for information only."""

    at: str
    text: str
    fix: str
    finding: bool


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", nargs="?", type=Path, default=Path("allowlists"), help="default: ./allowlists")


def _run(args: argparse.Namespace) -> int:
    if not args.directory.is_dir():
        raise CliError("there is no such directory", str(args.directory), "name the directory that holds platform.yaml")
    content, errors = _check(args.directory, args.state)
    if content is None or errors:
        return _report(args, errors)
    from proxy.config.compile import compile_snapshot

    snapshot = compile_snapshot(content.canonical, seq=0, preview=True)
    notes = list(_notes(snapshot, time.time()))
    entries = sum(len(app.entries) for app in snapshot.apps.values())
    summary = f"ok: {len(snapshot.apps)} apps, {entries} entries, revision {content.revision[:12]}"
    warnings = [replace(one, file=str(args.directory / one.file)) for one in content.warnings]
    facts = {
        "errors": [],
        "warnings": [_row(one) for one in warnings],
        "notes": [{"at": note.at, "text": note.text, "fix": note.fix, "finding": note.finding} for note in notes],
        "revision": content.revision,
        "apps": list(content.apps),
    }
    lines = [
        f"{'warning' if note.finding else 'note'}: {note.text}\n  at:  {note.at}\n  fix: {note.fix}" for note in notes
    ]
    show(args, facts, "\n".join([*(one.told("warning") for one in warnings), *lines, summary]))
    return EXIT_FINDINGS if any(note.finding for note in notes) else EXIT_CLEAN


def _check(directory: Path, state_dir: Path) -> "tuple[Content | None, Sequence[ConfigError]]":
    """The content, and all mistakes of policy and test files."""
    from proxy.config.compile import load_content
    from proxy.config.errors import ConfigErrors
    from proxy.config.load import test_files
    from proxy.config.testfile import parse_tests

    content: Content | None = None
    errors: list[ConfigError] = []
    try:
        content = load_content(directory, state_dir, preview=True)
    except ConfigErrors as found:
        errors += found.errors
    for path in test_files(directory):
        try:
            parse_tests(path.read_bytes(), path.relative_to(directory).as_posix())
        except ConfigErrors as found:
            errors += found.errors
    return content, [replace(error, file=str(directory / error.file)) for error in errors]


def _report(args: argparse.Namespace, errors: "Sequence[ConfigError]") -> int:
    if args.json:
        show(args, {"errors": [_row(one) for one in errors], "notes": []}, "")
    else:
        print("\n".join(str(error) for error in errors), file=sys.stderr)
        print(f"{len(errors)} mistake{'s' if len(errors) != 1 else ''}; nothing of this would load", file=sys.stderr)
    return EXIT_USAGE


def _row(one: "ConfigError") -> dict[str, Any]:
    return {"file": one.file, "line": one.line, "col": one.col, "message": one.message, "fix": one.fix}


def _notes(snapshot: "Snapshot", now_s: float) -> Iterator[Note]:
    for app in snapshot.apps.values():
        yield from _expiry(app.expires_at_s, f"the app {app.app}", app.at, now_s)
        if app.stage in ("draft", "suspended"):
            yield Note(
                app.at,
                f"the app {app.app} is in stage {app.stage}: its traffic is denied",
                "stage: production",
                finding=False,
            )
        if app.mode == "report":
            yield from _report_mode(app, now_s)
        for entry in app.entries:
            yield from _expiry(entry.expires_at_s, f"{app.app}: the entry {entry.rule_id}", entry.at, now_s)


def _report_mode(app: "AppPolicy", now_s: float) -> Iterator[Note]:
    from proxy.rules.lifecycle import instant

    until_s = app.report_until_s or 0.0
    if now_s >= until_s:
        yield Note(
            app.at,
            f"the report mode of {app.app} ended on {instant(until_s)}: it enforces now",
            "mode: enforce",
            finding=True,
        )
    else:
        text = f"{app.app} only reports until {instant(until_s)}"
        yield Note(app.at, text, "mode: enforce, once `egress denials` shows nothing new", finding=False)


def _expiry(expires_at_s: float | None, what: str, at: str, now_s: float) -> Iterator[Note]:
    from proxy.rules.lifecycle import instant

    if expires_at_s is None or expires_at_s > now_s + _SOON_S:
        return
    gone = expires_at_s <= now_s
    verb = "expired on" if gone else "expires soon, on"
    yield Note(at, f"{what} {verb} {instant(expires_at_s)}", "renew `expires:`, or remove it", finding=gone)


VERB = Verb("check", "check the policy files; all mistakes at once", _configure, _run)
