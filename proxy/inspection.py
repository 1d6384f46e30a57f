"""What may leave: every text of one message is shown to a detector, and findings are acted upon where they stand.

Pure; runs inside an inspector process. Only found spans change, in the decoded bytes; a message without changes comes
back without `target`, `headers` and `body`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from proxy.actions import actions
from proxy.bodies import codings, head
from proxy.bodies.charset import printable
from proxy.bodies.layers import (
    ByteLayer,
    Edit,
    FixedText,
    TextLayer,
    TextRoot,
    apply,
    splice,
    splice_bytes,
)
from proxy.bodies.limits import DEFAULT_LIMITS, Limits
from proxy.bodies.walk import Medium, Walk
from proxy.errors import Denied
from proxy.hits import Detector, detect, sources_of
from proxy.model import Finding, Headers, Inspection, InspectJob
from proxy.redaction import Replacer, Ruled, Span, json_paths, on_trial, rule_on, spans, summary

__all__ = ("Detector", "inspect")

_TOKEN_ROUTES: Final = {"embeddings": frozenset(("input",)), "completions": frozenset(("prompt",))}
_CONTENT_FIELDS: Final = frozenset(
    (b"content-encoding", b"content-length", b"content-md5", b"digest", b"content-digest", b"repr-digest")
)


@dataclass(slots=True)
class _Message:
    """The texts of one message, with the roots in which edits end."""

    body: ByteLayer
    target: TextRoot | None = None
    leaves: list[TextLayer] = field(default_factory=list)
    media: list[Medium] = field(default_factory=list)


def inspect(job: InspectJob, detector: Detector, *, now_s: float, limits: Limits = DEFAULT_LIMITS) -> Inspection:
    """The verdict on one message. Never raises Denied: what cannot be read whole comes back blocked with its code.

    Anything else that is raised means that the inspection did not finish, and the caller must not send.
    """
    try:
        message = _texts_of(job, now_s, limits)
        sources = sources_of(message.leaves, limits)
    except Denied as refusal:
        return Inspection("block", code=refusal.code, detail=refusal.detail, where=refusal.where, remedy=refusal.remedy)
    rules = job.dlp.response_rules if job.direction == "response" else job.dlp.rules
    rules = tuple(rule for rule in rules if rule.applies(job.tier))
    otherwise = "allow" if job.direction == "response" else job.dlp.otherwise
    named = frozenset(entity for rule in rules for entity in rule.entities)
    hits = detect(message.leaves, sources, detector, job.dlp.profile, named)
    ruled = rule_on(hits, rules, otherwise, job.dlp.exceptions, now_s)
    return _conclude(job, message, ruled)


def _texts_of(job: InspectJob, now_s: float, limits: Limits) -> _Message:
    fields = dict(_lowered(job.headers)) if job.direction != "message" else {}
    coded = [value for name, value in job.headers if name.lower() == b"content-encoding"]
    walk = Walk(
        limits,
        skips=json_paths(job.dlp.exceptions, now_s),
        token_fields=_token_fields(job),
        provider=job.provider is not None,
    )
    if job.direction == "request":
        root, leaves = head.target_texts(job.target, limits)
        for layer in leaves:
            walk.text(layer, 1, files=False)
        for layer in head.header_texts(job.headers, job.skip_headers):
            walk.text(layer, 1, files=False)
        for layer in head.trailer_texts(job.trailers):
            walk.text(layer, 1, files=False)
    else:
        root = None
    body = job.body
    if body and job.direction != "message":
        decoded = codings.decode(body, codings.content_codings(coded), limits)
        body = decoded.data
        for note in decoded.notes:
            walk.add(FixedText(note, "body"))
    layer_of_body = ByteLayer(body)
    walk.body(layer_of_body, 0, body, fields.get(b"content-type", b"").decode("latin-1"))
    return _Message(layer_of_body, root, walk.leaves, walk.media)


def _lowered(headers: Headers) -> list[tuple[bytes, bytes]]:
    seen: dict[bytes, bytes] = {}
    for name, value in headers:
        if name.lower() == b"content-type" and seen.setdefault(b"content-type", value) != value:
            raise Denied("encoding", "the message has two different Content-Type fields")
    return [(name.lower(), value) for name, value in headers]


def _token_fields(job: InspectJob) -> frozenset[str]:
    last = job.target.partition("?")[0].rstrip("/").rpartition("/")[2]
    return _TOKEN_ROUTES.get(last, frozenset())


def _conclude(job: InspectJob, message: _Message, ruled: list[Ruled]) -> Inspection:
    name = _namer(message.leaves, ruled)
    report = job.dlp.mode == "report"
    refused = [m for m in message.media if _kind_action(job, m) == "block"] if job.direction != "response" else []
    passed = sorted({medium.name for medium in message.media if report or medium not in refused})
    inspected = f"none:{','.join(passed)}" if passed else "full"
    code = "response_blocked" if job.direction == "response" else "pii"
    blocked = [item for item in ruled if item.action == "block"]
    would = code if any("block" in (item.trial, item.action) for item in ruled) else None
    if report:
        would = would or ("uninspectable" if refused else None)
        return Inspection("allow", _findings(message, on_trial(ruled), name), inspected=inspected, would_block=would)
    findings = _findings(message, ruled, name)
    if blocked:
        detail = _detail(blocked, message, name)
        return Inspection("block", findings, code=code, detail=detail, where=blocked[0].where, inspected=inspected)
    if refused:
        place = refused[0].layer.where(name)
        return Inspection("block", findings, code="uninspectable", detail=f"{refused[0].name} in {place}")
    return _transform(job, message, ruled, Inspection("allow", findings, inspected=inspected, would_block=would))


def _kind_action(job: InspectJob, medium: Medium) -> str:
    kinds = job.dlp.uninspectable
    if medium.kind == "sealed":
        return kinds.get("sealed", "allow")
    return kinds.get(medium.kind) or kinds.get("unknown") or "block"


def _namer(leaves: Sequence[TextLayer], ruled: Sequence[Ruled]) -> "_Namer":
    return _Namer(frozenset(leaves[item.hit.leaf].text for item in ruled))


class _Namer:
    """Shows names of keys and fields in locations; one that a finding touches, or that looks like data, is `*`."""

    _PLAIN: Final = re.compile(r"(?!(?:\D*\d){4})[A-Za-z_$][A-Za-z0-9_.\-]{0,40}")

    def __init__(self, touched: frozenset[str]) -> None:
        self._touched = touched

    def __call__(self, name: str) -> str:
        return name if name not in self._touched and self._PLAIN.fullmatch(name) else "*"


def _findings(message: _Message, ruled: Sequence[Ruled], name: _Namer) -> tuple[Finding, ...]:
    places = {item.hit.leaf: message.leaves[item.hit.leaf].where(name) for item in ruled}
    return tuple(
        Finding(
            entity=item.hit.entity,
            start=item.hit.start,
            end=item.hit.end,
            score=item.hit.score,
            recognizer=item.hit.recognizer,
            location=places[item.hit.leaf],
            action=item.trial if item.trial is not None and item.action == "allow" else item.action,
            mode="report" if item.trial is not None and item.action == "allow" else "enforce",
        )
        for item in ruled
        if item.hit.part < 2
    )


def _detail(blocked: Sequence[Ruled], message: _Message, name: _Namer) -> str:
    places = list(dict.fromkeys(message.leaves[item.hit.leaf].where(name) for item in blocked))
    more = f" and {len(places) - 3} more places" if len(places) > 3 else ""
    text = f"{summary(blocked)} in {', '.join(places[:3])}{more}"
    if all(item.fixed for item in blocked):
        text += "; this place cannot be rewritten, so the request is refused"
    return text


def _transform(job: InspectJob, message: _Message, ruled: Sequence[Ruled], verdict: Inspection) -> Inspection:
    per_leaf: dict[int, list[Ruled]] = {}
    for item in ruled:
        if item.action != "allow":
            per_leaf.setdefault(item.hit.leaf, []).append(item)
    if not per_leaf:
        return verdict
    replacer = Replacer(job.placeholder_key)
    edits: dict[TextLayer, list[Edit]] = {}
    for index in sorted(per_leaf):
        leaf = message.leaves[index]
        edits[leaf] = [_edit(leaf, span, replacer) for span in spans(per_leaf[index])]
    roots = apply(edits)
    target = headers = body = None
    changed: dict[int, bytes] = {}
    for root, changes in roots.items():
        if root is message.body:
            body = splice_bytes(message.body.data, changes)
        elif root is message.target:
            target = splice(message.target.text, changes)
        elif isinstance(root, head.MachineText):
            changed[root.index] = head.field_bytes(splice(root.text, changes))
        else:
            raise RuntimeError("an edit ended in a place that cannot be rewritten")
    if changed:
        headers = tuple((n, changed.get(index, value)) for index, (n, value) in enumerate(job.headers))
    return Inspection(
        "transform",
        verdict.findings,
        target=target,
        headers=headers,
        body=body,
        restore=replacer.restore,
        inspected=verdict.inspected,
        would_block=verdict.would_block,
    )


def _edit(leaf: TextLayer, span: Span, replacer: Replacer) -> Edit:
    original = printable(leaf.text[span.start : span.end])
    action = "redact" if span.whole and not actions()[span.action].whole_runs else span.action
    if span.part and action != "mask":
        # The first piece of a split value stands for all of it.
        stand_in = replacer.text(action, span.entity, span.value, span.value) if span.part == 1 else ""
        return Edit(span.start, span.end, stand_in)
    return Edit(span.start, span.end, replacer.text(action, span.entity, original, span.value or original))
