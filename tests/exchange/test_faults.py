"""Every effect of every line x every fault: no uninspected byte leaves, nothing stays reserved, one record."""

from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import effects
from proxy.config.snapshot import Snapshot
from proxy.effects import Aborted
from proxy.errors import REASONS, Denied
from proxy.exchange import exchange
from proxy.model import Inspection, RequestHead, ResponseHead
from tests.exchange import kit
from tests.exchange.kit import Script, context, head

WEBSOCKET = head(
    "GET", "/ws", "files.example.com", ((b"Sec-WebSocket-Key", b"k"), (b"Sec-WebSocket-Version", b"13")), "websocket"
)
LINES: dict[str, tuple[RequestHead, dict[type, object]]] = {
    "inference": (head(), {}),
    "hit": (head(), {effects.CacheGet: kit.cached()}),
    "plain": (head("PUT", "/x", "files.example.com"), {}),
    "tokenized": (
        head(),
        {effects.Inspect: Inspection("transform", body=kit.CHAT_BODY, restore={"<P_aaaaaaaa>": "x"})},
    ),
    "websocket": (WEBSOCKET, {effects.Forward: ResponseHead(101, "", ())}),
}
FAULTS: dict[str, Callable[[], BaseException]] = {
    "RuntimeError": lambda: RuntimeError("4111 1111 1111 1111"),
    "ValueError": ValueError,
    "TypeError": TypeError,
    "KeyError": KeyError,
    "UnicodeError": UnicodeError,
    "RecursionError": RecursionError,
    "MemoryError": MemoryError,
    "TimeoutError": TimeoutError,
    "OSError": OSError,
    "client": lambda: Aborted("client", "gone", sent=False),
    "client late": lambda: Aborted("client", "gone", sent=True),
    "upstream": lambda: Aborted("upstream", "gone", sent=True),
    **{f"denied {code}": (lambda code=code: Denied(code)) for code in REASONS},  # type: ignore[misc]
}


def steps(name: str) -> int:
    request, answers = LINES[name]
    return len(Script(dict(answers)).run(exchange(context(_policy()), request)).seen)


_SNAPSHOTS: list[Snapshot] = []


def _policy() -> Snapshot:
    if not _SNAPSHOTS:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            _SNAPSHOTS.append(kit.snapshot(Path(folder)))
    return _SNAPSHOTS[0]


CASES = [(name, step) for name in LINES for step in range(steps(name))]


@pytest.mark.parametrize(("name", "step"), CASES)
@pytest.mark.parametrize("fault", FAULTS)
def test_fault(name: str, step: int, fault: str) -> None:
    request, answers = LINES[name]
    facts = context(_policy())
    script = Script(dict(answers), fail_at=step, error=FAULTS[fault])
    try:
        script.run(exchange(facts, request))
    except (Exception, Aborted) as error:
        # Only the closing of the books itself may break the line; the runtime then closes them.
        assert isinstance(script.seen[step], effects.Emit | effects.Settle | effects.Reply), error
        return
    failed = script.seen[step]
    forwards = [at for at, effect in enumerate(script.seen) if isinstance(effect, effects.Forward)]
    inspected = [at for at, effect in enumerate(script.seen) if isinstance(effect, effects.Inspect) and at != step]
    # 1. Nothing leaves before an inspection that ended, and nothing leaves after a failure before it.
    assert all(any(look < at for look in inspected) for at in forwards)
    assert len(forwards) <= 1
    if not isinstance(failed, effects.Forward) and forwards:
        assert step > forwards[0] or isinstance(failed, effects.Forward)
    # 2. What was reserved is settled exactly once.
    reserved = [effect for at, effect in enumerate(script.seen) if isinstance(effect, effects.Reserve) and at != step]
    assert len(script.of(effects.Settle)) == len(reserved)
    assert facts.reservation is None
    # 3. Exactly one terminal record; the fault's own words are nowhere.
    if not isinstance(failed, effects.Emit):
        assert script.record["outcome"] in {"denied", "aborted", "allowed"}
    assert "4111" not in str([emit.record for emit in script.of(effects.Emit)])
    assert all(b"4111" not in reply.response.body for reply in script.of(effects.Reply))
    # 4. A failure before anything left is told to the client, unless the client is gone.
    if not forwards and "client" not in fault and not isinstance(failed, effects.Reply | effects.Emit):
        told = [effect for at, effect in enumerate(script.seen) if isinstance(effect, effects.Reply) and at > step]
        assert told or fault == "upstream"
