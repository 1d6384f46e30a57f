"""From an inspected request to the answer at the client: the part that plain and inference calls share."""

from contextlib import suppress
from dataclasses import replace

from proxy import fields
from proxy.answer import AnswerTap
from proxy.bodies.codings import content_codings, decode
from proxy.collected_events import CollectedEvents
from proxy.config.snapshot import Entry
from proxy.context import Context
from proxy.effects import Collect, Forward, Inspect, Relay, Reply
from proxy.errors import Denied
from proxy.model import Headers, Inspection, InspectJob, Request, Response, ResponseHead

_CODING = b"content-encoding"
_NDJSON: Headers = ((b"Content-Type", b"application/x-ndjson"),)


async def forward(context: Context, entry: Entry, request: Request) -> ResponseHead:
    context.forwarded = True
    head = await Forward(entry, context.principal.app, request)
    if head.status == 101:
        raise Denied("upstream_malformed", "The upstream switched protocols without being asked")
    return _with(head, fields.inbound(head))


def _with(head: ResponseHead, headers: Headers) -> ResponseHead:
    if headers is head.headers:
        return head
    return ResponseHead(head.status, head.reason, headers, head.http_version)


async def deliver(
    context: Context,
    entry: Entry,
    request: Request,
    head: ResponseHead,
    tap: AnswerTap,
    extra: Headers = (),
) -> None:
    """The answer to the client: streamed through the tap, or read whole first where policy inspects answers."""
    if not entry.dlp.response_rules:
        context.trail.answered(head.status, None)
        headers = tap.headers(head)
        await Relay(_with(head, (*headers, *extra) if extra else headers), tap)
        return
    raw = await Collect(entry.limits.max_body_bytes)
    try:
        rewritten = await _inspected(context, entry, request, head, raw, tap)
    except Denied:
        _read(tap, raw)
        raise
    if rewritten is not None:
        tap.replaced()
    body = tap.feed(raw if rewritten is None else rewritten) + tap.finish()
    context.trail.answered(head.status, len(body))
    whole = fields.without(tap.headers(head), b"content-length", b"content-encoding" if not tap.keeps_length else b"")
    await Reply(Response(_with(head, (*whole, *extra)), body))


def _read(tap: AnswerTap, raw: bytes) -> None:
    """Takes the usage from an answer that is refused: it is billed all the same."""
    with suppress(Denied):
        tap.feed(raw)
        tap.finish()


async def _inspected(
    context: Context, entry: Entry, request: Request, head: ResponseHead, raw: bytes, tap: AnswerTap
) -> bytes | None:
    """The body without what may not come back, uncoded; None: as it is. Denied: response_blocked."""
    media_type = (head.first(b"content-type") or b"").partition(b";")[0].strip().lower()
    if media_type != b"text/event-stream":
        return (await _verdict(context, entry, request, head.headers, raw)).body
    events = CollectedEvents.read(_uncoded(head, raw), tap.call)
    verdict = await _verdict(context, entry, request, _NDJSON, events.document)
    return events.rendered(verdict.body)


def _uncoded(head: ResponseHead, raw: bytes) -> bytes:
    try:
        return decode(raw, content_codings(head.all(_CODING))).data
    except Denied as refusal:
        raise Denied("response_blocked", f"The answer cannot be read: {refusal.detail}") from None


async def _verdict(context: Context, entry: Entry, request: Request, headers: Headers, body: bytes) -> Inspection:
    dlp = replace(
        entry.dlp,
        rules=entry.dlp.response_rules,
        otherwise="allow",
        exceptions=(),
        digest=f"{entry.dlp.digest}:response",
    )
    verdict = await Inspect(
        InspectJob(
            app=context.principal.app,
            dlp=dlp,
            method=request.head.method,
            target="/",
            headers=headers,
            body=body,
            placeholder_key=context.placeholder_key(context.principal.app),
            direction="response",
            tier=context.tier,
        )
    )
    context.trail.answer_inspection(verdict)
    if verdict.action == "block":
        raise Denied("response_blocked", verdict.detail, where=verdict.where)
    return verdict
