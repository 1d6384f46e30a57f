"""May this app do this? Pure: values in, a ruling with its reason out.

Deny is the default: a ruling allows only what at least one entry of the app's allowlist admits under every rule, after
every gate had nothing against it. See `proxy.rules` for the rules themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from proxy.config.build import in_report_mode
from proxy.config.snapshot import AppPolicy, Entry, Snapshot
from proxy.errors import Denied
from proxy.model import Authority, Decision, Principal
from proxy.net.names import is_ip_literal
from proxy.rules import discover
from proxy.rules.base import Facts, Gate, Rule, Stage, Verdict
from proxy.values import dataclass

__all__ = ["Facts", "Ruling", "Stage", "Step", "find_app", "require_name", "rule_on"]

_MAX_INDEXED: Final = 1024
"""Compiled apps and snapshots remembered by identity; a reload replaces them, so that old ones must go."""
_MAX_SNAPSHOTS: Final = 4


@dataclass(frozen=True, slots=True)
class Step:
    """One rule's part in a ruling. `verdict`: `pass`, `deny`, or `report` (would deny). `where`: `file:line:col`."""

    rule: str
    verdict: str
    detail: str
    where: str


@dataclass(frozen=True, slots=True)
class Ruling:
    """What policy says. `entry`: what governs the exchange from here on (None when denied). `left`: all entries that
    admit it so far. `trace`: the steps, in full only when asked for (`explain`), else the one that denied.
    """

    decision: Decision
    entry: Entry | None
    trace: tuple[Step, ...] = ()
    left: tuple[Entry, ...] = ()


class _Index:
    """The entries of one app by host, and their forms for report mode."""

    __slots__ = ("app", "exact", "reported", "wild")

    def __init__(self, app: AppPolicy) -> None:
        self.app = app
        self.exact: dict[str, tuple[Entry, ...]] = {}
        self.wild: dict[str, tuple[Entry, ...]] = {}
        self.reported: dict[int, Entry] = {}
        for entry in app.entries:
            table = self.wild if entry.wildcard else self.exact
            table[entry.host] = (*table.get(entry.host, ()), entry)

    def candidates(self, host: str) -> tuple[Entry, ...]:
        """The entries that name `host`, exact ones first, then from the longest wildcard to the shortest."""
        found = self.exact.get(host, ())
        if self.wild:
            dot = host.find(".")
            while dot >= 0:
                found += self.wild.get(host[dot + 1 :], ())
                dot = host.find(".", dot + 1)
        return found


_indexes: dict[int, _Index] = {}
_networks: dict[int, tuple[Snapshot, dict[tuple[int, int], dict[int, str]]]] = {}


def _index(app: AppPolicy) -> _Index:
    found = _indexes.get(id(app))
    if found is None or found.app is not app:
        if len(_indexes) >= _MAX_INDEXED:
            _indexes.clear()
        found = _indexes[id(app)] = _Index(app)
    return found


@cache
def _rules_at(stage: Stage) -> tuple[tuple[Gate, ...], tuple[Rule, ...]]:
    active = [rule for rule in discover() if stage in rule.stages]
    return tuple(one for one in active if isinstance(one, Gate)), tuple(one for one in active if isinstance(one, Rule))


@cache
def _rules_added_by_body() -> tuple[tuple[Gate, ...], tuple[Rule, ...]]:
    gates, rules = _rules_at("body")
    return (
        tuple(gate for gate in gates if "head" not in gate.stages),
        tuple(rule for rule in rules if "head" not in rule.stages),
    )


def rule_on(snapshot: Snapshot, facts: Facts, *, explain: bool = False, after: Ruling | None = None) -> Ruling:
    """The ruling on one stage of a request. Never raises for what a client can send.

    `explain`: the trace has a step for every rule. `after`: the ruling of stage `head` on the same request at the same
    instant; then only what the body adds is asked. In the app's report mode a rule's denial becomes an `allow` with
    `would_deny`, its code kept, and an entry that inspects and meters as the app's own would.
    """
    app = snapshot.apps.get(facts.principal.app)
    if app is None:
        detail = f"there is no app {facts.principal.app!r} in revision {snapshot.revision[:12]}"
        return _denied(Verdict("identity_unknown", detail), "", "enforce", ())
    trace: list[Step] = []
    began = after is not None and bool(after.left) and facts.stage == "body"
    gates, rules = _rules_added_by_body() if began else _rules_at(facts.stage)
    mode = "report" if app.mode == "report" and facts.now_s < (app.report_until_s or 0.0) else "enforce"
    for gate in gates:
        verdict = gate.judge(facts, app, snapshot)
        if verdict is not None:
            return _denied(verdict, gate.name, mode, trace)
        if explain:
            trace.append(Step(gate.name, "pass", gate.what, app.at))
    index = _index(app)
    left: Sequence[Entry] = after.left if after is not None and began else index.candidates(facts.authority.host)
    left = left or app.entries
    for rule in rules:
        kept = [entry for entry in left if rule.admits(entry, facts, snapshot)]
        if not kept:
            verdict = rule.refuse(left, facts, snapshot)
            return _refused(verdict, rule, left, index, facts, trace, report=mode == "report")
        if explain:
            trace.append(_passed(rule, left, kept))
        left = kept
    entry = left[0]
    if mode == "report":
        entry = _reported(index, entry)
    decision = Decision("allow", None, entry.rule_id, entry.at, "enforce" if mode == "enforce" else "report", False)
    return Ruling(decision, entry, tuple(trace), tuple(left))


