"""Rules of the policy files that span several keys: what belongs together, what excludes what, who may loosen what."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from proxy.config.checks_dlp import DlpFacts, check_dlp, check_dlp_tightens, own_entities
from proxy.config.errors import Mark, Problems, nearest, shown
from proxy.config.snapshot import HostPattern, Network
from proxy.config.types import Rec
from proxy.net.names import is_ip_literal

_PASSTHROUGH_EXCLUDES: Final = (
    "methods", "paths", "models", "tiers", "dlp", "cache", "credentials", "upstream_ca", "protocols", "limits",
)  # fmt: skip
# Some polls of the store, and a command that waits for its deadline.
LEAST_STALENESS_S: Final = 5
_AGREE: Final = ("tls", "protocols", "addresses", "upstream_ca")


@dataclass(frozen=True, slots=True)
class PlatformFacts:
    """What the checks of an app need from platform.yaml. `entities` None: any name is taken."""

    classes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    tiers: frozenset[str] = frozenset()
    defaults: Rec | None = None
    entities: frozenset[str] | None = None

    @classmethod
    def of(cls, platform: Rec | None, entities: frozenset[str] | None = None) -> "PlatformFacts":
        """From the read platform.yaml, or from nothing when it could not be read."""
        if platform is None:
            return cls(entities=entities)
        classes, models = platform.rec("classes"), platform.rec("models")
        defaults = platform.rec("defaults")
        if entities is not None:
            entities |= own_entities(defaults.rec("dlp") if defaults else None)
        return cls(
            classes={name: frozenset(classes.plain(name)) for name in classes.fields} if classes else {},
            tiers=frozenset(one.value.get("tier") for one in models.fields.values()) - {None}
            if models
            else frozenset(),
            defaults=defaults,
            entities=entities,
        )

    @property
    def dlp(self) -> DlpFacts:
        """What a `dlp:` block may refer to."""
        return DlpFacts(self.classes, self.tiers, self.entities)


def check_platform(platform: Rec, facts: PlatformFacts, problems: Problems) -> None:
    """Checks platform.yaml by itself."""
    _check_classes(platform, facts, problems)
    if facts.defaults is not None and (dlp := facts.defaults.rec("dlp")):
        check_dlp(dlp, facts.dlp, problems)
    _check_listeners(platform.rec("listen"), problems)
    if (limit_s := platform.get("max_staleness")) is not None and limit_s < LEAST_STALENESS_S:
        problems.add(
            platform.at("max_staleness"),
            f"a hiccup of the store for {limit_s} s would deny all traffic",
            f"give {LEAST_STALENESS_S}s or more",
        )
    seen: dict[tuple[Any, ...], Mark] = {}
    for item in platform.items("prices"):
        key = tuple(item.value.get(name) for name in ("provider", "model", "from"))
        if key in seen:
            problems.add(item.mark, f"a second price of {key[0]} {key[1]} from the same day", "change `from:`")
        seen[key] = item.mark


def _check_classes(platform: Rec, facts: PlatformFacts, problems: Problems) -> None:
    classes = platform.rec("classes")
    if classes is None or facts.entities is None:
        return
    for name in classes.fields:
        for item in classes.items(name):
            if item.value not in facts.entities:
                near = nearest(item.value, facts.entities)
                fix = f"did you mean {near}?" if near else "`egress list recognizers` shows all"
                problems.add(item.mark, f"no recogniser finds {shown(item.value)}", fix)


def _check_listeners(listen: Rec | None, problems: Problems) -> None:
    taken: dict[str, str] = {}
    for name, value in listen.fields.items() if listen else ():
        if name != "dns" and not value.value.endswith(":0") and value.value in taken:
            problems.add(value.mark, f"{taken[value.value]} listens on {value.value} already", "another port")
        taken.setdefault(value.value, name)


def check_app(app: Rec, facts: PlatformFacts, problems: Problems) -> None:
    """Checks one app, its connectors' entries already among its own. The app's own entities are known to its entries
    and to itself."""
    if facts.entities is not None:
        facts = replace(facts, entities=facts.entities | own_entities(app.rec("dlp")))
    _check_mode(app, problems)
    _check_identify(app.rec("identify"), problems)
    entries = [item.value for item in app.items("allow")]
    check_ids(entries, problems)
    for entry in entries:
        check_entry(entry, facts, problems)
    check_agreement(entries, problems)
    if dlp := app.rec("dlp"):
        check_dlp(dlp, facts.dlp, problems)
    _check_budget(app.rec("budget"), problems)
    _check_tightens(app, facts, problems)


def _check_mode(app: Rec, problems: Problems) -> None:
    if app.get("mode") == "report" and "report_until" not in app:
        problems.add(
            app.at("mode"), "`mode: report` needs `report_until:`", "add for example `report_until: 2027-01-31`"
        )
    if "report_until" in app and app.get("mode", "enforce") != "report":
        problems.add(app.at("report_until"), "`report_until:` means nothing without `mode: report`", "remove one")


def _check_identify(identify: Rec | None, problems: Problems) -> None:
    if identify is None:
        return
    if "networks" not in identify and identify.get("token", "token" in identify) is not True:
        problems.add(identify.mark, "nothing identifies the app", "`networks: [10.20.30.0/24]`, `token: true`, or both")


def _check_budget(budget: Rec | None, problems: Problems) -> None:
    if budget is None:
        return
    if "daily_usd" not in budget and "monthly_usd" not in budget:
        problems.add(budget.mark, "a budget without a limit", "add `daily_usd: 20` or `monthly_usd: 200`")
    daily, monthly = budget.get("daily_usd"), budget.get("monthly_usd")
    if daily is not None and monthly is not None and daily > monthly:
        problems.add(budget.at("daily_usd"), "the daily limit is above the monthly one", "lower it, or raise the other")


def rule_id_of(entry: Rec) -> str:
    """`id`, or `connector/id` for an entry of a connector."""
    connector = entry.get("connector")
    return f"{connector}/{entry.get('id', '')}" if connector else entry.get("id", "")


def check_ids(entries: Sequence[Rec], problems: Problems) -> None:
    seen: dict[str, Mark] = {}
    for entry in entries:
        rule_id = rule_id_of(entry)
        if rule_id and rule_id in seen:
            problems.add(entry.at("id"), f"the id {rule_id!r} is taken (line {seen[rule_id].line})", f"{rule_id}-2")
        seen.setdefault(rule_id, entry.at("id"))


def check_entry(entry: Rec, facts: PlatformFacts, problems: Problems) -> None:
    """Checks one allow entry by itself."""
    if entry.get("tls") == "passthrough":
        for name in _PASSTHROUGH_EXCLUDES:
            if name in entry:
                problems.add(
                    entry.at(name), f"`{name}:` cannot be enforced with `tls: passthrough`", "remove one of the two"
                )
    _check_http(entry, problems)
    if "models" in entry and "tiers" in entry:
        problems.add(entry.at("tiers"), "`models:` and `tiers:` together", "keep one of the two")
    for item in entry.items("tiers") if "models" not in entry else ():
        if item.value not in facts.tiers:
            near = nearest(item.value, facts.tiers)
            fix = f"did you mean {near}?" if near else f"a tier of platform.yaml's `models:`: {_words(facts.tiers)}"
            problems.add(item.mark, f"no model of platform.yaml has the tier {shown(item.value)}", fix)
    _check_ip_host(entry, problems)
    if dlp := entry.rec("dlp"):
        check_dlp(dlp, facts.dlp, problems)


def _words(words: Iterable[str]) -> str:
    return ", ".join(sorted(words)) or "none yet"


def _check_http(entry: Rec, problems: Problems) -> None:
    if entry.get("scheme") != "http":
        return
    for name in ("tls", "upstream_ca"):
        if name in entry:
            problems.add(entry.at(name), f"`{name}:` means nothing with `scheme: http`", "remove one of the two")
    if "h2" in entry.plain("protocols"):
        problems.add(entry.at("protocols"), "h2 needs TLS", "remove h2, or use `scheme: https`")


def _check_ip_host(entry: Rec, problems: Problems) -> None:
    host: HostPattern | None = entry.get("host")
    if host is None or not is_ip_literal(host.host):
        return
    text = f"{host.host}/{128 if ':' in host.host else 32}"
    allowed = entry.plain("addresses")
    if not any(_holds(network, host.host) for network in allowed):
        problems.add(entry.at("host"), "an address as host must be named twice", f"add `addresses: [{text}]`")


def _holds(network: Network, address: str) -> bool:
    from ipaddress import ip_address

    parsed = ip_address(address)
    return parsed.version == network.version and parsed in network


def check_agreement(entries: Sequence[Rec], problems: Problems) -> None:
    """Entries that one ClientHello can mean must agree in all that is decided there."""
    first: dict[tuple[HostPattern, int], Rec] = {}
    for entry in entries:
        if entry.get("host") is None:
            continue
        for port in ports_of(entry):
            first.setdefault((entry.get("host"), port), entry)
    for entry in entries:
        host = entry.get("host")
        compared: set[int] = {id(entry)}
        for port in sorted(ports_of(entry)) if host is not None else ():
            for pattern in (host, *_wildcards_over(host)):
                other = first.get((pattern, port))
                if other is not None and id(other) not in compared:
                    compared.add(id(other))
                    _compare(entry, other, port, problems)


def _wildcards_over(host: HostPattern) -> Iterator[HostPattern]:
    labels = host.host.split(".")
    for start in range(1, len(labels)):
        yield HostPattern(".".join(labels[start:]), wildcard=True)


def _compare(entry: Rec, other: Rec, port: int, problems: Problems) -> None:
    for name in _AGREE:
        if any(name in one and name not in one.fields for one in (entry, other)):
            continue  # unreadable, and reported as such
        if _decided(entry, name) != _decided(other, name):
            problems.add(
                entry.at(name),
                f"`{rule_id_of(entry)}` and `{rule_id_of(other)}` ({other.at(name)}) cover the same host and port "
                f"{port} but differ in `{name}:`",
                f"write the same `{name}:` in both, or give them different ports",
            )


def ports_of(entry: Rec) -> frozenset[int]:
    """The ports of an entry, the scheme's own when none are written."""
    return frozenset(entry.plain("ports")) or frozenset({80 if entry.get("scheme") == "http" else 443})


