"""Checked values to the immutable policy. Pure and total: whatever passed the checks can be built."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

import orjson

from proxy.config.checks import ports_of, rule_id_of
from proxy.config.schema import MEDIA_KINDS
from proxy.config.snapshot import (
    AppPolicy,
    BudgetPolicy,
    CachePolicy,
    CredentialPolicy,
    DlpDictionary,
    DlpExactMatch,
    DlpException,
    DlpPattern,
    DlpPolicy,
    DlpRule,
    Entry,
    HostPattern,
    Limits,
    ModelFacts,
    Platform,
    PriceOverride,
)
from proxy.config.types import Rec, Val

_MARKS_AND_DIGESTS: Final = frozenset({"at", "digest", "source"})
_LIMITS: Final = {
    "max_body": "max_body_bytes",
    "requests_per_minute": "requests_per_minute",
    "max_output_tokens": "max_output_tokens",
    "connections": "connections",
}
type Classes = Mapping[str, frozenset[str]]


def build_platform(rec: Rec) -> Platform:
    """platform.yaml."""
    listen, models, classes = rec.rec("listen"), rec.rec("models"), rec.rec("classes")
    resolve, publishers = rec.rec("resolve"), rec.rec("publishers")
    return Platform(
        listen={name: value.value for name, value in listen.fields.items()} if listen else {},
        deny=_patterns(rec.items("deny")),
        models={name: _model(value.value) for name, value in models.fields.items()} if models else {},
        prices=tuple(_price(item.value) for item in rec.items("prices")),
        classes={name: frozenset(classes.plain(name)) for name in classes.fields} if classes else {},
        publishers={name: value.value for name, value in publishers.fields.items()} if publishers else {},
        sandbox=_patterns(rec.items("sandbox")),
        resolve={name: _addresses_of(resolve, name) for name in resolve.fields} if resolve else {},
        max_staleness_s=rec.get("max_staleness"),
    )


def _patterns(items: Iterable[Val]) -> tuple[HostPattern, ...]:
    return tuple(replace(item.value, at=str(item.mark)) for item in items)


def _addresses_of(resolve: Rec, name: str) -> tuple[str, ...]:
    found = resolve.get(name)
    return (found,) if isinstance(found, str) else resolve.plain(name)


def _model(rec: Rec) -> ModelFacts:
    return ModelFacts(provider=rec.get("provider"), tier=rec.get("tier"))


def _price(rec: Rec) -> PriceOverride:
    return PriceOverride(
        provider=rec.get("provider"),
        model=rec.get("model"),
        input_usd_picos=rec.get("input_usd_per_mtok"),
        output_usd_picos=rec.get("output_usd_per_mtok"),
        source=rec.get("source"),
        from_s=rec.get("from"),
        cache_read_usd_picos=rec.get("cache_read_usd_per_mtok"),
        cache_write_usd_picos=rec.get("cache_write_usd_per_mtok"),
    )


def build_app(rec: Rec, platform: Platform, defaults: Rec | None, source: str) -> AppPolicy:
    """One app, its connectors' entries already among its own; entry over app over platform."""
    identify, budget = rec.rec("identify"), rec.rec("budget")
    dlp = build_dlp([defaults, rec], platform.classes)
    app = AppPolicy(
        app=rec.get("app"),
        owner=rec.get("owner"),
        cost_center=rec.get("cost_center", ""),
        stage=rec.get("stage", "draft"),
        expires_at_s=rec.get("expires"),
        mode=rec.get("mode", "enforce"),
        report_until_s=rec.get("report_until"),
        networks=identify.plain("networks") if identify else (),
        token=identify.get("token", False) if identify else True,
        entries=tuple(_entry(item.value, rec, platform, defaults, dlp) for item in rec.items("allow")),
        dlp=dlp,
        cache=_cache([rec]),
        budget=_budget(budget, str(rec.at("budget"))) if budget else None,
        limits=_limits([defaults, rec]),
        digest="",
        at=str(rec.mark),
        source=source,
    )
    return replace(app, digest=content_digest(app))


