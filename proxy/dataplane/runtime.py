"""Drives exchanges: answers each effect from the worker's services and the request's carrier.

The runtime owns what must hold however an exchange ends: one terminal record, no reservation left open, and nothing
sent upstream unless the exchange itself asked for `Forward`.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from proxy import effects
from proxy.config.snapshot import AppPolicy, Entry
from proxy.context import Context
from proxy.dataplane.carrier import Carrier
from proxy.dataplane.identifiers import new_id
from proxy.denials import render
from proxy.effects import Aborted
from proxy.errors import Denied
from proxy.exchange import exchange
from proxy.model import AuditRecord, Authority, Listener, Principal, RequestHead
from proxy.policy import Stage
from proxy.rules import kill_switch
from proxy.rulings import RulingMemo, key_of
from proxy.trail import Trail

if TYPE_CHECKING:
    from proxy.dataplane.services import Services

_Handler = Callable[["Runtime", Carrier, Context, Any], Any]


class Runtime:
    """One per worker. `services` are shared by all its exchanges."""

    def __init__(self, services: "Services") -> None:
        self.services = services
        self._rulings = RulingMemo()

    def context(
        self, principal: Principal, listener: Listener, sni: str | None, exchange_id: str | None = None
    ) -> Context:
        """A fresh exchange's facts, with the snapshot of this moment. Denied: policy_unavailable, audit_unavailable."""
        services = self.services
        snapshot = services.watcher.current
        if snapshot is None or principal.app not in snapshot.apps:
            raise Denied("policy_unavailable")
        if not services.audit.ready:
            raise Denied("audit_unavailable")
        context = Context(
            id=exchange_id or new_id(),
            snapshot=snapshot,
            principal=principal,
            listener=listener,
            sni=sni,
            started_s=time.time(),
            kills=services.watcher.kills,
            placeholder_key=services.placeholder_key,
            cache_mac_key=services.cache_mac_key,
            credential_digest=services.credential_digest,
            prices=services.price_book(snapshot),
            rulings=self._rulings,
        )
        context.offers = services.hooks is not None and services.hooks.wanted
        context.trail.origin(principal, listener, sni)
        return context

    def permitted(
        self, stage: Stage, principal: Principal, listener: Listener, authority: Authority, sni: str | None
    ) -> Entry | None:
        """The entry under which the very same connection was allowed in this second. None: ask with a context."""
        services = self.services
        snapshot = services.watcher.current
        if snapshot is None or not services.audit.ready:
            return None
        key = key_of(stage, principal, listener, authority, sni, None, None, None)
        known = self._rulings.get(snapshot, key, services.watcher.kills, time.time())
        return known[1].entry if known is not None else None

    async def run(self, context: Context, head: RequestHead, carrier: Carrier) -> None:
        """Runs one request to its end; raises only CancelledError."""
        begun_s = time.monotonic()
        await self.drive(context, exchange(context, head), carrier)
        self._count(context, time.monotonic() - begun_s)

    async def drive(self, context: Context, line: Coroutine[Any, Any, None], carrier: Carrier) -> None:
        """Answers the effects of `line` until it ends. Whatever happens, its books are closed."""
        try:
            # From here on a terminal record is certain, even after kill -9: the supervisor writes it then.
            self.services.audit.begin(context.id, context.principal.app)
            await self._drive(context, line, carrier)
        except Denied as denied:
            context.trail.denied(denied)
            with contextlib.suppress(Aborted):
                await carrier.reply(render(denied, decision_id=context.id, revision=context.snapshot.revision))
        finally:
            try:
                line.close()
            finally:
                self._close_books(context)
        if context.flow is not None and self.services.hooks is not None:
            await self.services.hooks.failed(context.flow, str(context.trail.fields.get("code", "aborted")))

    async def _drive(self, context: Context, line: Coroutine[Any, Any, None], carrier: Carrier) -> None:
        answer: Any = None
        failure: BaseException | None = None
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                effect = line.send(answer) if failure is None else line.throw(failure)
            except StopIteration:
                break
            answer, failure = None, None
            try:
                answer = HANDLERS[type(effect)](self, carrier, context, effect)
                if hasattr(answer, "__await__"):
                    answer = await answer
            except asyncio.CancelledError as error:
                # The client is gone or the worker stops: the exchange closes its own books first.
                if cancelled is not None:
                    raise
                cancelled = error
                failure = Aborted("client", "cancelled", sent=context.forwarded and carrier.sent)
            except Exception as error:  # noqa: BLE001 - the exchange turns every kind into a denial
                failure = error
        if cancelled is not None:
            raise cancelled

    def _close_books(self, context: Context) -> None:
        """Nothing stays reserved and nothing goes unrecorded, even if the line itself broke."""
        if context.reservation is not None:
            reservation, context.reservation = context.reservation, None
            spent = reservation.usd_nanos if context.forwarded else 0
            self.services.ledger.settle(reservation, spent, estimated=context.forwarded, metered=False)
        if not context.trail.emitted:
            context.trail.fields.setdefault("outcome", "aborted")
            self.emit(context, context.trail.record(context))

    def emit(self, context: Context, record: AuditRecord) -> None:
        """Appends `record`; a terminal one once only."""
        if record.kind == "terminal":
            if context.trail.emitted:
                return
            context.trail.emitted = True
            record.fields["duration_ms"] = max(0, round((time.time() - context.started_s) * 1000))
        self.services.audit.emit(record)
        self.services.counters.add("audit_records_total", (record.kind,))

    def refuse(
        self,
        denied: Denied,
        *,
        listener: Listener,
        client_ip: str,
        authority: Authority | None = None,
        app: str | None = None,
    ) -> str:
        """Records a refusal outside of any exchange (`app` None: nobody known yet), and returns its id."""
        trail = Trail()
        trail.fields |= {"app": app or "", "client_ip": client_ip, "listener": listener}
        if authority is not None:
            trail.target(authority)
        trail.denied(denied)
        snapshot = self.services.watcher.current
        revision = {"revision": snapshot.revision, "policy_seq": snapshot.seq} if snapshot else {}
        record = AuditRecord(new_id(), "terminal", time.time(), revision | trail.fields)
        with contextlib.suppress(Denied):  # an unwritable trail is why we refuse; readiness tells the operator
            self.services.audit.emit(record)
        self.services.counters.add("requests_total", (app or "", "denied"))
        self.services.counters.add("denied_total", (denied.code, app or ""))
        return record.id

    def refused(self, context: Context, denied: Denied) -> None:
        """Records a refusal that needs no exchange (CONNECT, ClientHello)."""
        context.trail.denied(denied)
        self.emit(context, context.trail.record(context))
        self._count(context, 0.0)

    def _count(self, context: Context, seconds: float) -> None:
        fields = context.trail.fields
        counters = self.services.counters
        app = context.principal.app
        outcome = str(fields.get("outcome", "allowed"))
        counters.add("requests_total", (app, outcome))
        counters.observe("request_seconds", (app,), seconds)
        if outcome == "denied":
            counters.add("denied_total", (str(fields.get("code")), app))
        if fields.get("would_deny"):
            counters.add("would_deny_total", (str(fields["would_deny"]), app))
        if context.forwarded:
            counters.add("request_bytes_total", (app,), int(fields.get("request_bytes", 0)))
        for kind in ("findings", "answer_findings"):
            for key, number in fields.get(kind, {}).items():
                entity, _, action = key.partition(":")
                counters.add("findings_total", (entity, action), number)


