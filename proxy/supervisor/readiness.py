"""When traffic may come, in words: the reasons why not. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Condition:
    """What the supervisor sees. `workers`: last status of each slot's current worker (None: not serving yet).
    `policy_outdated`: the store has been silent for longer than the policy allows. `inspector_fault`: what an inspector
    said that it lacks, "" when none did."""

    workers: Sequence[Mapping[str, Any] | None]
    inspectors_alive: int
    ca_expires_at_s: float
    audit_ready: bool
    draining: bool
    policy_outdated: bool = False
    inspector_fault: str = ""


def not_ready(condition: Condition, now_s: float) -> list[str]:
    """Reasons why the proxy would refuse all traffic; empty means ready. A slot in restart is none: its socket
    queues, and other slots serve."""
    reasons = []
    if condition.draining:
        reasons.append("draining")
    if condition.ca_expires_at_s <= now_s:
        reasons.append("the CA certificate has expired")
    serving = [worker for worker in condition.workers if worker is not None]
    inspected = any(worker.get("inspector") for worker in serving)
    if condition.inspector_fault and not inspected:
        reasons.append(f"no inspector runs: {condition.inspector_fault}")
    elif not condition.inspectors_alive:
        reasons.append("no inspector runs")
    if not condition.audit_ready:
        reasons.append("the audit trail cannot be written")
    if not serving:
        reasons.append("no worker serves yet")
    elif not any(worker.get("policy") for worker in serving):
        stale = "the store has been silent for longer than `max_staleness`"
        reasons.append(stale if condition.policy_outdated else "no valid policy has been loaded")
    elif not any(worker.get("policy") and worker.get("inspector") and worker.get("audit") for worker in serving):
        reasons.append("no worker has both an inspector and its audit trail")
    return reasons