def _entry(rec: Rec, app: Rec, platform: Platform, defaults: Rec | None, app_dlp: DlpPolicy) -> Entry:
    host: HostPattern = rec.get("host")
    layers = [defaults, app, rec]
    return Entry(
        rule_id=rule_id_of(rec),
        host=host.host,
        wildcard=host.wildcard,
        scheme=rec.get("scheme", "https"),
        ports=ports_of(rec),
        methods=_set_or_any(rec, "methods"),
        paths=rec.plain("paths") or None,
        models=_set_or_any(rec, "models"),
        tiers=_set_or_any(rec, "tiers"),
        protocols=frozenset(rec.plain("protocols")) or frozenset({"http1"}),
        passthrough=rec.get("tls") == "passthrough",
        credentials=_credentials(rec.rec("credentials")),
        addresses=rec.plain("addresses") or None,
        upstream_ca=rec.get("upstream_ca"),
        dlp=build_dlp(layers, platform.classes) if "dlp" in rec else app_dlp,
        cache=_cache([app, rec]),
        limits=_limits(layers),
        expires_at_s=rec.get("expires"),
        sandbox=any(_covers(pattern, host) for pattern in platform.sandbox),
        connector=rec.get("connector", ""),
        subdomains=rec.get("subdomains", "plain"),
        at=str(rec.mark),
    )


def _covers(pattern: HostPattern, host: HostPattern) -> bool:
    """True when every name that `host` stands for is one that `pattern` stands for."""
    if host.wildcard:
        return pattern.wildcard and (host.host == pattern.host or pattern.matches(host.host))
    return pattern.matches(host.host)


def _set_or_any(rec: Rec, name: str) -> frozenset[str] | None:
    return frozenset(rec.plain(name)) or None


def _credentials(rec: Rec | None) -> CredentialPolicy | None:
    if rec is None:
        return None
    return CredentialPolicy(headers=frozenset(rec.plain("headers")), pins=frozenset(rec.plain("pins")))


def _cache(layers: list[Rec]) -> CachePolicy | None:
    found = next((rec.get("cache") for rec in reversed(layers) if "cache" in rec), None)
    if not isinstance(found, Rec):
        return None
    return CachePolicy(ttl_s=found.get("ttl"), only_deterministic=found.get("only_deterministic", False))


def _budget(rec: Rec, at: str) -> BudgetPolicy:
    return BudgetPolicy(
        daily_usd_nanos=rec.get("daily_usd"),
        monthly_usd_nanos=rec.get("monthly_usd"),
        time_zone=rec.get("time_zone", "UTC"),
        on_exceeded=rec.get("on_exceeded", "deny"),
        unpriced=rec.get("unpriced", "deny"),
        on_unavailable=rec.get("on_unavailable", "deny"),
        at=at,
    )


def _limits(layers: list[Rec | None]) -> Limits:
    found: dict[str, int] = {}
    for layer in layers:
        limits = layer.rec("limits") if layer else None
        for name, attribute in _LIMITS.items():
            if limits is not None and limits.get(name) is not None:
                found[attribute] = limits.get(name)
    return Limits(**found)


def build_dlp(layers: list[Rec | None], classes: Classes) -> DlpPolicy:
    """Platform, app, entry. Rules of platform and app add up (the severest wins); an entry's rules replace the app's
    for the entities that they name, never the platform's. Of everything else the most specific word counts."""
    blocks = [layer.rec("dlp") if layer else None for layer in layers]
    given = [block for block in blocks if block is not None]
    rules = [_rules(block.items("rules"), classes) if block else [] for block in blocks]
    # A rule of the entry that holds in some tiers only leaves the app's in force: in the others nothing would be.
    own = frozenset(e for rule in (rules[2] if len(rules) > 2 else []) if not rule.tiers for e in rule.entities)
    rules[1] = [replace(rule, entities=left) for rule in rules[1] if (left := rule.entities - own)]
    dlp = DlpPolicy(
        profile=_last(given, "profile", "balanced"),
        rules=tuple(rule for layer in rules for rule in layer),
        otherwise=_last(given, "otherwise", "redact"),
        exceptions=tuple(_exception(item) for block in given for item in block.items("except")),
        uninspectable={kind: _uninspectable(given, kind) for kind in MEDIA_KINDS},
        response_rules=_response_rules(blocks, classes),
        dictionaries=tuple(_dictionary(item) for block in given for item in block.items("dictionaries")),
        patterns=tuple(_pattern(item) for block in given for item in block.items("patterns")),
        exact_match=tuple(_exact_match(item) for block in given for item in block.items("exact_match")),
    )
    return replace(dlp, digest=content_digest(dlp))


