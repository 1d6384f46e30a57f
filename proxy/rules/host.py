"""The host is one that an entry names."""

from collections.abc import Sequence

from proxy.config.snapshot import Entry, Snapshot
from proxy.net.names import is_ip_literal
from proxy.rules.base import FROM_CONNECT, Facts, Rule, Verdict, listed


def _admits(entry: Entry, facts: Facts, snapshot: Snapshot) -> bool:
    del snapshot
    host = facts.authority.host
    return host.endswith(f".{entry.host}") if entry.wildcard else host == entry.host


def _refuse(removed: Sequence[Entry], facts: Facts, snapshot: Snapshot) -> Verdict:
    host, app = facts.authority.host, facts.principal.app
    policy = snapshot.apps.get(app)
    where = policy.at if policy else ""
    if is_ip_literal(host):
        return Verdict(
            "ip_denied",
            f"{app} may not call the address {host}; addresses are allowed only where an entry names them",
            where,
            "Call the service by its name, or ask the app's admin for an entry with this `host:` and `addresses:`.",
        )
    near = closest(host, removed)
    known = f"it may call {listed(text_of(entry) for entry in removed)}" if removed else "its allowlist is empty"
    hint = f"; the closest entry is {near.rule_id} ({text_of(near)}, {near.at})" if near else ""
    return Verdict(
        "host_denied",
        f"{app} may not call {host}: {known}{hint}",
        near.at if near else where,
        f"Ask the app's admin to add an entry with `host: {host}` under `allow:` in {where or 'the app file'}.",
    )


def text_of(entry: Entry) -> str:
    """The host as the file has it."""
    return f"*.{entry.host}" if entry.wildcard else entry.host


def closest(host: str, entries: Sequence[Entry]) -> Entry | None:
    """The entry whose host is most like `host`, or None when none is."""
    from difflib import SequenceMatcher

    def likeness(entry: Entry) -> float:
        return SequenceMatcher(None, entry.host, host).ratio()

    best = max(entries[:200], key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.6 else None


RULE = Rule("host", 50, FROM_CONNECT, _admits, _refuse, "the host is on the allowlist")
