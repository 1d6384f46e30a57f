"""`egress suggest --app A`: allow entries for what the app was denied, or would have been in report mode."""

import argparse
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.cli import EXIT_CLEAN, EXIT_FINDINGS, Verb
from proxy.cli._keys import parse_duration
from proxy.cli._out import show
from proxy.cli._trail import records, time_of

_PLAIN: Final = re.compile(r"[A-Za-z0-9/._-]+")
_BY_ALLOWLIST: Final = frozenset(
    {"host_denied", "port_denied", "method_denied", "path_denied", "model_denied", "proto_denied"}
)


@dataclass(slots=True)
class Wanted:
    """What was asked of one host and port."""

    methods: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)
    count: int = 0


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--app", required=True, help="the app to suggest entries for")
    parser.add_argument("--since", default="7d", help="how far back, like 24h or 7d (default: 7d)")


def _run(args: argparse.Namespace) -> int:
    since_s = time.time() - parse_duration(args.since)
    found = gather(records(args, since_s=since_s), app=args.app, since_s=since_s)
    entries = [entry for target, wanted in sorted(found.items()) if (entry := entry_of(target, wanted)) is not None]
    text = (
        "\n".join(["# Review each line: what was asked for is not what is needed.", "allow:", *map(yaml_of, entries)])
        if entries
        else f"nothing to suggest: the allowlist denied {args.app} nothing in the last {args.since}"
    )
    show(args, entries, text)
    return EXIT_FINDINGS if entries else EXIT_CLEAN


def gather(found: Iterable[Mapping[str, Any]], *, app: str, since_s: float) -> dict[tuple[str, str, int], Wanted]:
    """(scheme, host, port) -> what the allowlist denied, or would have."""
    wanted: dict[tuple[str, str, int], Wanted] = {}
    for fields in found:
        code = fields.get("code") or fields.get("would_deny")
        if fields.get("app") != app or code not in _BY_ALLOWLIST or time_of(fields) < since_s:
            continue
        scheme, host, port = fields.get("scheme"), fields.get("host"), fields.get("port")
        if not isinstance(scheme, str) or not isinstance(host, str) or not isinstance(port, int):
            continue
        one = wanted.setdefault((scheme, host, port), Wanted())
        one.count += 1
        for name, values in (("method", one.methods), ("path", one.paths), ("gen_ai.request.model", one.models)):
            if isinstance(fields.get(name), str):
                values.add(fields[name])
    return wanted


def entry_of(target: tuple[str, str, int], wanted: Wanted) -> dict[str, Any] | None:
    """An entry that the schema takes, or None for a host that no entry may name (masked, an address)."""
    from proxy.config.scalars import HOST, METHOD, PATH, WORD
    from proxy.config.types import BadValue, Leaf
    from proxy.net.names import is_ip_literal

    def fitting(leaf: Leaf, values: Iterable[str]) -> list[str]:
        good = []
        for value in sorted(values):
            try:
                leaf.parse(value)
            except BadValue:
                continue
            good.append(value)
        return good

    scheme, host, port = target
    if is_ip_literal(host) or not fitting(HOST, [host]):
        return None
    entry: dict[str, Any] = {"id": host.replace("_", "-")[:64].strip("-."), "host": host}
    if scheme == "http":
        entry["scheme"] = "http"
    if port != (80 if scheme == "http" else 443):
        entry["ports"] = [port]
    entry["methods"] = fitting(METHOD, wanted.methods)
    entry["paths"] = fitting(PATH, wanted.paths)
    entry["models"] = fitting(WORD, wanted.models)
    entry["reason"] = f"asked for {wanted.count} times; say why it is needed"
    return {key: value for key, value in entry.items() if value != []}


def yaml_of(entry: Mapping[str, Any]) -> str:
    """One entry as lines of an app file."""
    lines: list[str] = []
    for key, value in entry.items():
        shown = f"[{', '.join(map(_quoted, map(str, value)))}]" if isinstance(value, list) else str(value)
        lines.append(f"{'  - ' if not lines else '    '}{key}: {shown}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """In quotes when YAML would read something else: `/a,b` would be two paths."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


VERB = Verb("suggest", "suggest allow entries for what an app was denied", _configure, _run)
