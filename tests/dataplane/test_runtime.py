"""The runtime's own part of the line: what has changed since the request began is asked before a byte leaves."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxy import effects
from proxy.context import rule_connection
from proxy.dataplane.runtime import HANDLERS, Runtime
from proxy.errors import Denied
from proxy.model import Request, ResponseHead
from tests.exchange import kit


class Sender:
    """A carrier's upstream side that remembers what it was asked to send."""

    upstream_ip = ""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def forward(self, effect: effects.Forward) -> ResponseHead:
        self.sent.append(effect)
        return ResponseHead(200, "OK", ())

    tunnel = forward


def effect_of(kind: type, entry: Any) -> Any:
    head = kit.head()
    if kind is effects.Tunnel:
        return effects.Tunnel(entry, "shop", head.authority, b"")
    return effects.Forward(entry, "shop", Request(head))


@pytest.mark.parametrize("kind", [effects.Forward, effects.Tunnel])
@pytest.mark.parametrize(
    ("kills", "revoked", "code"),
    [
        ({}, frozenset(), None),
        ({"other": {}}, frozenset({"t9"}), None),
        ({"shop": {}}, frozenset(), "killed"),
        ({"*": {}}, frozenset(), "killed"),
        ({}, frozenset({"t1"}), "identity_unknown"),
    ],
)
def test_a_stop_that_came_meanwhile_holds(
    tmp_path: Path, kind: type, kills: Mapping[str, Any], revoked: frozenset[str], code: str | None
) -> None:
    context = kit.context(kit.snapshot(tmp_path))
    entry = rule_connection(context, "connect", kit.head().authority).entry
    watcher = SimpleNamespace(kills=kills, revoked=revoked)
    services: Any = SimpleNamespace(watcher=watcher, hooks=None, counters=SimpleNamespace(observe=lambda *_: None))
    carrier: Any = Sender()

    async def run() -> None:
        await HANDLERS[kind](Runtime(services), carrier, context, effect_of(kind, entry))

    if code is None:
        asyncio.run(run())
        assert len(carrier.sent) == 1
    else:
        with pytest.raises(Denied) as refused:
            asyncio.run(run())
        assert refused.value.code == code
        assert carrier.sent == []


@pytest.mark.parametrize("sent", [False, True])
def test_a_call_cancelled_while_it_is_dialled_was_not_sent(tmp_path: Path, sent: bool) -> None:
    """What was never sent costs nothing; what may have been, all that was reserved."""
    context = kit.context(kit.snapshot(tmp_path))
    entry = rule_connection(context, "connect", kit.head().authority).entry
    watcher = SimpleNamespace(kills={}, revoked=frozenset())
    services: Any = SimpleNamespace(watcher=watcher, hooks=None, counters=SimpleNamespace(observe=lambda *_: None))
    told: list[bool] = []

    async def line() -> None:
        context.forwarded = True
        with pytest.raises(effects.Aborted) as aborted:
            await effect_of(effects.Forward, entry)
        told.append(aborted.value.sent)

    async def run() -> None:
        dialling = asyncio.Event()

        async def forward(_: effects.Forward) -> None:
            dialling.set()
            await asyncio.Event().wait()

        carrier: Any = SimpleNamespace(forward=forward, sent=sent, upstream_ip="")
        task = asyncio.create_task(Runtime(services)._drive(context, line(), carrier))
        await dialling.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert told == [sent]


@pytest.mark.parametrize("change", ["nothing", "kills", "snapshot", "second", "stage", "address", "sni", "trail"])
def test_a_connection_is_allowed_without_a_context_only_as_it_was_in_this_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    snapshot = kit.snapshot(tmp_path)
    watcher = SimpleNamespace(current=snapshot, kills={}, revoked=frozenset())
    services: Any = SimpleNamespace(watcher=watcher, audit=SimpleNamespace(ready=True))
    runtime = Runtime(services)
    context = kit.context(snapshot)
    context.rulings, context.kills, context.started_s = runtime._rulings, watcher.kills, 1_800_000_000.25
    entry = rule_connection(context, "connect", kit.head().authority).entry
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.75 + (change == "second"))
    principal, stage, sni = context.principal, "connect", context.sni
    match change:
        case "kills":
            watcher.kills = {}
        case "snapshot":
            watcher.current = replace(snapshot)
        case "stage":
            stage = "hello"
        case "address":
            principal = replace(principal, client_ip="203.0.113.9")
        case "sni":
            sni = "other.example.com"
        case "trail":
            services.audit.ready = False
    known = runtime.permitted(stage, principal, context.listener, kit.head().authority, sni)  # type: ignore[arg-type]  # a word of the table above
    assert known is (entry if change == "nothing" else None)
    assert entry is not None