def _decided(entry: Rec, name: str) -> Any:
    found = entry.fields.get(name)
    if name == "protocols":
        return frozenset(entry.plain("protocols")) or frozenset({"http1"})
    if name == "addresses":
        return frozenset(entry.plain("addresses"))
    if name == "tls":
        return entry.get("tls", "inspect")
    return None if found is None else found.canon


def _check_tightens(app: Rec, facts: PlatformFacts, problems: Problems) -> None:
    """An app may only tighten; an entry may loosen for its destination, with a reason and an approval."""
    if facts.defaults is None:
        return
    _tightens(app, facts.defaults, "the platform's limit", problems)
    for item in app.items("allow"):
        entry: Rec = item.value
        if not entry.get("reason") or not entry.get("approved_by"):
            _tightens(entry, facts.defaults, "the platform's limit (or give `reason:` and `approved_by:`)", problems)


def _tightens(rec: Rec, defaults: Rec, limit: str, problems: Problems) -> None:
    limits, most = rec.rec("limits"), defaults.rec("limits")
    for name in limits.fields if limits and most else ():
        if most is not None and limits is not None and name in most.fields and limits.get(name) > most.get(name):
            canon = most.fields[name].canon
            problems.add(limits.fields[name].mark, f"`{name}:` is above {limit}", f"at most {name}: {canon}")
    dlp, floor = rec.rec("dlp"), defaults.rec("dlp")
    if dlp is not None and floor is not None:
        check_dlp_tightens(dlp, floor, limit, problems)


def check_networks(claims: Iterable[tuple[Network, str, Mark]], problems: Problems) -> None:
    """(network, app, place) of all apps: those of two apps must not overlap."""
    last: dict[int, tuple[Network, str, Mark]] = {}
    for network, app, mark in sorted(
        claims, key=lambda claim: (claim[0].version, int(claim[0].network_address), claim[0].prefixlen)
    ):
        widest = last.get(network.version)
        if widest is not None and int(network.network_address) <= int(widest[0].broadcast_address):
            if widest[1] != app:
                problems.add(
                    mark,
                    f"{network} of {app} overlaps {widest[0]} of {widest[1]} ({widest[2]})",
                    "give each app a network of its own, or identify by `token: true` alone",
                )
            if int(network.broadcast_address) <= int(widest[0].broadcast_address):
                continue
        last[network.version] = (network, app, mark)
