"""HTTP/1.1, WebSocket or HTTP/2: what the entry carries."""

from collections.abc import Sequence

from proxy.config.snapshot import Entry, Snapshot
from proxy.rules.base import FROM_HEAD, Facts, Rule, Verdict, listed


def _admits(entry: Entry, facts: Facts, snapshot: Snapshot) -> bool:
    del snapshot
    return not entry.passthrough and (facts.head is None or facts.head.protocol in entry.protocols)


def _refuse(removed: Sequence[Entry], facts: Facts, snapshot: Snapshot) -> Verdict:
    del snapshot
    entry = removed[0]
    protocol = facts.head.protocol if facts.head is not None else "http1"
    if entry.passthrough:
        return Verdict(
            "proto_denied",
            f"{entry.rule_id} passes TLS through to {facts.authority.host} unopened, so no plain request may be sent",
            entry.at,
            "Speak TLS end to end.",
        )
    return Verdict(
        "proto_denied",
        f"{protocol} to {facts.authority.host} is not allowed; {entry.rule_id} allows {listed(entry.protocols)}",
        entry.at,
        f"Use {listed(entry.protocols)}, or ask the app's admin to add {protocol} to `protocols:` in {entry.at}.",
    )


RULE = Rule("protocol", 90, FROM_HEAD, _admits, _refuse, "the protocol is the entry's")
