"""Collects what one exchange's audit record will say. Pure; the writer adds time, seq and chain.

Nothing here ever holds prompt text, secrets or raw PII: hosts and paths go through the audit module's safe forms.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.audit import safe_host, safe_path
from proxy.errors import Denied
from proxy.model import AuditRecord, CachedAnswer, Cost, Decision, Inspection, Principal, RequestHead, Traffic, Usage

if TYPE_CHECKING:
    from proxy.context import Context
    from proxy.head_memo import HeadMemo
    from proxy.model import Authority, Listener


@dataclass(slots=True)
class Trail:
    """Facts of one exchange, in the names of the audit record. `emitted` keeps the record from being written twice."""

    fields: dict[str, Any] = field(default_factory=dict)
    emitted: bool = False

    def origin(self, principal: Principal, listener: "Listener", sni: str | None) -> None:
        """Who called, over which listener."""
        self.fields |= {
            "app": principal.app,
            "identity": principal.via,
            "client_ip": principal.client_ip,
            "listener": listener,
        }
        if principal.token_id:
            self.fields["token_id"] = principal.token_id
        if sni:
            self.fields["sni"] = safe_host(sni)

    def target(self, authority: "Authority") -> None:
        """The one authority of the exchange."""
        self.fields |= _where(authority)

    def request(self, head: RequestHead, memo: "HeadMemo | None" = None) -> None:
        """Request line, in safe form; method and protocol."""
        if memo is None or memo.request is None:
            line = {"method": head.method, "path": safe_path(head.path), "protocol": head.protocol}
            facts = _where(head.authority) | line
            if memo is not None:
                memo.request = facts
        else:
            facts = memo.request
        self.fields |= facts

    def sizes(self, *, request_bytes: int) -> None:
        """Size of the request body as received, without transfer coding."""
        self.fields["request_bytes"] = request_bytes

    def ruling(self, decision: Decision) -> None:
        """The rule that decided; a report-mode denial is kept as `would_deny`."""
        self.fields["rule_id"] = decision.rule_id
        if decision.where:
            self.fields["rule_at"] = decision.where
        else:
            self.fields.pop("rule_at", None)
        if decision.would_deny:
            self.fields["would_deny"] = decision.code

    def inspection(self, inspection: Inspection) -> None:
        """Counts by entity and action, never spans or text."""
        self.fields["inspected"] = inspection.inspected
        if inspection.findings:
            self.fields["findings"] = _counts(inspection)
        if inspection.action == "transform":
            self.fields["transformed"] = True
        if inspection.would_block:
            self.fields["would_deny"] = inspection.would_block

    def answer_inspection(self, inspection: Inspection) -> None:
        """The same for an answer."""
        if inspection.findings:
            self.fields["answer_findings"] = _counts(inspection)
        if inspection.action == "transform":
            self.fields["answer_transformed"] = True
        if inspection.would_block:
            self.fields["would_deny"] = inspection.would_block

    def call(self, provider: str, operation: str, model: str) -> None:
        """The inference call (OpenTelemetry GenAI names)."""
        self.fields |= {
            "gen_ai.provider.name": provider,
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": model[:100],
        }

    def reserved(self, worst: Cost) -> None:
        """The amount held before the call."""
        self.fields["reserved_usd_nanos"] = worst.usd_nanos

    def spent(self, usage: Usage, cost: Cost) -> None:
        """Usage and money of the call; `unpriced` instead of a guess."""
        self.fields |= {
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cache_read_input_tokens,
            "cost_usd_nanos": cost.usd_nanos if cost.priced else None,
            "price_source": cost.source if cost.priced else "unpriced",
            "estimated": usage.estimated,
        }
        if usage.response_model and usage.response_model != usage.request_model:
            self.fields["gen_ai.response.model"] = usage.response_model[:100]

    def forfeited(self, usd_nanos: int) -> None:
        """The reserved amount stands for a cost that nobody knows."""
        self.fields |= {"cost_usd_nanos": usd_nanos, "price_source": "reserved", "estimated": True}

    def cache_hit(self, answer: CachedAnswer) -> None:
        """A hit costs nothing; what it would have cost is reported as saved."""
        self.fields |= {
            "cache": "hit",
            "cost_usd_nanos": 0,
            "saved_usd_nanos": answer.usd_nanos,
            "saved_input_tokens": answer.input_tokens,
            "saved_output_tokens": answer.output_tokens,
        }

    def answered(self, status: int, response_bytes: int | None) -> None:
        """Status sent to the client, and the size of an answer of ours."""
        self.fields["status"] = status
        if response_bytes is not None:
            self.fields["response_bytes"] = response_bytes

    def traffic(self, traffic: Traffic) -> None:
        """Totals of an upgraded or tunnelled connection."""
        self.fields |= {
            "sent_bytes": traffic.sent_bytes,
            "received_bytes": traffic.received_bytes,
            "messages": traffic.messages,
        }
        if traffic.close_code is not None:
            self.fields["close_code"] = traffic.close_code

    def denied(self, denied: Denied) -> None:
        """The refusal, with the words that the app saw."""
        self.fields |= {
            "outcome": "denied",
            "code": denied.code,
            "status": denied.status,
            "detail": denied.detail,
            "remedy": denied.remedy,
        }
        if denied.rule_id:
            self.fields["rule_id"] = denied.rule_id
        if denied.where:
            self.fields["rule_at"] = denied.where

    def aborted(self, side: str, detail: str) -> None:
        """One side left early; a denial that came first stays the outcome."""
        self.fields.setdefault("outcome", "aborted")
        self.fields["aborted_by"] = side
        self.fields["abort_detail"] = detail

    def fault(self, error: BaseException) -> None:
        """An error of ours: the type's name only, since a message may hold anything."""
        self.fields["fault"] = type(error).__name__

    def opened(self, context: "Context") -> AuditRecord:
        """The `open` record of a long exchange, written before its first payload byte."""
        return AuditRecord(context.id, "open", context.started_s, self._all(context) | {"outcome": "open"})

    def record(self, context: "Context") -> AuditRecord:
        """The one terminal record."""
        self.fields.setdefault("outcome", "allowed")
        return AuditRecord(context.id, "terminal", context.started_s, self._all(context))

    def _all(self, context: "Context") -> dict[str, Any]:
        return {"revision": context.snapshot.revision, "policy_seq": context.snapshot.seq, **self.fields}


def _where(authority: "Authority") -> dict[str, Any]:
    return {"scheme": authority.scheme, "host": safe_host(authority.host), "port": authority.port}


def _counts(inspection: Inspection) -> dict[str, int]:
    return dict(Counter(f"{finding.entity}:{finding.action}" for finding in inspection.findings))
