"""Which step of a request a sample of the profile belongs to: that of the innermost frame of our own code. Pure."""

from collections import Counter
from typing import Final

# step -> parts of file names; the first that matches counts.
_STEPS: Final = (
    ("identify", ("proxy/identity", "keys/tokens", "dataplane/callers")),
    ("policy", (
        "proxy/policy", "proxy/rules/", "proxy/context", "proxy/rulings", "proxy/head_memo", "net/names",
        "dataplane/limiter",
    )),
    ("inspection (verdict known)", ("proxy/inspector/", "proxy/inspection", "proxy/redaction")),
    ("cache", ("proxy/caching", "dataplane/cache_client", "stores/redis_cache")),
    ("budget", ("proxy/budget", "dataplane/ledger", "dataplane/settlement", "dataplane/journal", "redis_budget")),
    ("provider, answer, metering", (
        "proxy/providers/", "proxy/inference", "proxy/answer", "proxy/plain_answer", "proxy/restore", "proxy/metering",
        "proxy/pricing", "proxy/bodies/", "proxy/decoding",
    )),
    ("audit", ("proxy/audit", "proxy/trail", "proxy/sinks/", "dataplane/audit_writer", "dataplane/identifiers")),
    ("HTTP/1.1", (
        "dataplane/h1", "dataplane/heads", "proxy/fields", "proxy/model", "dataplane/targets", "client_hello",
    )),
    ("TLS and sockets", (
        "dataplane/channel", "dataplane/upstream", "dataplane/pump", "dataplane/tickets", "net/", "keys/",
    )),
    ("connection and exchange", (
        "dataplane/lane", "dataplane/runtime", "proxy/exchange", "proxy/delivery", "proxy/effects", "bodies_held",
    )),
    ("counters and status", ("dataplane/counters", "Worker._", "supervisor/channel")),
    ("policy watch, store link", ("dataplane/watcher", "proxy/stores/")),
)  # fmt: skip
OTHER: Final = "event loop and the rest"


def step_of(stack: str) -> str:
    """Of one collapsed stack, outermost frame first."""
    for frame in reversed(stack.split(";")):
        if "proxy/" not in frame or "site-packages" in frame:
            continue
        for step, parts in _STEPS:
            if any(part in frame for part in parts):
                return step
    return OTHER


def by_step(stacks: str) -> dict[str, float]:
    """Share of all samples by step, largest first."""
    counts = Counter[str]()
    for line in stacks.splitlines():
        stack, _, number = line.rpartition(" ")
        counts[step_of(stack)] += int(number)
    total = counts.total() or 1
    return {step: count / total for step, count in counts.most_common()}
