"""Issue bullet 12: whatever breaks at whatever step, on the lane and on HTTP/2, no byte goes upstream.

The real lane, runtime, exchange and mitmproxy layers run in this process over real sockets; the services behind them
are plain doubles, and one handler of the runtime at a time is broken in each way that Python can break.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from proxy import effects
from proxy.dataplane import runtime
from proxy.dataplane.master import check_options
from proxy.errors import Denied
from tests.full_stack.plane import Bench
from tests.lab.product import eventually

FAULTS: dict[str, Callable[[], BaseException]] = {
    "RuntimeError": lambda: RuntimeError("words of an error"),
    "OSError": OSError,
    "TimeoutError": TimeoutError,
    "KeyError": lambda: KeyError("words of an error"),
    "UnicodeError": UnicodeError,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": asyncio.CancelledError,
    "Denied": lambda: Denied("overloaded"),
    "Aborted": lambda: effects.Aborted("upstream", "gone", sent=False),
}
STEPS = {name: getattr(effects, name) for name in ("ReadBody", "Inspect", "CacheGet", "Reserve")}


@pytest.mark.parametrize("path", ["lane", "h2"])
def test_unbroken_it_goes_through(bench: Bench, path: str) -> None:
    """Or every test below would pass for nothing."""
    answer = bench.call(path)
    assert answer is not None
    assert answer.status_code == 200, answer.text
    assert answer.http_version == ("HTTP/2" if path == "h2" else "HTTP/1.1")
    assert bench.sent()
    eventually(lambda: bench.ledger.open == 0, "the settlement")


@pytest.mark.parametrize("path", ["lane", "h2"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("late", [False, True], ids=["at once", "awaited"])
def test_a_broken_step_sends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, path: str, step: str, fault: str, late: bool
) -> None:
    def at_once(*_: object) -> None:
        raise FAULTS[fault]()

    async def awaited(*_: object) -> None:
        await asyncio.sleep(0)
        raise FAULTS[fault]()

    monkeypatch.setitem(runtime.HANDLERS, STEPS[step], awaited if late else at_once)
    answer = bench.call(path)
    assert bench.sent() == b""
    assert answer is None or answer.status_code >= 400
    if answer is not None:
        assert "words of an error" not in answer.text
        assert answer.json()["remedy"]
    eventually(lambda: [row for row in bench.audit.records if row.kind == "terminal"], "the record")
    rows = [row for row in bench.audit.records if row.kind == "terminal"]
    assert len(rows) == 1
    assert rows[0].fields["outcome"] in ("denied", "aborted")
    assert "words of an error" not in str(rows[0])
    assert bench.ledger.open == 0


@pytest.mark.parametrize("path", ["lane", "h2"])
@pytest.mark.parametrize("fault", ["RuntimeError", "OSError", "Denied", "MemoryError"])
@pytest.mark.parametrize("service", ["audit", "inspector", "cache", "ledger", "limiter", "price_book", "watcher"])
def test_a_broken_service_sends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, path: str, service: str, fault: str
) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise FAULTS[fault]()

    match service:
        case "audit":
            monkeypatch.setattr(bench.audit, "fault", FAULTS[fault])
        case "inspector":
            monkeypatch.setattr(bench.services.inspector, "inspect", broken)
        case "cache":
            monkeypatch.setattr(bench.services.cache, "get", broken)
        case "ledger":
            monkeypatch.setattr(bench.ledger, "reserve", broken)
        case "limiter":
            monkeypatch.setattr(bench.services.limiter, "admit_request", broken)
        case "price_book":
            monkeypatch.setattr(bench.services, "price_book", broken)
        case "watcher":
            monkeypatch.setattr(bench.services.watcher, "current", None)
    answer = bench.call(path)
    assert bench.sent() == b""
    assert answer is None or answer.status_code >= 400


def test_the_minimum_options_are_set_and_checked(bench: Bench) -> None:
    """security.md 4.5: an option that somebody changes stops the start."""
    check_options(bench.master.options)
    before = bench.master.options.connection_strategy
    bench.master.options.update(connection_strategy="eager")
    try:
        with pytest.raises(Exception, match="connection_strategy"):
            check_options(bench.master.options)
    finally:
        bench.master.options.update(connection_strategy=before)
