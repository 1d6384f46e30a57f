"""The port is one that the entry lists."""

from collections.abc import Sequence

from proxy.config.snapshot import Entry, Snapshot
from proxy.rules.base import FROM_CONNECT, Facts, Rule, Verdict, listed


def _admits(entry: Entry, facts: Facts, snapshot: Snapshot) -> bool:
    del snapshot
    return facts.authority.port in entry.ports


def _refuse(removed: Sequence[Entry], facts: Facts, snapshot: Snapshot) -> Verdict:
    del snapshot
    port = facts.authority.port
    allowed = listed(one for entry in removed for one in entry.ports)
    return Verdict(
        "port_denied",
        f"port {port} of {facts.authority.host} is not allowed; {removed[0].rule_id} allows {allowed}",
        removed[0].at,
        f"Use port {allowed}, or ask the app's admin to add {port} to `ports:` in {removed[0].at}.",
    )


RULE = Rule("port", 70, FROM_CONNECT, _admits, _refuse, "the port is the entry's")
