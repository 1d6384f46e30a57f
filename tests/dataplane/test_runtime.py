"""The runtime's own part of the line: what has changed since the request began is asked before a byte leaves."""

import asyncio
from collections.abc import Mapping
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