def in_report_mode(dlp: DlpPolicy) -> DlpPolicy:
    """The same policy, its verdicts recorded and without effect."""
    report = replace(dlp, mode="report", digest="")
    return replace(report, digest=content_digest(report))


def _last(blocks: list[Rec], name: str, default: str) -> Any:
    return next((block.get(name) for block in reversed(blocks) if block.get(name) is not None), default)


def _uninspectable(blocks: list[Rec], kind: str) -> Any:
    kinds = [found for block in blocks if (found := block.rec("uninspectable"))]
    return _last(kinds, kind, "block")


def _rules(items: Iterable[Val], classes: Classes) -> list[DlpRule]:
    return [_rule(item.value, str(item.mark), classes) for item in items]


def _rule(rec: Rec, at: str, classes: Classes) -> DlpRule:
    named = frozenset(rec.plain("entities"))
    grouped = frozenset(entity for name in rec.plain("classes") for entity in classes.get(name, ()))
    return DlpRule(
        entities=named | grouped,
        action=rec.get("action"),
        at_least=rec.get("at_least", 1),
        mode=rec.get("mode", "enforce"),
        at=at,
        tiers=frozenset(rec.plain("tiers")),
    )


def _dictionary(item: Val) -> DlpDictionary:
    rec: Rec = item.value
    return DlpDictionary(
        entity=rec.get("entity"),
        words=tuple(dict.fromkeys((*rec.plain("values"), *rec.get("file", "").splitlines()))),
        case_sensitive=rec.get("case") == "sensitive",
        whole_words=rec.get("whole_words", True),
        at=str(item.mark),
    )


def _pattern(item: Val) -> DlpPattern:
    rec: Rec = item.value
    context = frozenset(word.lower() for word in rec.plain("context"))
    return DlpPattern(rec.get("entity"), rec.get("regex"), context, str(item.mark))


def _exact_match(item: Val) -> DlpExactMatch:
    rec: Rec = item.value
    match: Rec = rec.get("match")
    return DlpExactMatch(
        id=rec.get("id"),
        entity=rec.get("entity"),
        index=rec.get("index").digest,
        columns=match.get("columns"),
        of=frozenset(match.plain("of")),
        within_tokens=match.get("within_tokens", 50),
        at_least=rec.get("at_least", 1),
        at=str(item.mark),
    )


def _response_rules(blocks: list[Rec | None], classes: Classes) -> tuple[DlpRule, ...]:
    platform = blocks[0].rec("response") if blocks[0] else None
    given = (block.rec("response") for block in reversed(blocks[1:]) if block)
    own = next((response for response in given if response), None)
    return tuple(_rule(rec, str(rec.mark), classes) for rec in (platform, own) if rec)


def _exception(item: Val) -> DlpException:
    rec: Rec = item.value
    return DlpException(
        entity=rec.get("entity"),
        values=frozenset(rec.plain("values")),
        json_path=rec.get("json"),
        expires_at_s=rec.get("expires"),
        at=str(item.mark),
    )


def content_digest(value: Any) -> str:
    """Hex SHA-256 of a policy object, without marks and digests."""
    return hashlib.sha256(orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS)).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, DlpPolicy) and value.digest:
        return value.digest  # entries share policies, and each is digested once
    if is_dataclass(value) and not isinstance(value, type):
        names = (one.name for one in fields(value) if one.name not in _MARKS_AND_DIGESTS)
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, IPv4Network | IPv6Network):
        return str(value)
    return value
