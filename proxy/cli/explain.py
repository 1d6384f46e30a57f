"""`egress explain`: would this request be allowed? Each step with its rule's place, and what would change it."""

import argparse
import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from proxy.cli import EXIT_CLEAN, EXIT_FINDINGS, CliError, Verb
from proxy.cli._out import show

if TYPE_CHECKING:
    from proxy.config.snapshot import Entry, Snapshot
    from proxy.model import Headers, Inspection, RequestHead
    from proxy.policy import Ruling
    from proxy.providers import Provider


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--app", required=True, help="who asks")
    parser.add_argument("--url", required=True, help="what for, for example https://api.openai.com/v1/chat/completions")
    parser.add_argument("--method", help="default: POST with a body, else GET")
    parser.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help="may be repeated")
    parser.add_argument("--body", type=Path, metavar="FILE", help="a body; it is inspected too")
    parser.add_argument("--at", metavar="TIME", help="the time of the request, e.g. 2027-03-31 (default: now)")
    parser.add_argument("--directory", type=Path, default=Path("allowlists"), help="default: ./allowlists")
    parser.add_argument("--active", action="store_true", help="ask the store's active policy, not the directory")
    parser.add_argument("--store", metavar="URL", help="with --active: the store (default: the embedded one)")


def _run(args: argparse.Namespace) -> int:
    snapshot = _active(args) if args.active else _from_directory(args)
    if args.app not in snapshot.apps:
        from proxy.config.errors import nearest

        near = nearest(args.app, snapshot.apps)
        fix = f"did you mean {near}?" if near else "`egress list apps` shows all"
        raise CliError(f"there is no app {args.app!r}", "--app", fix)
    rulings = list(_rulings(args, snapshot))
    last = rulings[-1][1]
    inspection = None
    if last.entry is not None and args.body is not None and last.decision.action == "allow":
        inspection = _inspect(args, snapshot, last.entry)
    show(args, _facts(rulings, inspection), _text(rulings, inspection))
    denied = last.decision.would_deny or (inspection is not None and inspection.action == "block")
    return EXIT_FINDINGS if denied else EXIT_CLEAN


def _from_directory(args: argparse.Namespace) -> "Snapshot":
    from proxy.cli._policy import warn
    from proxy.config.compile import compile_snapshot, load_content
    from proxy.config.errors import ConfigErrors

    try:
        content = load_content(args.directory, args.state, preview=True)
    except ConfigErrors as errors:
        first = errors.errors[0]
        more = f" (and {len(errors.errors) - 1} more)" if len(errors.errors) > 1 else ""
        where = f"{args.directory / first.file}:{first.line}:{first.col}"
        raise CliError(f"{first.message}{more}", where, first.fix) from None
    warn(content, args.directory)
    return compile_snapshot(content.canonical, seq=0, preview=True)


def _active(args: argparse.Namespace) -> "Snapshot":
    from proxy.cli._issue import open_store
    from proxy.cli._policy import head_of
    from proxy.config.compile import compile_snapshot

    async def fetch() -> tuple[int, bytes | None]:
        store = open_store(args.store, args.paths)
        try:
            head, content = await head_of(store)
        finally:
            await store.aclose()
        return (head.seq if head else 0), content

    seq, content = asyncio.run(fetch())
    if content is None:
        raise CliError("the store has no active policy", "store", "publish one with `egress push`")
    return compile_snapshot(content, seq=seq)


def _head(args: argparse.Namespace) -> "RequestHead":
    from proxy.model import Authority, RequestHead
    from proxy.net.names import canonical_host

    parts = urlsplit(args.url)
    scheme = {"https": "https", "wss": "https", "http": "http", "ws": "http"}.get(parts.scheme)
    try:
        host, port = canonical_host(parts.hostname or ""), parts.port
    except ValueError as error:
        raise CliError(f"the URL has no usable host: {error}", "--url", "https://api.openai.com/v1/models") from None
    if scheme is None:
        raise CliError(f"{args.url!r} is not a URL", "--url", "for example https://api.openai.com/v1/models")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    authority = Authority("https" if scheme == "https" else "http", host, port or (443 if scheme == "https" else 80))
    method = args.method or ("POST" if args.body else "GET")
    protocol: Any = "websocket" if parts.scheme in ("ws", "wss") else "http1"
    return RequestHead(method, target, authority, _headers(args), protocol)


def _headers(args: argparse.Namespace) -> "Headers":
    pairs = [text.partition(":") for text in args.header]
    if any(not colon or not name.strip() for name, colon, _ in pairs):
        raise CliError("a header is NAME: VALUE", "--header", "for example --header 'Authorization: Bearer sk-…'")
    try:
        found = [(name.strip().encode("ascii"), value.strip().encode("latin-1")) for name, _, value in pairs]
    except UnicodeEncodeError:
        raise CliError("a header holds characters that HTTP cannot carry", "--header", "use ASCII") from None
    if args.body is not None and not any(name.lower() == b"content-type" for name, _ in found):
        found.append((b"Content-Type", b"application/json"))
    return tuple(found)


