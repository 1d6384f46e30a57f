"""The real lane, runtime, exchange and mitmproxy layers in this process, over real sockets; the services behind them
are plain doubles, so that a test can break each of them and read what was asked of it."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

from proxy.config.compile import compile_snapshot, load_content
from proxy.dataplane import lane
from proxy.dataplane.counters import Counters
from proxy.dataplane.master import build_master
from proxy.keys.authority import CertificateAuthority, new_authority
from proxy.keys.leaf import LeafStore
from proxy.model import AuditRecord, Inspection, Reservation, Usage
from proxy.net.dial import OwnAddresses
from proxy.net.resolver import Resolver
from proxy.pricing import PriceBook
from tests.addons.h2_upstream import H2Upstream
from tests.lab.ca import LabCA
from tests.lab.policy import PolicyDirectory
from tests.lab.upstream import Upstream, reply_json

CALL = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


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
    """Grants everything. `open`: what is not settled; `settled`: (nano-dollars, estimated) of each; `usage` of each
    call."""

    def __init__(self) -> None:
        self.open = 0
        self.settled: list[tuple[int, bool]] = []
        self.usage: list[Usage] = []

    def reserve(self, app: Any, usd_nanos: int, exchange_id: str, now_s: float) -> Reservation:
        self.open += 1
        fields = Reservation.__dataclass_fields__
        known = {"app": app.app, "usd_nanos": usd_nanos, "exchange_id": exchange_id, "id": exchange_id}
        return Reservation(**{name: known.get(name, "") for name in fields})

    def settle(self, _: Reservation, usd_nanos: int, *, estimated: bool, metered: bool = True) -> None:
        self.settled.append((usd_nanos, estimated))
        self.open -= 1

    def record_usage(self, _app: Any, _id: str, usage: Usage, *_: object, **__: object) -> None:
        self.usage.append(usage)


class Bench:
    """The data plane on a thread of its own."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        ca = LabCA(directory)
        self.api = stack.enter_context(Upstream(ca, "api.lab.test"))
        self.plain = stack.enter_context(Upstream(None, "plain.lab.test"))
        self.h2 = stack.enter_context(H2Upstream(ca, "h2.lab.test"))
        policy = PolicyDirectory(directory / "allowlists", ca)
        policy.platform["models"] = {"gpt-4o-mini": {"provider": "openai", "tier": "trusted"}}
        policy.app(
            "alpha",
            policy.entry("api", self.api, protocols=["http1", "websocket"]),
            policy.entry("plain", self.plain),
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

    def fresh(self) -> None:
        """Upstreams answer a call, and nothing has been seen yet."""
        for upstream in (self.api, self.plain):
            upstream.forget()
            upstream.answer = reply_json({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
        self.h2.forget()
        self.audit.records.clear()
        self.ledger.settled.clear()
        self.ledger.usage.clear()

    @property
    def terminal(self) -> list[dict[str, Any]]:
        """What the terminal records say."""
        return [dict(row.fields) for row in self.audit.records if row.kind == "terminal"]

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