async def _inspect(runtime: Runtime, _carrier: Carrier, _context: Context, effect: effects.Inspect) -> Any:
    begun_s = time.monotonic()
    verdict = await runtime.services.inspector.inspect(effect.job)
    runtime.services.counters.observe("inspect_seconds", (), time.monotonic() - begun_s)
    return verdict


def _inspect_seen(runtime: Runtime, carrier: Carrier, context: Context, effect: effects.Inspect) -> Any:
    return runtime.services.inspector.cached(effect.job) or _inspect(runtime, carrier, context, effect)


def _cache_get(runtime: Runtime, _carrier: Carrier, context: Context, effect: effects.CacheGet) -> Any:
    found = runtime.services.cache.get(effect.app, effect.key)
    if isinstance(found, Awaitable):
        return _counted_get(runtime, effect.app, found)
    runtime.services.counters.add("cache_total", (context.principal.app, "hit" if found else "miss"))
    return found


async def _counted_get(runtime: Runtime, app: str, pending: Awaitable[Any]) -> Any:
    found = await pending
    runtime.services.counters.add("cache_total", (app, "hit" if found else "miss"))
    return found


def _cache_put(runtime: Runtime, _carrier: Carrier, _context: Context, effect: effects.CachePut) -> None:
    runtime.services.cache.put(effect.app, effect.key, effect.answer, effect.ttl_s)


def _reserve(runtime: Runtime, _carrier: Carrier, context: Context, effect: effects.Reserve) -> Any:
    return runtime.services.ledger.reserve(effect.app, effect.usd_nanos, effect.exchange_id, context.started_s)