def _passed(rule: Rule, left: Sequence[Entry], kept: Sequence[Entry]) -> Step:
    gone = [entry.rule_id for entry in left if entry not in kept]
    dropped = f"; not {', '.join(gone[:5])}{' …' if len(gone) > 5 else ''}" if gone else ""
    ids = ", ".join(entry.rule_id for entry in kept[:5])
    return Step(rule.name, "pass", f"{rule.what}: {ids}{dropped}", kept[0].at)


def _denied(verdict: Verdict, rule: str, mode: str, trace: Sequence[Step]) -> Ruling:
    decision = Decision(
        action="deny",
        code=verdict.code,
        rule_id=rule,
        where=verdict.where,
        mode="report" if mode == "report" else "enforce",
        would_deny=True,
        detail=verdict.detail,
        remedy=verdict.remedy,
    )
    return Ruling(decision, None, (*trace, Step(rule or "app", "deny", verdict.detail, verdict.where)))


def _refused(
    verdict: Verdict,
    rule: Rule,
    left: Sequence[Entry],
    index: _Index,
    facts: Facts,
    trace: Sequence[Step],
    *,
    report: bool,
) -> Ruling:
    """A rule's denial; in report mode the traffic flows unless its target is an address that nobody named."""
    host = facts.authority.host
    named = index.candidates(host)
    # Report mode is for allowlist and DLP: what cannot be read one way only is refused in every mode.
    parsing = verdict.code == "malformed"
    if not report or rule.bites_in_report or parsing or (is_ip_literal(host) and not named):
        return _denied(verdict, rule.name, "report" if report else "enforce", trace)
    entry = _report_entry(index, facts, named, left)
    decision = Decision(
        action="allow",
        code=verdict.code,
        rule_id=rule.name,
        where=verdict.where,
        mode="report",
        would_deny=True,
        detail=verdict.detail,
        remedy=verdict.remedy,
    )
    return Ruling(decision, entry, (*trace, Step(rule.name, "report", verdict.detail, verdict.where)))


def _reported(index: _Index, entry: Entry) -> Entry:
    found = index.reported.get(id(entry))
    if found is None:
        found = index.reported[id(entry)] = replace(entry, dlp=in_report_mode(entry.dlp))
    return found


def _report_entry(index: _Index, facts: Facts, named: Sequence[Entry], left: Sequence[Entry]) -> Entry:
    """What stands in for the entry that is missing: the host's own connection facts where it has any entry, else
    public addresses; inspected and limited as the app says."""
    app, authority = index.app, facts.authority
    like = next((one for one in (*left, *named) if one in named and not one.passthrough), None)
    return Entry(
        rule_id="report",
        host=authority.host,
        wildcard=False,
        scheme=authority.scheme,
        ports=frozenset({authority.port}),
        methods=None,
        paths=None,
        models=None,
        tiers=None,
        protocols=frozenset({"http1", "websocket"}) if like is None else like.protocols | {"http1", "websocket"},
        passthrough=False,
        credentials=like.credentials if like else None,
        addresses=like.addresses if like else None,
        upstream_ca=like.upstream_ca if like else None,
        dlp=in_report_mode(like.dlp if like else app.dlp),
        cache=None,
        limits=like.limits if like else app.limits,
        expires_at_s=app.report_until_s,
        at=app.at,
    )


def require_name(
    snapshot: Snapshot, principal: Principal, host: str, *, now_s: float, kills: Mapping[str, Mapping[str, Any]]
) -> None:
    """Whether the app may connect to canonical `host` at all, on any port that an entry gives it. Raises Denied.

    For the DNS listener: the transparent listener judges each connection again, with its port.
    """
    app = snapshot.apps.get(principal.app)
    named = _index(app).candidates(host) if app is not None else ()
    places = dict.fromkeys((entry.scheme, port) for entry in named for port in sorted(entry.ports))
    decision: Decision | None = None
    for scheme, port in places or {("https", 443): None}:
        facts = Facts("connect", principal, "dns", Authority(scheme, host, port), now_s, kills=kills)
        decision = rule_on(snapshot, facts).decision
        if decision.action == "allow":
            return
    if decision is not None:
        raise Denied(
            decision.code or "host_denied",
            decision.detail,
            where=decision.where,
            rule_id=decision.rule_id,
            remedy=decision.remedy,
        )


def find_app(snapshot: Snapshot, client_ip: str) -> str | None:
    """The app whose `identify.networks` hold the address, or None. Networks of two apps never overlap."""
    version, number, bits = _numbered(client_ip)
    for (network_version, prefix), table in _network_tables(snapshot).items():
        if network_version == version:
            app = table.get(number >> (bits - prefix))
            if app is not None:
                return app
    return None


@lru_cache(maxsize=4096)
def _numbered(client_ip: str) -> tuple[int, int, int]:
    """Version (0: no address), number and bits of an address; IPv4 as IPv4."""
    try:
        address: IPv4Address | IPv6Address = ip_address(client_ip)
    except ValueError:
        return 0, 0, 0
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.version, int(address), address.max_prefixlen


def _network_tables(snapshot: Snapshot) -> dict[tuple[int, int], dict[int, str]]:
    cached = _networks.get(id(snapshot))
    if cached is not None and cached[0] is snapshot:
        return cached[1]
    tables: dict[tuple[int, int], dict[int, str]] = {}
    for app in snapshot.apps.values():
        for network in app.networks:
            shift = network.max_prefixlen - network.prefixlen
            table = tables.setdefault((network.version, network.prefixlen), {})
            table[int(network.network_address) >> shift] = app.app
    if len(_networks) >= _MAX_SNAPSHOTS:
        _networks.clear()
    _networks[id(snapshot)] = (snapshot, tables)
    return tables
