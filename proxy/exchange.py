"""The straight line of one request, from its head to its audit record. Plain `async def` over effects; no I/O.

Deny first: every way out but the last passes `_refuse`, and only `Forward` can make a byte leave. A driver that breaks
the line anywhere (an exception of any kind thrown in) ends in a denial, a settled reservation and one record.
"""

from dataclasses import replace
from functools import lru_cache

from proxy import denials, fields, providers
from proxy.answer import AnswerTap
from proxy.config.snapshot import Entry
from proxy.context import Context, ruled
from proxy.delivery import deliver, forward
from proxy.effects import Aborted, Emit, Forward, Inspect, Offer, ReadBody, Reply, Upgrade
from proxy.errors import Denied
from proxy.head_memo import HeadMemo
from proxy.inference import decoded, forfeit, inference, release
from proxy.model import Authority, Headers, Inspection, InspectJob, Request, RequestHead
from proxy.policy import Ruling
from proxy.providers import Provider

# Never sent on.
_NO_TEXT = frozenset({"proxy-authorization"})
# RFC 6455 section 11.3, without the extensions offer: it is withheld, so that every frame can be read without a shared
# compression state.
_HANDSHAKE = frozenset({b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol"})


async def exchange(context: Context, head: RequestHead) -> None:
    """Runs one request to its end. Never raises but for what breaks the driver itself."""
    trail = context.trail
    trail.request(head, context.memo_of(head))
    provider: Provider | None = None
    try:
        provider = providers.match(head.authority, head.method, head.path)
        await _exchange(context, head, provider)
    except Denied as denied:
        await _refuse(context, denied, provider)
    except Aborted as aborted:
        trail.aborted(aborted.side, aborted.detail)
    except Exception as error:  # noqa: BLE001 - whatever it is, the answer is a denial
        trail.fault(error)
        if context.forwarded:
            await forfeit(context)
        await _refuse(context, Denied("internal"), provider)
    await release(context)
    await Emit(trail.record(context))


async def _exchange(context: Context, head: RequestHead, provider: Provider | None) -> None:
    ruling = ruled(context, "head", head, provider=provider.name if provider else None)
    entry = ruling.entry
    if entry is None:
        raise Denied("internal")
    trail = context.trail
    if head.protocol == "websocket":
        await _websocket(context, head, _governing(context, head, None, None, 0, ruling))
        return
    body, trailers = await ReadBody(entry.limits.max_body_bytes)
    trail.sizes(request_bytes=len(body))
    fields.check_trailers(trailers)
    if context.offers:
        # What an addon changed is judged and inspected as if the app had sent it.
        head, body = await Offer(head, body)
        provider = providers.match(head.authority, head.method, head.path)
        ruling = ruled(context, "head", head, provider=provider.name if provider else None)
    call = None
    if provider is not None:
        head, body = decoded(head, body, entry.limits.max_body_bytes)
        call = provider.parse_call(head, body)
        trail.call(provider.name, provider.operation, call.model)
    # The model decides which entry governs; its DLP rules and limits are the ones that count from here on.
    entry = _governing(context, head, provider, call.model if call else None, len(body), ruling)
    context.tier = context.snapshot.platform.tier_of(call.model if call else None)
    inspection = await Inspect(_job(context, head, entry, provider, body, trailers))
    _judge(context, inspection)
    uncoded_answer = call is not None or bool(inspection.restore)
    memo = context.memo_of(head)
    request = _transformed(head, body, trailers, inspection, uncoded_answer=uncoded_answer, memo=memo)
    if provider is None or call is None:
        await _plain(context, entry, request, inspection)
    else:
        await inference(context, entry, request, call, inspection)


def _governing(
    context: Context,
    head: RequestHead,
    provider: Provider | None,
    model: str | None,
    body_bytes: int,
    ruling: Ruling,
) -> Entry:
    name = provider.name if provider else None
    entry = ruled(context, "body", head, provider=name, model=model, after=ruling).entry
    if entry is None:
        raise Denied("internal")
    limit = entry.limits.max_body_bytes
    if body_bytes > limit:
        detail = f"The body has {body_bytes} bytes; this app may send {limit} here"
        raise Denied("too_large", detail, where=entry.at, rule_id=entry.rule_id)
    return entry


def _job(
    context: Context,
    head: RequestHead,
    entry: Entry,
    provider: Provider | None,
    body: bytes,
    trailers: Headers,
) -> InspectJob:
    own = entry.credentials.headers if entry.credentials else frozenset[str]()
    return InspectJob(
        app=context.principal.app,
        dlp=entry.dlp,
        method=head.method,
        target=head.target,
        headers=head.headers,
        body=body,
        placeholder_key=context.placeholder_key(context.principal.app),
        provider=provider.name if provider else None,
        skip_headers=_unread(own),
        trailers=trailers,
        tier=context.tier,
        memo=context.memo_of(head),
    )


@lru_cache(maxsize=1024)
def _unread(own: frozenset[str]) -> frozenset[str]:
    return own | _NO_TEXT


def _judge(context: Context, inspection: Inspection) -> None:
    context.trail.inspection(inspection)
    if inspection.action == "block":
        raise Denied(inspection.code or "pii", inspection.detail, where=inspection.where, remedy=inspection.remedy)


def _transformed(
    head: RequestHead,
    body: bytes,
    trailers: Headers,
    inspection: Inspection,
    *,
    uncoded_answer: bool = False,
    memo: HeadMemo | None = None,
) -> Request:
    """The request with the inspector's changes; a changed body is uncoded and loses its old digests."""
    changed = inspection.body is not None
    headers = head.headers if inspection.headers is None else inspection.headers
    target = head.target if inspection.target is None else inspection.target
    known = memo.outbound if memo is not None and inspection.headers is None and inspection.target is None else {}
    sent = known.get((changed, uncoded_answer))
    if sent is None:
        outbound = fields.outbound(
            headers, host=_host_field(head.authority), body_changed=changed, uncoded_answer=uncoded_answer
        )
        sent = RequestHead(head.method, target, head.authority, outbound, head.protocol, head.http_version)
        known[changed, uncoded_answer] = sent
    return Request(sent, body if inspection.body is None else inspection.body, trailers)


@lru_cache(maxsize=1024)
def _host_field(authority: Authority) -> bytes:
    """Host of the one authority; the port only when it is not the scheme's own (RFC 9110 section 7.2)."""
    default = 443 if authority.scheme == "https" else 80
    text = str(authority)
    return (text.rpartition(":")[0] if authority.port == default else text).encode("ascii")


async def _plain(context: Context, entry: Entry, request: Request, inspection: Inspection) -> None:
    """A request that is no inference call: forwarded as it is, placeholders restored in its answer."""
    head = await forward(context, entry, request)
    tap = AnswerTap.create(None, None, head, inspection.restore, capture_limit_bytes=0)
    await deliver(context, entry, request, head, tap)


async def _websocket(context: Context, head: RequestHead, entry: Entry) -> None:
    job = _job(context, head, entry, None, b"", ())
    inspection = await Inspect(job)
    _judge(context, inspection)
    request = _transformed(head, b"", (), inspection)
    kept = tuple(pair for pair in request.head.headers if pair[0].lower() in _HANDSHAKE)
    if any(pair not in head.headers for pair in kept):
        raise Denied("pii", "What was found in the WebSocket handshake cannot be replaced there")
    others = tuple(pair for pair in request.head.headers if not pair[0].lower().startswith(b"sec-websocket-"))
    upgrade = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"))
    request = replace(request, head=replace(request.head, headers=(*others, *upgrade, *kept)))
    context.forwarded = True
    answer = await Forward(entry, context.principal.app, request)
    if answer.status != 101:
        refused = replace(answer, headers=fields.inbound(answer))
        tap = AnswerTap.create(None, None, refused, {}, capture_limit_bytes=0)
        await deliver(context, entry, request, refused, tap)
        return
    await Emit(context.trail.opened(context))
    context.trail.answered(101, None)
    traffic = await Upgrade(answer, replace(job, headers=(), target="/"))
    context.trail.traffic(traffic)


async def _refuse(context: Context, denied: Denied, provider: Provider | None) -> None:
    context.trail.denied(denied)
    response = denials.render(denied, decision_id=context.id, revision=context.snapshot.revision, provider=provider)
    try:
        await Reply(response)
    except Aborted as aborted:
        context.trail.aborted(aborted.side, aborted.detail)
