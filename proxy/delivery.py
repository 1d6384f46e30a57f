"""From an inspected request to the answer at the client: the part that plain and inference calls share."""

from dataclasses import replace

from proxy import fields
from proxy.answer import AnswerTap
from proxy.config.snapshot import Entry
from proxy.context import Context
from proxy.effects import Collect, Forward, Inspect, Relay, Reply
from proxy.errors import Denied
from proxy.model import Headers, InspectJob, Request, Response, ResponseHead


async def forward(context: Context, entry: Entry, request: Request) -> ResponseHead:
    context.forwarded = True
    head = await Forward(entry, context.principal.app, request)
    if head.status == 101:
        raise Denied("upstream_malformed", "The upstream switched protocols without being asked")
    return _with(head, fields.inbound(head.headers))


def _with(head: ResponseHead, headers: Headers) -> ResponseHead:
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
        await Relay(_with(head, (*tap.headers(head), *extra)), tap)
        return
    raw = await Collect(entry.limits.max_body_bytes)
    await _inspect_answer(context, entry, request, head, raw)
    body = tap.feed(raw) + tap.finish()
    context.trail.answered(head.status, len(body))
    whole = fields.without(tap.headers(head), b"content-length", b"content-encoding" if not tap.keeps_length else b"")
    await Reply(Response(_with(head, (*whole, *extra)), body))


async def _inspect_answer(context: Context, entry: Entry, request: Request, head: ResponseHead, raw: bytes) -> None:
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
            headers=head.headers,
            body=raw,
            placeholder_key=context.placeholder_key(context.principal.app),
            direction="response",
            tier=context.tier,
        )
    )
    if verdict.action == "block":
        raise Denied("response_blocked", verdict.detail, where=verdict.where)
