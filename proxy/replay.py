"""What would a candidate policy have said to the traffic of the past? Pure: audit records in, changes out.

Judged anew are the policy's own rules: lifecycle, denied hosts, host, port, protocol, method, path and model, as of
now. Records hold neither bodies nor credentials, so that inspection, key pins, budgets and rates cannot be replayed;
what a record shows as `*` is never taken for a change.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from proxy import providers
from proxy.config.snapshot import Snapshot
from proxy.model import Authority, Decision, Principal, RequestHead
from proxy.policy import Facts, Stage, rule_on

# Denials that the rules of policy make from what a record holds.
_BY_RULES: Final = frozenset(
    {"host_denied", "port_denied", "method_denied", "path_denied", "proto_denied", "model_denied", "expired"}
    | {"app_inactive"}
)
# Denials of the connection or its keys: what decided them is not in the record.
_NOT_RECORDED: Final = frozenset(
    {"identity_unknown", "target_mismatch", "credential_denied", "malformed", "ip_denied", "self_connection", "killed"}
)
_HIDDEN_MATTERS: Final = {"path_denied": "path", "method_denied": "method", "model_denied": "gen_ai.request.model"}


@dataclass(slots=True)
class Change:
    """Requests of one kind whose verdict changes. `became`: `denied` or `allowed`; `code`: the denial's, on whichever
    side it stands; `where`: the rule of the candidate that decides."""

    became: str
    app: str
    code: str
    target: str
    detail: str
    where: str
    count: int = 0


@dataclass(slots=True)
class Report:
    """`changes` most frequent first; `skipped`: why -> how many records could not be judged."""

    judged: int = 0
    changes: list[Change] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def replay(records: Iterable[Mapping[str, Any]], candidate: Snapshot, now_s: float) -> Report:
    """Judges terminal records by `candidate`."""
    report = Report()
    found: dict[tuple[str, ...], Change] = {}
    for fields in records:
        if fields.get("kind") != "terminal":
            continue
        why = _unfit(fields)
        if why is None:
            decision = _verdict(fields, candidate, now_s)
            why = _unsure(decision, fields)
        if why is not None:
            report.skipped[why] += 1
            continue
        report.judged += 1
        change = _change(fields, decision)
        if change is not None:
            key = (change.became, change.app, change.code, change.target)
            found.setdefault(key, change).count += 1
    report.changes = sorted(found.values(), key=lambda change: (change.became != "denied", -change.count))
    return report


def _unfit(fields: Mapping[str, Any]) -> str | None:
    if fields.get("code") in _NOT_RECORDED:
        return f"refused as {fields['code']}, which no record can show again"
    if not fields.get("app") or not fields.get("host") or not isinstance(fields.get("port"), int):
        return "no app or no destination on record"
    if "*" in str(fields["host"]):
        return "the host is hidden in the record"
    return None


def _verdict(fields: Mapping[str, Any], candidate: Snapshot, now_s: float) -> Decision:
    """The first denial of the stages that the request went through, else the last allowance."""
    authority = Authority("http" if fields.get("scheme") == "http" else "https", str(fields["host"]), fields["port"])
    facts = Facts("connect", Principal(str(fields["app"]), "replay", ""), "explicit", authority, now_s)
    decision = None
    for one in _stages(fields, facts):
        decision = rule_on(candidate, one).decision
        if decision.action == "deny":
            break
    return decision or rule_on(candidate, facts).decision


def _stages(fields: Mapping[str, Any], facts: Facts) -> Iterable[Facts]:
    authority = facts.authority
    if authority.scheme == "https":
        yield facts
        yield replace(facts, stage="hello", sni=authority.host)
    method, path = fields.get("method"), fields.get("path")
    if method in (None, "CONNECT") or not isinstance(path, str):
        return
    protocol = fields.get("protocol")
    head = RequestHead(
        str(method), path, authority, (), protocol if protocol in ("http1", "websocket", "h2") else "http1"
    )
    provider = providers.match(authority, head.method, path)
    name = provider.name if provider else None
    stage: Stage = "head"
    yield replace(facts, stage=stage, head=head, provider=name)
    model = fields.get("gen_ai.request.model")
    if isinstance(model, str):
        yield replace(facts, stage="body", head=head, provider=name, model=model)


def _unsure(decision: Decision, fields: Mapping[str, Any]) -> str | None:
    """A denial over what the record hides is no verdict."""
    hidden = _HIDDEN_MATTERS.get(decision.code or "")
    if hidden and "*" in str(fields.get(hidden, "")):
        return f"the {hidden.rpartition('.')[2]} is hidden in the record"
    return None


def _change(fields: Mapping[str, Any], decision: Decision) -> Change | None:
    was = str(fields.get("code")) if fields.get("code") in _BY_RULES else None
    now = decision.code if decision.action == "deny" else None
    if (was is None) == (now is None):
        return None
    return Change(
        became="denied" if now else "allowed",
        app=str(fields["app"]),
        code=now or was or "",
        target=_target(fields),
        detail=decision.detail or f"now allowed by {decision.rule_id}",
        where=decision.where,
    )


def _target(fields: Mapping[str, Any]) -> str:
    host, port = fields["host"], fields["port"]
    model = fields.get("gen_ai.request.model")
    if fields.get("method") in (None, "CONNECT"):
        return f"CONNECT {host}:{port}"
    url = f"{fields.get('scheme', 'https')}://{host}:{port}{fields.get('path', '')}"
    return f"{fields['method']} {url}" + (f" model {model}" if model else "")
