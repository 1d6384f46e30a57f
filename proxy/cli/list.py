"""`egress list`: what this installation knows: recognisers, providers, rules, sinks, reason codes, verbs, apps."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

from proxy.cli import CliError, Verb, load_verb, verb_names
from proxy.cli._out import show, table

type Rows = list[dict[str, str]]


def _recognizers(args: argparse.Namespace) -> Rows:
    from proxy.recognizers import discover

    del args
    return [
        {"recognizer": one.name, "layer": one.layer, "entities": ", ".join(sorted(one.entities))} for one in discover()
    ]


def _providers(args: argparse.Namespace) -> Rows:
    from proxy.providers import PROVIDERS

    del args
    return [
        {
            "dialect": one.dialect,
            "operation": one.operation,
            "paths": one.paths.pattern,
            "hosts": ", ".join(one.hosts) or "any that speaks it",
        }
        for one in PROVIDERS
    ]


def _rules(args: argparse.Namespace) -> Rows:
    from proxy.rules import discover
    from proxy.rules.base import STAGES, Gate

    del args
    return [
        {
            "rule": one.name,
            "kind": "gate" if isinstance(one, Gate) else "entry",
            "from": next(stage for stage in STAGES if stage in one.stages),
            "passes when": one.what,
        }
        for one in discover()
    ]


def _sinks(args: argparse.Namespace) -> Rows:
    from proxy.sinks import sinks

    del args
    return [{"sink": one.name, "durable": "yes" if one.durable else "no", "what": one.help} for one in sinks().values()]


def _codes(args: argparse.Namespace) -> Rows:
    from proxy.errors import REASONS

    del args
    return [
        {"code": one.id, "status": str(one.status), "whose move": one.who, "title": one.title}
        for one in REASONS.values()
    ]


def _verbs(args: argparse.Namespace) -> Rows:
    del args
    return [{"verb": verb.name, "what": verb.help} for verb in map(load_verb, verb_names())]


def _apps(args: argparse.Namespace) -> Rows:
    from proxy.config.compile import compile_snapshot, load_content
    from proxy.config.errors import ConfigErrors

    try:
        content = load_content(args.directory, args.state, preview=True)
    except ConfigErrors as errors:
        raise CliError(
            f"the policy files hold {len(errors.errors)} mistakes", str(args.directory), "see `egress check`"
        ) from None
    snapshot = compile_snapshot(content.canonical, seq=0, preview=True)
    return [
        {"app": app.app, "stage": app.stage, "mode": app.mode, "entries": str(len(app.entries)), "owner": app.owner}
        for app in snapshot.apps.values()
    ]


KINDS: Final[dict[str, Callable[[argparse.Namespace], Rows]]] = {
    "apps": _apps,
    "codes": _codes,
    "providers": _providers,
    "recognizers": _recognizers,
    "rules": _rules,
    "sinks": _sinks,
    "verbs": _verbs,
}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=sorted(KINDS), help="what to list")
    parser.add_argument("--directory", type=Path, default=Path("allowlists"), help="for apps; default: ./allowlists")


def _run(args: argparse.Namespace) -> int:
    rows = KINDS[args.kind](args)
    text = table(list(rows[0]), [list(row.values()) for row in rows]) if rows else f"no {args.kind}"
    show(args, rows, text)
    return 0


VERB = Verb("list", "list recognizers, providers, rules, sinks, codes, verbs or apps", _configure, _run)
