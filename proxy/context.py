"""What one exchange knows from its start, and the two questions every part of the line asks of policy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy import policy
from proxy.config.snapshot import UNLISTED, AppPolicy, Snapshot
from proxy.errors import Denied
from proxy.head_memo import HeadMemo
from proxy.model import Authority, Listener, Principal, RequestHead, Reservation
from proxy.pricing import PriceBook
from proxy.rulings import RulingMemo, key_of
from proxy.trail import Trail


@dataclass(slots=True)
class Context:
    """Facts and keys of one exchange; the snapshot is taken once and never looked up again.

    `placeholder_key`, `cache_mac_key`: app -> 32 bytes. `credential_digest`: field value -> pin form.
    `reservation` and `forwarded` tell the driver what is open should the line be broken off. `tier`: of the call's
    model, once that is known. `offers`: foreign addons
    want to see the request; `flow` is then theirs. `asked`: the head that came; `memo`: what is remembered of it.
    """

    id: str
    snapshot: Snapshot
    principal: Principal
    listener: Listener
    sni: str | None
    started_s: float
    kills: Mapping[str, Mapping[str, Any]]
    placeholder_key: Callable[[str], bytes]
    cache_mac_key: Callable[[str], bytes]
    credential_digest: Callable[[bytes], str]
    prices: PriceBook
    trail: Trail = field(default_factory=Trail)
    reservation: Reservation | None = None
    forwarded: bool = False
    offers: bool = False
    flow: Any = None
    last_facts: policy.Facts | None = None
    tier: str = UNLISTED
    rulings: RulingMemo = field(default_factory=RulingMemo)
    asked: RequestHead | None = None
    memo: HeadMemo | None = None

    def memo_of(self, head: RequestHead) -> HeadMemo | None:
        """What is remembered of this very head."""
        return self.memo if head is self.asked else None

    @property
    def app(self) -> AppPolicy:
        """The app's policy in this exchange's snapshot."""
        return self.snapshot.apps[self.principal.app]


def ruled(
    context: Context,
    stage: policy.Stage,
    head: RequestHead,
    *,
    provider: str | None = None,
    model: str | None = None,
    after: policy.Ruling | None = None,
) -> policy.Ruling:
    """Policy's verdict on a request at one stage; raises it when it is a denial. `provider`: whose API it calls.

    `after`: the ruling of the stage before, on this very request.
    """
    memo = context.memo if head is context.asked else None
    if memo is None:
        return _rule(context, stage, head.authority, head, provider, model, after)
    near = memo.rulings(
        context.snapshot, context.kills, context.started_s, context.principal, context.listener, context.sni
    )
    known = near.get((stage, provider, model))
    if known is not None:
        context.last_facts, ruling = known
        context.trail.ruling(ruling.decision)
        return ruling
    ruling = _rule(context, stage, head.authority, head, provider, model, after)
    if context.last_facts is not None and ruling.decision.action == "allow":
        near[stage, provider, model] = context.last_facts, ruling
    return ruling


def rule_connection(context: Context, stage: policy.Stage, authority: Authority) -> policy.Ruling:
    """Policy's verdict on a connection, before any request is known; raises it when it is a denial."""
    return _rule(context, stage, authority)


def _rule(
    context: Context,
    stage: policy.Stage,
    authority: Authority,
    head: RequestHead | None = None,
    provider: str | None = None,
    model: str | None = None,
    after: policy.Ruling | None = None,
) -> policy.Ruling:
    context.last_facts, ruling = _asked(context, stage, authority, head, provider, model, after)
    context.trail.ruling(ruling.decision)
    raise_denial(ruling)
    return ruling


def _asked(
    context: Context,
    stage: policy.Stage,
    authority: Authority,
    head: RequestHead | None,
    provider: str | None,
    model: str | None,
    after: policy.Ruling | None,
) -> tuple[policy.Facts, policy.Ruling]:
    key = key_of(stage, context.principal, context.listener, authority, context.sni, head, provider, model)
    known = context.rulings.get(context.snapshot, key, context.kills, context.started_s)
    if known is not None:
        return known
    facts = policy.Facts(
        stage=stage,
        principal=context.principal,
        listener=context.listener,
        authority=authority,
        now_s=context.started_s,
        sni=context.sni,
        head=head,
        provider=provider,
        model=model,
        kills=context.kills,
        credential_digest=context.credential_digest,
    )
    ruling = policy.rule_on(context.snapshot, facts, after=after)
    context.rulings.put(key, facts, ruling)
    return facts, ruling


def raise_denial(ruling: policy.Ruling) -> None:
    """Raises the ruling's decision as `Denied` unless it allows."""
    decision = ruling.decision
    if decision.action == "deny":
        raise Denied(
            decision.code or "internal",
            decision.detail,
            where=decision.where,
            rule_id=decision.rule_id,
            remedy=decision.remedy,
        )
