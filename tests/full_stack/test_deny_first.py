"""Issue bullet 12: whatever breaks at whatever step, on the lane and on HTTP/2, no byte goes upstream.

The real lane, runtime, exchange and mitmproxy layers run in this process over real sockets; the services behind them
are plain doubles, and one handler of the runtime at a time is broken in each way that Python can break.
"""

import asyncio
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from proxy import effects
from proxy.config.compile import compile_snapshot, load_content
from proxy.dataplane import lane, runtime
from proxy.dataplane.counters import Counters
from proxy.dataplane.master import build_master, check_options
from proxy.errors import Denied
from proxy.keys.authority import CertificateAuthority, new_authority
from proxy.keys.leaf import LeafStore
from proxy.model import AuditRecord, Inspection, Reservation
from proxy.net.dial import OwnAddresses
from proxy.net.resolver import Resolver
from proxy.pricing import PriceBook
from tests.addons.h2_upstream import H2Upstream
from tests.lab.ca import LabCA
from tests.lab.policy import PolicyDirectory
from tests.lab.product import eventually
from tests.lab.upstream import Upstream, reply_json

CALL = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
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


class Audit:
    """Keeps what is emitted. `ready` may be switched off, `begin` and `emit` may be broken."""

    def __init__(self) -> None:
        self.ready = True
        self.records: list[AuditRecord] = []
        self.fault: Callable[[], BaseException] | None = None

    def begin(self, *_: object) -> None:
        if self.fault is not None:
            raise self.fault()

    def emit(self, record: AuditRecord) -> None:
        self.records.append(record)


class Ledger:
    """Grants everything, and counts what is still open."""

    def __init__(self) -> None:
        self.open = 0

    def reserve(self, app: Any, usd_nanos: int, exchange_id: str, now_s: float) -> Reservation:
        self.open += 1
        fields = Reservation.__dataclass_fields__
        known = {"app": app.app, "usd_nanos": usd_nanos, "exchange_id": exchange_id, "id": exchange_id}
        return Reservation(**{name: known.get(name, "") for name in fields})

    def settle(self, *_: object, **__: object) -> None:
        self.open -= 1

    def record_usage(self, *_: object, **__: object) -> None:
        pass


class Bench:
    """The data plane on a thread of its own."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        ca = LabCA(directory)
        self.api = stack.enter_context(Upstream(ca, "api.lab.test"))
        self.h2 = stack.enter_context(H2Upstream(ca, "h2.lab.test"))
        policy = PolicyDirectory(directory / "allowlists", ca)
        policy.platform["models"] = {"gpt-4o-mini": {"provider": "openai", "tier": "trusted"}}
        policy.app(
            "alpha",
            policy.entry("api", self.api, protocols=["http1", "websocket"]),
            policy.entry("h2", self.h2, protocols=["h2"]),  # type: ignore[arg-type]
            identify={"networks": ["127.0.0.0/8"]},
            cache={"ttl": "10m"},
            budget={"daily_usd": 5, "unpriced": "allow"},
        )
        snapshot = compile_snapshot(load_content(policy.write()).canonical, seq=1)
        now_s = time.time()
        ours = new_authority(now_s, now_s)
        self.trust = ours.pem().decode()
        self.audit, self.ledger = Audit(), Ledger()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.services: Any = SimpleNamespace(
            worker_id="w0", hooks=None, root=None, listen={}, counters=Counters(), audit=self.audit,
            watcher=SimpleNamespace(current=snapshot, kills={}, revoked=frozenset()),
            inspector=SimpleNamespace(inspect=self._inspect, cached=lambda job: None),
            cache=SimpleNamespace(get=lambda *_: None, put=lambda *_: None),
            ledger=self.ledger,
            limiter=SimpleNamespace(
                admit_request=lambda *_: None, open_connection=lambda *_: None, close_connection=lambda *_: None
            ),
            leaf_store=LeafStore(CertificateAuthority(directory, (ours,))),
            resolver=Resolver(static=snapshot.platform.resolve), own=OwnAddresses(),
            price_book=lambda snapshot: PriceBook.of(snapshot.platform),
            placeholder_key=lambda app: bytes(32), cache_mac_key=lambda app: bytes(32),
            credential_digest=lambda value: "",
        )  # fmt: skip
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)
        stack.callback(self._stop)

    async def _inspect(self, _job: object) -> Inspection:
        return Inspection("allow")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._server.drain(0.0))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _start(self) -> None:
        self.master = build_master(confdir=Path("/nonexistent"))
        self._server = await lane.serve(self.services, {"explicit": [self.listener]})

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self.services.resolver.close()

    def call(self, path: str) -> httpx.Response | None:
        """One inference call; None when the connection was cut instead of answered."""
        upstream = self.api if path == "lane" else self.h2
        url = f"https://{upstream.names[0]}:{upstream.port}/v1/chat/completions"
        proxy = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        trust = ssl.create_default_context(cadata=self.trust)
        try:
            with httpx.Client(proxy=proxy, verify=trust, http2=path == "h2", trust_env=False, timeout=15) as client:
                return client.post(url, json=CALL)
        except httpx.TimeoutException:
            raise
        except httpx.HTTPError:
            return None

    def sent(self) -> bytes:
        """What an upstream was sent in requests (HTTP/2: streams that arrived)."""
        return self.api.raw + b"".join(b"stream" for _ in self.h2.arrived)


@pytest.fixture(scope="module")
def bench_module() -> Iterator[Bench]:
    directory = Path(tempfile.mkdtemp(prefix="egd-", dir="/tmp"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        yield Bench(stack, directory)


@pytest.fixture
def bench(bench_module: Bench) -> Bench:
    bench_module.api.forget()
    bench_module.api.answer = reply_json({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    bench_module.h2.forget()
    bench_module.audit.records.clear()
    return bench_module


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
