"""The entry has not expired, to the second."""

from collections.abc import Sequence

from proxy.config.snapshot import Entry, Snapshot
from proxy.rules.base import FROM_CONNECT, Facts, Rule, Verdict
from proxy.rules.lifecycle import instant


def _admits(entry: Entry, facts: Facts, snapshot: Snapshot) -> bool:
    del snapshot
    return entry.expires_at_s is None or facts.now_s < entry.expires_at_s


def _refuse(removed: Sequence[Entry], facts: Facts, snapshot: Snapshot) -> Verdict:
    del snapshot
    latest = max(removed, key=lambda entry: entry.expires_at_s or 0.0)
    return Verdict(
        "expired",
        f"the permission {latest.rule_id} for {facts.authority.host} expired on {instant(latest.expires_at_s or 0.0)}",
        latest.at,
        f"Ask the app's admin to renew `expires:` in {latest.at}.",
    )


RULE = Rule("expiry", 80, FROM_CONNECT, _admits, _refuse, "the entry has not expired")