def _rulings(args: argparse.Namespace, snapshot: "Snapshot") -> "list[tuple[str, Ruling]]":
    """The stages of the request one after the other, until one denies."""
    from dataclasses import replace

    from proxy import providers
    from proxy.model import Principal
    from proxy.policy import Facts, rule_on

    head = _head(args)
    now_s = _at(args)
    base = Facts(
        "connect",
        Principal(args.app, "explain", ""),
        "explicit",
        head.authority,
        now_s,
        credential_digest=_digest(args),
    )
    stages = [base] if head.authority.scheme == "https" else []
    if head.authority.scheme == "https":
        stages.append(replace(base, stage="hello", sni=head.authority.host))
    provider = providers.match(head.authority, head.method, head.path)
    stages.append(replace(base, stage="head", head=head, provider=provider.name if provider else None))
    if provider is not None and args.body is not None:
        model = _model(provider, head, args.body)
        stages.append(replace(base, stage="body", head=head, provider=provider.name, model=model))
    found: list[tuple[str, Ruling]] = []
    for facts in stages:
        found.append((facts.stage, rule_on(snapshot, facts, explain=True)))
        if found[-1][1].decision.action == "deny":
            break
    return found


def _model(provider: "Provider", head: "RequestHead", body: Path) -> str:
    from proxy.errors import Denied

    try:
        return provider.parse_call(head, body.read_bytes()).model
    except Denied as denied:
        raise CliError(f"{denied.code}: {denied.detail}", str(body), denied.remedy, exit_code=EXIT_FINDINGS) from None


def _at(args: argparse.Namespace) -> float:
    from proxy.config.scalars import INSTANT
    from proxy.config.types import BadValue

    if args.at is None:
        return time.time()
    try:
        return float(INSTANT.parse(args.at)[0])
    except BadValue as bad:
        raise CliError(bad.message, "--at", bad.fix) from None


def _digest(args: argparse.Namespace) -> Any:
    """Pins can be verified only where the root key is; elsewhere pinned entries deny, and the step says so."""
    if not args.paths.root_key.exists() or not args.header:
        return None
    import hashlib
    import hmac

    from proxy.cli._keys import load_root
    from proxy.keys.root import CREDENTIAL_PIN

    key = load_root(args.paths).derive(CREDENTIAL_PIN)
    return lambda value: "hmac-sha256:" + hmac.new(key, value, hashlib.sha256).hexdigest()


def _inspect(args: argparse.Namespace, snapshot: "Snapshot", entry: "Entry") -> "Inspection":
    from proxy import providers
    from proxy.cli._indexes import detectors
    from proxy.inspection import inspect
    from proxy.model import InspectJob
    from proxy.recognizers.engine import Engine

    head = _head(args)
    provider = providers.match(head.authority, head.method, head.path)
    job = InspectJob(
        app=args.app,
        dlp=entry.dlp,
        method=head.method,
        target=head.target,
        headers=head.headers,
        body=args.body.read_bytes(),
        placeholder_key=bytes(32),
        provider=provider.name if provider else None,
        skip_headers=entry.credentials.headers if entry.credentials else frozenset(),
        tier=snapshot.platform.tier_of(_model(provider, head, args.body) if provider else None),
    )
    return inspect(job, detectors(Engine.load(), args.paths, args.directory)(job.dlp), now_s=_at(args))


def _facts(rulings: "list[tuple[str, Ruling]]", inspection: "Inspection | None") -> dict[str, Any]:
    decision = rulings[-1][1].decision
    facts: dict[str, Any] = {
        "action": decision.action,
        "code": decision.code,
        "would_deny": decision.would_deny,
        "mode": decision.mode,
        "rule_id": decision.rule_id,
        "where": decision.where,
        "detail": decision.detail,
        "remedy": _remedy(rulings[-1][1]),
        "steps": [
            {"stage": stage, "rule": step.rule, "verdict": step.verdict, "detail": step.detail, "where": step.where}
            for stage, ruling in rulings
            for step in ruling.trace
        ],
    }
    if inspection is not None:
        facts["inspection"] = {
            "action": inspection.action,
            "code": inspection.code,
            "detail": inspection.detail,
            "where": inspection.where,
            "findings": [
                {"entity": one.entity, "location": one.location, "action": one.action, "mode": one.mode}
                for one in inspection.findings
            ],
        }
    return facts


def _remedy(ruling: "Ruling") -> str:
    from proxy.errors import REASONS

    decision = ruling.decision
    return (decision.remedy or REASONS[decision.code].remedy) if decision.code else ""


def _text(rulings: "list[tuple[str, Ruling]]", inspection: "Inspection | None") -> str:
    stage, last = rulings[-1]
    lines = [f"ruling at stage `{stage}`, which repeats all rules of the stages before it:"]
    for step in last.trace:
        mark = {"pass": "ok", "deny": "DENY", "report": "would deny"}[step.verdict]
        lines.append(f"  {mark:<5} {step.rule:<14} {step.detail}{f'  [{step.where}]' if step.where else ''}")
    if inspection is not None:
        lines += _inspection_lines(inspection)
    decision = last.decision
    if decision.action == "deny" or decision.would_deny:
        lines += [f"=> {'deny' if decision.action == 'deny' else 'report'} {decision.code}", f"   {_remedy(last)}"]
    elif inspection is not None and inspection.action == "block":
        lines += [f"=> deny {inspection.code}", f"   {inspection.detail}  [{inspection.where}]"]
    else:
        verb = "redact" if inspection is not None and inspection.action == "transform" else "allow"
        lines.append(f"=> {verb} by {decision.rule_id}  [{decision.where}]")
    return "\n".join(lines)


def _inspection_lines(inspection: "Inspection") -> list[str]:
    if not inspection.findings:
        return ["  ok    inspect        nothing found"]
    return [
        f"  {one.action:<5} inspect        {one.entity} in {one.location}" + (" (on trial)" * (one.mode == "report"))
        for one in inspection.findings
    ]


VERB = Verb("explain", "say whether a request would be allowed, and what would change it", _configure, _run)
