"""https, unless the entry says http. Not judged at CONNECT: what follows in the tunnel is not known yet."""

from collections.abc import Sequence

from proxy.config.snapshot import Entry, Snapshot
from proxy.rules.base import FROM_HELLO, Facts, Rule, Verdict, listed


def _admits(entry: Entry, facts: Facts, snapshot: Snapshot) -> bool:
    del snapshot
    return entry.scheme == facts.authority.scheme


def _refuse(removed: Sequence[Entry], facts: Facts, snapshot: Snapshot) -> Verdict:
    del snapshot
    allowed = listed(entry.scheme for entry in removed)
    return Verdict(
        "proto_denied",
        f"{facts.authority.scheme}:// to {facts.authority} is not allowed; {removed[0].rule_id} allows {allowed}://",
        removed[0].at,
        f"Use {allowed}://, or ask the app's admin to set `scheme: {facts.authority.scheme}` in {removed[0].at}.",
    )


RULE = Rule("scheme", 60, FROM_HELLO, _admits, _refuse, "the scheme is the entry's")
