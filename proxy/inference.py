"""An inference call: model rule, output cap, cache, budget, usage. The straight line's longest branch."""

from dataclasses import replace

from proxy import fields
from proxy.answer import AnswerTap
from proxy.bodies.codings import content_codings, decode
from proxy.bodies.limits import DEFAULT_LIMITS
from proxy.caching import cache_key, replay
from proxy.config.snapshot import Entry
from proxy.context import Context
from proxy.delivery import deliver, forward
from proxy.effects import Aborted, CacheGet, CachePut, Meter, Reply, Reserve, Settle
from proxy.errors import Denied
from proxy.model import CachedAnswer, Cost, Headers, Inspection, Request, RequestHead, ResponseHead, Usage
from proxy.providers import Call, Provider

# A request without a cap of its own or of its policy still gets one when a budget must bound it.
DEFAULT_OUTPUT_CAP_TOKENS = 4096
# A refusal of an answer: the request had left, whether or not it says so.
_ANSWERED = "upstream_malformed"
# What no answer depends on: who traces or repeats the call, and what the key holds anyway. Of any other field nobody
# knows whether it chooses account, version, region or model, so that two calls which differ in one share no answer.
_SAYS_NOTHING = frozenset(
    b"host accept-encoding user-agent date cache-control pragma traceparent tracestate baggage b3 sentry-trace "
    b"newrelic idempotency-key request-id x-request-id x-client-request-id x-correlation-id x-amzn-trace-id "
    b"x-cloud-trace-context".split()
)
_TRACES = (b"x-stainless-", b"x-b3-", b"x-datadog-")
# Answers larger than this are relayed but not kept for the cache.
CAPTURE_LIMIT_BYTES = 1 << 20


async def inference(context: Context, entry: Entry, request: Request, call: Call, inspection: Inspection) -> None:
    """An inference call, inspected: output cap, cache, budget, usage. `call` is as the client sent it."""
    provider = call.provider
    if inspection.body is not None:
        call = _unchanged(call, provider.parse_call(request.head, request.body))
    cap = _output_cap(context, entry, call)
    request = _prepared(request, provider.prepare(call, request.body, output_cap=cap))
    key = _cache_key(context, entry, request, provider, call)
    if key is not None and not call.no_cache:
        hit = await CacheGet(context.principal.app, key)
        if hit is not None:
            await _from_cache(context, provider, hit, call, inspection)
            return
    await _reserve(context, provider, call, cap)
    head = await _answered(context, entry, request, provider, call)
    tap = AnswerTap.create(
        provider,
        call,
        head,
        inspection.restore,
        capture_limit_bytes=CAPTURE_LIMIT_BYTES if key is not None and not call.no_store else 0,
    )
    try:
        extra: Headers = ((b"X-Cache", b"miss"),) if key is not None else ()
        await deliver(context, entry, request, head, tap, extra)
    except BaseException:
        await settle(context, tap.abort())
        raise
    usd_nanos = await settle(context, tap.usage)
    if key is not None and entry.cache is not None and tap.cacheable and tap.captured is not None:
        answer = _storable(context, head, tap, call, usd_nanos)
        await CachePut(context.principal.app, key, answer, entry.cache.ttl_s)


def _prepared(request: Request, body: bytes) -> Request:
    if body == request.body:
        return request
    head = request.head
    headers = fields.without(head.headers, *fields.BODY_DIGESTS)
    head = RequestHead(head.method, head.target, head.authority, headers, head.protocol, head.http_version)
    return Request(head, body, request.trailers)


async def _answered(context: Context, entry: Entry, request: Request, provider: Provider, call: Call) -> ResponseHead:
    """The answer's head. A call that was sent whole and never answered may be billed: it is settled as estimated."""
    try:
        return await forward(context, entry, request)
    except (Aborted, Denied) as error:
        if error.sent or (isinstance(error, Denied) and error.code == _ANSWERED):
            await settle(context, _unanswered(provider, call))
        raise


def _unanswered(provider: Provider, call: Call) -> Usage:
    return Usage(
        provider=provider.name,
        operation=provider.operation,
        request_model=call.model,
        response_model=call.model,
        input_tokens=call.input_tokens,
        estimated=True,
    )


def decoded(head: RequestHead, body: bytes, max_bytes: int) -> tuple[RequestHead, bytes]:
    """Head and body without content coding, so that model and caps can be read and written. Denied: encoding."""
    values = head.all(b"content-encoding")
    if not values:
        return head, body
    limits = replace(DEFAULT_LIMITS, max_decoded_bytes=max_bytes)
    plain = decode(body, content_codings(values), limits).data
    return replace(head, headers=fields.without(head.headers, *fields.BODY_DIGESTS)), plain


