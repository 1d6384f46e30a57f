"""Runs a policy test through the real exchange, with a scripted world around it: nothing is dialled, spent or logged.

The exchange, policy, inspection, placeholders, budget arithmetic and restore are the product's own; the upstream's
answer, the clock and what was spent before come from the test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson

from proxy import effects, providers
from proxy.budget import periods, shortage, usd
from proxy.config.snapshot import Snapshot
from proxy.config.testfile import CaseAnswer, Expectation, PolicyCase
from proxy.context import Context, rule_connection
from proxy.effects import Effect
from proxy.errors import Denied
from proxy.exchange import exchange
from proxy.model import (
    Authority,
    Headers,
    Inspection,
    InspectJob,
    Principal,
    Request,
    RequestHead,
    Reservation,
    Response,
    ResponseHead,
    Traffic,
    WireProtocol,
)
from proxy.net.names import canonical_host, is_ip_literal
from proxy.pricing import PriceBook

_DEFAULT_PORTS = {"https": 443, "http": 80}
type Inspector = Callable[[InspectJob], Inspection]


@dataclass(slots=True)
class Outcome:
    """What came of one test. `sent` is the request that would have left, or None; `answer` what the app would get."""

    record: Mapping[str, Any] = field(default_factory=dict)
    sent: Request | None = None
    status: int | None = None
    answer: bytes = b""
    entities: frozenset[str] = frozenset()
    transformed: bool = False

    @property
    def decision(self) -> str:
        """`deny`, `reply` (the proxy answered itself), `redact` or `allow`."""
        if self.record.get("outcome") == "denied":
            return "deny"
        if self.sent is None:
            return "reply"
        return "redact" if self.transformed else "allow"

    @property
    def left(self) -> str:
        """All text that would have left: request line, fields and body."""
        if self.sent is None:
            return ""
        head = self.sent.head
        lines = [f"{head.method} {head.target}"] + [f"{name!r}: {value!r}" for name, value in head.headers]
        return "\n".join(lines) + "\n" + self.sent.body.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class World:
    """What a rehearsal needs of its surroundings."""

    snapshot: Snapshot
    inspect: Inspector
    prices: PriceBook
    credential_digest: Callable[[bytes], str]


def rehearse(case: PolicyCase, world: World, now_s: float) -> Outcome:
    """Runs one test at `case.now_s`, else at `now_s`. Raises ValueError for a URL that no client would send."""
    outcome = Outcome()
    at_s = case.now_s if case.now_s is not None else now_s
    head = _head(case)
    context = Context(
        id="rehearsal",
        snapshot=world.snapshot,
        principal=Principal(case.app, "test", "127.0.0.1"),
        listener="explicit",
        sni=None,
        started_s=at_s,
        kills={},
        placeholder_key=lambda _app: bytes(32),
        cache_mac_key=lambda _app: bytes(32),
        credential_digest=world.credential_digest,
        prices=world.prices,
    )
    line = _line(context, head)
    _Stage(case, world, outcome, at_s).play(line)
    return outcome


async def _line(context: Context, head: RequestHead) -> None:
    """The connection's own rulings first, as the lane asks for them, then the exchange."""
    try:
        if head.authority.scheme == "https":
            rule_connection(context, "connect", head.authority)
            context.sni = None if is_ip_literal(head.authority.host) else head.authority.host
            rule_connection(context, "hello", head.authority)
    except Denied as denied:
        context.trail.denied(denied)
        await effects.Reply(Response(ResponseHead(denied.status, "", ()), denied.detail.encode()))
        await effects.Emit(context.trail.record(context))
        return
    await exchange(context, head)


def mismatches(outcome: Outcome, expect: Expectation) -> list[str]:
    """What differs from the expectation, a sentence each; none when the test holds."""
    record = outcome.record
    facts: list[tuple[str, Any, Any]] = [
        ("decision", expect.decision, outcome.decision),
        ("code", expect.code, record.get("code")),
        ("rule", expect.rule, record.get("rule_id")),
        ("status", expect.status, outcome.status),
        ("reached", expect.reached, outcome.sent is not None),
    ]
    found = [f"{name}: expected {want}, got {got}" for name, want, got in facts if want is not None and want != got]
    missing = sorted(set(expect.entities) - outcome.entities)
    if missing:
        found.append(f"entities: {', '.join(missing)} not found; found {', '.join(sorted(outcome.entities)) or 'none'}")
    answer = outcome.answer.decode("utf-8", "replace")
    for texts, held, where, wanted in (
        (expect.upstream_contains, outcome.left, "what left", True),
        (expect.upstream_lacks, outcome.left, "what left", False),
        (expect.answer_contains, answer, "the answer", True),
        (expect.answer_lacks, answer, "the answer", False),
    ):
        verb = "lacks" if wanted else "holds"
        found += [f"{where} {verb} {text!r}" for text in texts if (text in held) is not wanted]
    if outcome.decision == "deny" and expect.decision != "deny":
        found.append(f"denied because: {record.get('detail')} ({record.get('rule_at') or 'built in'})")
    return found


