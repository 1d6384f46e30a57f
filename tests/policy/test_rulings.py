"""Rulings of this second: same facts, same answer; other facts, another second, policy or kill: asked anew."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy import policy
from proxy.context import Context, ruled
from proxy.errors import Denied
from proxy.model import Authority, RequestHead
from proxy.rulings import MAX_RULINGS, RulingMemo
from tests.exchange import kit


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[policy.Facts]:
    """The facts of every ruling that was really made."""
    made: list[policy.Facts] = []
    real = policy.rule_on

    def rule_on(snapshot: Any, facts: policy.Facts, **options: Any) -> policy.Ruling:
        made.append(facts)
        return real(snapshot, facts, **options)

    monkeypatch.setattr(policy, "rule_on", rule_on)
    return made


def _context(tmp_path: Path) -> Context:
    return kit.context(kit.snapshot(tmp_path))


def test_the_same_request_is_judged_once_whatever_its_length(tmp_path: Path, asked: list[policy.Facts]) -> None:
    context = _context(tmp_path)
    first = ruled(context, "head", kit.head(extra=((b"Content-Length", b"10"),)))
    again = ruled(context, "head", kit.head(extra=((b"content-length", b"2000"),)))
    assert again is first
    assert len(asked) == 1
    assert context.last_facts is asked[0]


@pytest.mark.parametrize(
    "other",
    [
        kit.head(method="PUT"),
        kit.head(target="/v1/embeddings"),
        kit.head(extra=((b"Cookie", b"a=b"),)),
        replace(kit.head(), headers=kit.head().headers[:2]),
        replace(kit.head(), protocol="websocket"),
        replace(kit.head(), authority=Authority("https", "api.openai.com", 444)),
    ],
)
def test_another_request_is_judged_anew(tmp_path: Path, asked: list[policy.Facts], other: RequestHead) -> None:
    context = _context(tmp_path)
    ruled(context, "head", kit.head())
    try:
        ruled(context, "head", other)
    except Denied:
        pass
    assert len(asked) == 2


def test_another_second_policy_caller_or_model_is_judged_anew(tmp_path: Path, asked: list[policy.Facts]) -> None:
    context = _context(tmp_path)
    head = kit.head()
    ruled(context, "head", head)
    context.started_s += 1
    ruled(context, "head", head)
    context.snapshot = replace(context.snapshot, seq=8)
    ruled(context, "head", head)
    context.principal = replace(context.principal, client_ip="10.0.0.10")
    ruled(context, "head", head)
    context.sni = "api.openai.com"
    after = ruled(context, "head", head)
    ruled(context, "body", head, model="gpt-4o-mini", after=after)
    with pytest.raises(Denied):
        ruled(context, "body", head, model="gpt-4o", after=after)
    assert len(asked) == 7


def test_a_kill_holds_at_once_and_a_denial_is_not_remembered(tmp_path: Path, asked: list[policy.Facts]) -> None:
    context = _context(tmp_path)
    ruled(context, "head", kit.head())
    context.kills = {"shop": {"reason": "incident"}}
    for _ in range(2):
        with pytest.raises(Denied, match="stopped"):
            ruled(context, "head", kit.head())
    context.kills = {}
    ruled(context, "head", kit.head())
    assert len(asked) == 4


def test_an_entry_that_expires_ends_with_its_second(tmp_path: Path) -> None:
    text = kit.APP.replace(
        "    reason: test\n  - id: files", "    reason: test\n    expires: 2026-11-19T10:00:00Z\n  - id: files"
    )
    context = kit.context(kit.snapshot(tmp_path, text))
    expires_s = context.app.entries[0].expires_at_s
    assert expires_s is not None
    context.started_s = expires_s - 0.001
    ruled(context, "head", kit.head())
    context.started_s = expires_s
    with pytest.raises(Denied):
        ruled(context, "head", kit.head())


def test_the_memo_does_not_grow_without_bound(tmp_path: Path, asked: list[policy.Facts]) -> None:
    context = _context(tmp_path)
    context.rulings = memo = RulingMemo()
    for number in range(MAX_RULINGS + 10):
        ruled(context, "head", kit.head(extra=((b"X-N", b"%d" % number),)))
    assert len(memo) == MAX_RULINGS
    ruled(context, "head", kit.head(extra=((b"X-N", b"0"),)))
    assert len(asked) == MAX_RULINGS + 10
