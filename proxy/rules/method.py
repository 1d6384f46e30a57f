"""The method is one that the entry lists. Methods are case-sensitive (RFC 9110 section 9.1)."""

from collections.abc import Sequence

from proxy.config.snapshot import Entry, Snapshot
from proxy.rules.base import FROM_HEAD, Facts, Rule, Verdict, listed, printable


def _admits(entry: Entry, facts: Facts, snapshot: Snapshot) -> bool:
    del snapshot
    return entry.methods is None or facts.head is None or facts.head.method in entry.methods


def _refuse(removed: Sequence[Entry], facts: Facts, snapshot: Snapshot) -> Verdict:
    del snapshot
    method = printable(facts.head.method, 20) if facts.head is not None else "none"
    allowed = listed(one for entry in removed for one in entry.methods or ())
    return Verdict(
        "method_denied",
        f"the method {method} on {facts.authority.host} is not allowed; {removed[0].rule_id} allows {allowed}",
        removed[0].at,
        f"Use {allowed}, or ask the app's admin to add the method to `methods:` in {removed[0].at}.",
    )


RULE = Rule("method", 100, FROM_HEAD, _admits, _refuse, "the method is the entry's")