def _settle(runtime: Runtime, _carrier: Carrier, _context: Context, effect: effects.Settle) -> None:
    runtime.services.ledger.settle(
        effect.reservation, effect.usd_nanos, estimated=effect.estimated, metered=effect.metered
    )


def _meter(runtime: Runtime, _carrier: Carrier, context: Context, effect: effects.Meter) -> None:
    usage, app = effect.usage, effect.app.app
    runtime.services.ledger.record_usage(
        effect.app, effect.exchange_id, usage, effect.cost, saved=effect.saved, now_s=context.started_s
    )
    counters = runtime.services.counters
    kind = "saved_" if effect.saved else ""
    model = known_model(effect.app, context, usage.request_model)
    counters.add("tokens_total", (app, usage.provider, model, f"{kind}input"), usage.input_tokens)
    counters.add("tokens_total", (app, usage.provider, model, f"{kind}output"), usage.output_tokens)
    if effect.saved:
        return
    counters.add("cost_usd_nanos_total", (app, usage.provider, model), effect.cost.usd_nanos)
    if not effect.cost.priced:
        counters.add("unpriced_total", (app, usage.provider, model))


def known_model(app: AppPolicy, context: Context, model: str) -> str:
    """The metric label: a model that policy names, else `other`, so that hostile names cannot grow the series."""
    named = model in context.snapshot.platform.models or any(model in (entry.models or ()) for entry in app.entries)
    return model if named else "other"


async def _offer(runtime: Runtime, _carrier: Carrier, context: Context, effect: effects.Offer) -> Any:
    hooks = runtime.services.hooks
    if hooks is None:
        return effect.head, effect.body
    context.flow, head, body = await hooks.request(effect.head, effect.body, context.principal.client_ip)
    return head, body


def refuse_stopped(services: "Services", principal: Principal) -> None:
    """A body may take minutes to arrive, and so may an answer: a kill or revocation since then holds for what is about
    to pass. Denied: killed, identity_unknown."""
    watcher = services.watcher
    if principal.token_id in watcher.revoked:
        raise Denied("identity_unknown", "The proxy token has been revoked", status=403)
    if watcher.kills and (verdict := kill_switch.stopped(principal.app, watcher.kills)) is not None:
        raise Denied(verdict.code, verdict.detail, rule_id=kill_switch.RULE.name)


async def _forward(runtime: Runtime, carrier: Carrier, context: Context, effect: effects.Forward) -> Any:
    refuse_stopped(runtime.services, context.principal)
    begun_s = time.monotonic()
    try:
        head = await carrier.forward(effect)
    finally:
        _note_dialled(carrier, context)
    provider = str(context.trail.fields.get("gen_ai.provider.name", ""))
    runtime.services.counters.observe("upstream_seconds", (provider,), time.monotonic() - begun_s)
    if context.flow is not None and runtime.services.hooks is not None:
        await runtime.services.hooks.responded(context.flow, head)
        context.flow = None
    return head


async def _tunnel(runtime: Runtime, carrier: Carrier, context: Context, effect: effects.Tunnel) -> Any:
    refuse_stopped(runtime.services, context.principal)
    try:
        return await carrier.tunnel(effect)
    finally:
        _note_dialled(carrier, context)


def _note_dialled(carrier: Carrier, context: Context) -> None:
    if carrier.upstream_ip:
        context.trail.fields["upstream_ip"] = carrier.upstream_ip


HANDLERS: dict[type, _Handler] = {
    effects.Offer: _offer,
    effects.ReadBody: lambda _runtime, carrier, _context, effect: carrier.read_body(effect.max_bytes),
    effects.Inspect: _inspect_seen,
    effects.CacheGet: _cache_get,
    effects.CachePut: _cache_put,
    effects.Reserve: _reserve,
    effects.Settle: _settle,
    effects.Meter: _meter,
    effects.Forward: _forward,
    effects.Relay: lambda _runtime, carrier, _context, effect: carrier.relay(effect.head, effect.tap),
    effects.Collect: lambda _runtime, carrier, _context, effect: carrier.collect(effect.max_bytes),
    effects.Upgrade: lambda _runtime, carrier, _context, effect: carrier.upgrade(effect),
    effects.Tunnel: _tunnel,
    effects.Reply: lambda _runtime, carrier, _context, effect: carrier.reply(effect.response),
    effects.Emit: lambda runtime, _carrier, context, effect: runtime.emit(context, effect.record),
}