def _unchanged(before: Call, after: Call) -> Call:
    """The call after redaction, which must still be the one that policy allowed."""
    if (before.model, before.stream) != (after.model, after.stream):
        raise Denied("pii", "Redaction would have changed the model that the request names")
    return after


def _output_cap(context: Context, entry: Entry, call: Call) -> int | None:
    """The cap to write into the request, or None to leave it: its own cap stands unless it exceeds the policy's."""
    limit = entry.limits.max_output_tokens
    if call.output_cap is not None:
        if limit is not None and call.output_cap > limit:
            raise Denied(
                "too_large",
                f"The request asks for up to {call.output_cap} output tokens; this app may ask for {limit}",
                where=entry.at,
                rule_id=entry.rule_id,
                remedy=f"Set the request's output limit to {limit} or less, or ask the admin to raise "
                "`limits.max_output_tokens`.",
                status=403,
            )
        return None
    if limit is None and context.app.budget is not None:
        return DEFAULT_OUTPUT_CAP_TOKENS
    return limit


def _cache_key(context: Context, entry: Entry, request: Request, provider: Provider, call: Call) -> bytes | None:
    """The key, or None where this call is not to be cached."""
    if entry.cache is None or (entry.cache.only_deterministic and not call.deterministic):
        return None
    named = zip(request.head.names, request.head.headers, strict=True)
    telling = b"\0".join(
        [name + b"\0" + field[1] for name, field in named if name not in _SAYS_NOTHING and not name.startswith(_TRACES)]
    )
    return cache_key(
        context.cache_mac_key(context.principal.app),
        app=context.principal.app,
        provider=provider.name,
        endpoint=f"{request.head.method} {request.head.authority} {request.head.target}",
        credential=telling,
        body=request.body,
        app_digest=context.app.digest,
    )


async def _from_cache(
    context: Context, provider: Provider, hit: CachedAnswer, call: Call, inspection: Inspection
) -> None:
    response = replay(hit, call, inspection.restore, context.started_s)
    context.trail.cache_hit(hit)
    usage = Usage(
        provider=provider.name,
        operation=provider.operation,
        request_model=hit.model,
        response_model=hit.model,
        input_tokens=hit.input_tokens,
        output_tokens=hit.output_tokens,
    )
    await Meter(context.app, context.id, usage, Cost(hit.usd_nanos, priced=True, source="cache"), saved=True)
    context.trail.answered(response.head.status, len(response.body))
    await Reply(response)


async def _reserve(context: Context, provider: Provider, call: Call, cap: int | None) -> None:
    budget = context.app.budget
    output_tokens = call.output_cap if call.output_cap is not None else cap
    worst = context.prices.worst_case(provider.name, call.model, call.input_tokens, (output_tokens or 0) * call.choices)
    if budget is None:
        return
    if not worst.priced:
        if budget.unpriced == "deny":
            raise Denied("unpriced", f"No price is known for model {call.model!r} of {provider.name}", where=budget.at)
        # It will be settled as unpriced; until then it holds what the dearest model of its provider could cost.
        worst = context.prices.dearest(provider.name, call.input_tokens, (output_tokens or 0) * call.choices)
    context.reservation = await Reserve(context.app, worst.usd_nanos, context.id)
    context.trail.reserved(worst)


async def settle(context: Context, usage: Usage | None) -> int:
    """Replaces the reservation by the real cost, records it, and returns it in nano-dollars."""
    if usage is None:
        await release(context)
        return 0
    cost = context.prices.cost(usage, context.started_s)
    context.trail.spent(usage, cost)
    reservation, context.reservation = context.reservation, None
    if reservation is not None:
        await Settle(reservation, cost.usd_nanos, usage.estimated)
    await Meter(context.app, context.id, usage, cost)
    return cost.usd_nanos


def _storable(context: Context, head: ResponseHead, tap: AnswerTap, call: Call, usd_nanos: int) -> CachedAnswer:
    usage = tap.usage
    return CachedAnswer(
        status=head.status,
        headers=head.headers,
        body=tap.captured or b"",
        stored_at_s=context.started_s,
        model=call.model,
        input_tokens=usage.input_tokens if usage else 0,
        output_tokens=usage.output_tokens if usage else 0,
        usd_nanos=usd_nanos,
    )


async def release(context: Context) -> None:
    reservation, context.reservation = context.reservation, None
    if reservation is not None:
        await Settle(reservation, 0, estimated=False)


async def forfeit(context: Context) -> None:
    """Settles at what was reserved: an error of ours hides how much of the call the upstream got, and may bill."""
    reservation, context.reservation = context.reservation, None
    if reservation is not None:
        context.trail.forfeited(reservation.usd_nanos)
        await Settle(reservation, reservation.usd_nanos, estimated=True, metered=False)