class _Stage:
    """Answers the effects of one rehearsal."""

    def __init__(self, case: PolicyCase, world: World, outcome: Outcome, now_s: float) -> None:
        self._case = case
        self._world = world
        self._outcome = outcome
        self._now_s = now_s
        self._body = b""

    def play(self, line: Any) -> None:
        """Drives the line to its end."""
        value: Any = None
        error: Denied | None = None
        while True:
            try:
                effect = line.throw(error) if error is not None else line.send(value)
            except StopIteration:
                return
            value, error = None, None
            try:
                value = self._answer(effect)
            except Denied as denied:
                error = denied

    def _answer(self, effect: Effect[Any]) -> Any:
        match effect:
            case effects.ReadBody():
                return self._read(effect.max_bytes), ()
            case effects.Inspect():
                return self._inspect(effect.job)
            case effects.Reserve():
                return self._reserve(effect)
            case effects.Forward():
                return self._forward(effect.request)
            case effects.Relay():
                self._outcome.answer = effect.tap.feed(self._body) + effect.tap.finish()
                self._outcome.status = effect.head.status
            case effects.Collect():
                return self._body
            case effects.Upgrade():
                return Traffic()
            case effects.Reply():
                self._outcome.status = effect.response.head.status
                self._outcome.answer = effect.response.body
            case effects.Emit() if effect.record.kind == "terminal":
                self._outcome.record = effect.record.fields
        return None

    def _read(self, max_bytes: int) -> bytes:
        body = self._case.request.body
        if len(body) > max_bytes:
            raise Denied("too_large", f"The body has {len(body)} bytes; this app may send {max_bytes}")
        return body

    def _inspect(self, job: InspectJob) -> Inspection:
        verdict = self._world.inspect(job)
        if job.direction == "request":
            self._outcome.entities = frozenset(finding.entity for finding in verdict.findings)
            self._outcome.transformed = verdict.action == "transform"
        return verdict

    def _reserve(self, effect: effects.Reserve) -> Reservation:
        budget, case = effect.app.budget, self._case
        at = periods(self._now_s, budget.time_zone if budget else "UTC")
        if budget is not None and budget.on_exceeded == "deny":
            for limit, spent in (
                (budget.daily_usd_nanos, case.spent_today_usd_nanos),
                (budget.monthly_usd_nanos, case.spent_this_month_usd_nanos),
            ):
                if limit is not None and spent + effect.usd_nanos > limit:
                    short = shortage(
                        effect.usd_nanos,
                        day_limit=budget.daily_usd_nanos,
                        month_limit=budget.monthly_usd_nanos,
                        day_spent=case.spent_today_usd_nanos,
                        month_spent=case.spent_this_month_usd_nanos,
                        at=at,
                        now_s=self._now_s,
                    )
                    detail = f"{usd(spent)} USD of the {short.period} {usd(short.limit_usd_nanos)} USD are spent"
                    raise Denied("budget_exceeded", detail, where=budget.at, retry_after_s=short.retry_after_s)
        return Reservation("rehearsal", effect.app.app, effect.usd_nanos, at.day, at.month)

    def _forward(self, request: Request) -> ResponseHead:
        self._outcome.sent = request
        answer = self._case.answer
        if request.head.protocol == "websocket":
            return ResponseHead(101, "Switching Protocols", ())
        self._body, content_type = _echo(request) if answer.echo else (answer.body, answer.content_type)
        return ResponseHead(answer.status, "", _answer_headers(answer, content_type))


def _answer_headers(answer: CaseAnswer, content_type: str) -> Headers:
    own = tuple((name.encode(), value.encode()) for name, value in answer.headers)
    return ((b"Content-Type", content_type.encode()), *own) if content_type else own


def _echo(request: Request) -> tuple[bytes, str]:
    """What a model would say that repeats its prompt, in the envelope of the API that was asked."""
    provider = providers.match(request.head.authority, request.head.method, request.head.path)
    text = request.body.decode("utf-8", "replace")
    envelope: dict[str, Any]
    if provider is None:
        content_type = (request.head.first(b"content-type") or b"text/plain").decode("latin-1")
        return request.body, content_type
    if provider.dialect.startswith("anthropic"):
        usage = {"input_tokens": 1, "output_tokens": 1}
        envelope = {
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "usage": usage,
        }
    else:
        message = {"role": "assistant", "content": text}
        envelope = {
            "object": "chat.completion",
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    return orjson.dumps(envelope), "application/json"


def _head(case: PolicyCase) -> RequestHead:
    request = case.request
    parts = urlsplit(request.url)
    scheme = "https" if parts.scheme in {"https", "wss"} else "http"
    protocol: WireProtocol = "websocket" if parts.scheme in {"wss", "ws"} else "http1"
    host = canonical_host(parts.hostname or "")
    authority = Authority("https" if scheme == "https" else "http", host, parts.port or _DEFAULT_PORTS[scheme])
    fields = [(name.encode(), value.encode()) for name, value in request.headers]
    if request.content_type and not any(name.lower() == b"content-type" for name, _ in fields):
        fields.append((b"Content-Type", request.content_type.encode()))
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return RequestHead(request.method, target, authority, tuple(fields), protocol)


def unknown_app(case: PolicyCase, snapshot: Snapshot) -> bool:
    """True when a test names an app that the policy does not have."""
    return case.app not in snapshot.apps
