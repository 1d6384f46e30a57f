"""Puts one worker's parts together from the supervisor's start message, and takes them apart in the right order."""

import asyncio
import contextlib
import hmac
import importlib
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.config.snapshot import AppPolicy, Snapshot
from proxy.dataplane.counters import Counters
from proxy.dataplane.services import Services
from proxy.keys.root import CACHE, CREDENTIAL_PIN, MANIFEST, PLACEHOLDER, RootKey
from proxy.paths import Paths

if TYPE_CHECKING:
    from proxy.dataplane.cache_client import ResponseCache
    from proxy.dataplane.flows import FlowHooks
    from proxy.dataplane.watcher import ConfigWatcher
    from proxy.inspector.client import InspectorClient
    from proxy.pricing import PriceBook
    from proxy.stores.open import Store


class PriceBooks:
    """One price book per snapshot, the newest two kept: exchanges that began before a reload still ask for theirs."""

    def __init__(self) -> None:
        self._known: tuple[tuple[Snapshot, PriceBook], ...] = ()

    def __call__(self, snapshot: Snapshot) -> "PriceBook":
        """The book of `snapshot`."""
        for known, book in self._known:
            if known is snapshot:
                return book
        return self.prepare(snapshot)

    def prepare(self, snapshot: Snapshot) -> "PriceBook":
        """Makes the book and looks the catalogue's models up; takes 0.2 s the first time, so not on the event loop."""
        from proxy.pricing import PriceBook

        book = PriceBook.of(snapshot.platform)
        book.warm((facts.provider, model) for model, facts in snapshot.platform.models.items())
        book.warm([("openai", "")])  # also without a catalogue the price list itself is loaded now
        if any(app.budget is not None and app.budget.unpriced == "allow" for app in snapshot.apps.values()):
            for provider in ("openai", "anthropic"):
                book.dearest(provider, 0, 0)
        self._known = ((snapshot, book), *self._known[:1])
        return book


@dataclass(slots=True)
class Assembly:
    """A worker's services with what runs behind them. `swapped` is set by each new policy."""

    services: Services
    store: "Store"
    master: Any
    connections: Any = None
    tasks: list["asyncio.Task[Any]"] = field(default_factory=list)
    swapped: asyncio.Event = field(default_factory=asyncio.Event)
    _refused: tuple[int, str] | None = None

    async def usable(self, inspector_s: float, lease_s: float) -> None:
        """Returns with a policy; waits for an inspector and first leases too, but not for ever: without an inspector
        the worker denies, and without a lease the first request of an app asks the store."""
        await self.services.watcher.first()
        await asyncio.gather(self._inspector(inspector_s), self.services.ledger.prepare(lease_s))

    async def _inspector(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.services.inspector.wait_ready(), wait_s)

    def status(self) -> dict[str, Any]:
        """What the supervisor and `egress status` need to know; sets the gauges on the way."""
        services = self.services
        policy = services.watcher.facts()
        head = services.audit.head
        open_now = 0
        if self.connections is not None:
            open_now = self.connections.open_connections
            services.counters.set("tunnels_open", (), self.connections.tunnels)
            services.counters.set("bodies_held_bytes", (), self.connections.bodies.held_bytes)
        services.counters.set("connections_open", (), open_now)
        services.counters.set("stops_restored", (), services.watcher.stops_restored)
        for sink, lost in services.audit.mirror_errors.items():
            services.counters.set("audit_mirror_lost", (sink,), lost)
        services.counters.set("audit_spool_full", ("kept",), services.audit.late_total)
        services.counters.set("audit_spool_full", ("refused",), services.audit.refused_total)
        self._count_refusal(policy["refused"])
        return {
            "policy": policy["effective"],
            "revision": policy["revision"],
            "seq": policy["seq"],
            "refused": policy["refused"],
            "store_fault": policy["store_fault"],
            "kills": policy["kills"],
            "inspector": services.inspector.ready,
            "audit": services.audit.ready,
            "audit_seq": head.seq,
            "audit_mac": head.mac,
            "connections": open_now,
        }

    def _count_refusal(self, refused: Mapping[str, Any] | None) -> None:
        met = (refused["seq"], refused["why"]) if refused else None
        if met is not None and met != self._refused:
            self.services.counters.add("config_reloads_total", ("refused",))
        self._refused = met

    async def told(self, message: Mapping[str, Any]) -> None:
        """An order of the supervisor."""
        watcher = self.services.watcher
        if message["do"] == "revoke":
            watcher.revoked = watcher.revoked | {str(message["token_id"])}
        watcher.read_stops()
        watcher.poke()

    async def aclose(self) -> None:
        """After the last exchange: leases back, puts out, records down, connections closed."""
        services = self.services
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        # Each gets its turn even when the one before it fails: the journal and the audit file survive either way.
        closing = (services.ledger.aclose(), services.cache.aclose(), services.inspector.aclose())
        await asyncio.gather(*closing, return_exceptions=True)
        services.limiter.close()
        await asyncio.to_thread(services.audit.close)
        await self.store.aclose()


async def assemble(start: Mapping[str, Any]) -> Assembly:
    """Builds everything. Raises what its parts raise: the worker ends, and its log says why."""
    from proxy.dataplane.ledger import Ledger
    from proxy.dataplane.limiter import Limiter
    from proxy.dataplane.master import build_master
    from proxy.keys.ca import CertificateAuthority
    from proxy.keys.leaf import LeafStore
    from proxy.net.dial import OwnAddresses
    from proxy.net.resolver import Resolver
    from proxy.stores.open import open_store
    from proxy.supervisor.sockets import parse_address
    from proxy.supervisor.trail import open_writer

    paths = Paths(Path(start["state"]))
    root = RootKey.load(paths.root_key)
    store = open_store(start["store"], paths)
    resolver = Resolver()

    price_book = PriceBooks()
    counters = Counters()
    changed = asyncio.Event()

    def swapped(snapshot: Snapshot) -> None:
        resolver.static = snapshot.platform.resolve
        counters.add("config_reloads_total", ("accepted",))
        changed.set()

    watcher = _watcher(store, paths, root, price_book, swapped)

    def cache_mac_key(app: str) -> bytes:
        return root.derive(CACHE, app=app)

    services = Services(
        worker_id=start["id"],
        watcher=watcher,
        inspector=_inspector_client(paths, root, start["inspectors"]),
        cache=_cache(store, cache_mac_key, counters),
        ledger=Ledger(store.budget, paths, start["id"], apps=_apps(watcher)),
        limiter=Limiter(paths),
        audit=open_writer(paths, root, start["id"], mirrors=start.get("audit_mirrors", ())),
        counters=counters,
        root=root,
        leaf_store=LeafStore(CertificateAuthority.load(paths.ca_dir, root)),
        resolver=resolver,
        own=OwnAddresses(parse_address(address) for address in start["listen"].values()),
        price_book=price_book,
        placeholder_key=lru_cache(maxsize=4096)(lambda app: root.derive(PLACEHOLDER, app=app)),
        cache_mac_key=cache_mac_key,
        credential_digest=credential_digest(root),
        listen=start["listen"],
    )
    master = build_master()
    services.hooks = foreign_hooks(master, start.get("addons", ()))
    parts = Assembly(services, store, master, swapped=changed)
    runs: list[Coroutine[Any, Any, Any]] = [watcher.run(), services.ledger.run(), services.cache.run()]
    parts.tasks = [asyncio.create_task(run) for run in runs]
    await services.inspector.start()
    return parts


def _cache(store: "Store", mac_key: Callable[[str], bytes], counters: Counters) -> "ResponseCache":
    from proxy.dataplane.cache_client import ResponseCache

    return ResponseCache(store.cache, mac_key, on_forged=lambda app: counters.add("cache_forged_total", (app,)))


def _apps(watcher: "ConfigWatcher") -> Callable[[], Mapping[str, AppPolicy]]:
    return lambda: watcher.current.apps if watcher.current is not None else {}


def _inspector_client(paths: Paths, root: RootKey, inspectors: int) -> "InspectorClient":
    from proxy.inspector.client import InspectorClient

    sockets = [str(paths.inspector_socket(index)) for index in range(inspectors)]
    return InspectorClient(sockets, index_keys=root.exact_match_keys())


def _watcher(
    store: "Store", paths: Paths, root: RootKey, price_book: PriceBooks, on_swap: Callable[[Snapshot], None]
) -> "ConfigWatcher":
    """Prices are made with the snapshot, before it is in force."""
    from proxy.dataplane.watcher import ConfigWatcher, compile_default

    def compiled(content: bytes, seq: int, previous: Snapshot | None) -> Snapshot:
        snapshot = compile_default(content, seq, previous)
        price_book.prepare(snapshot)
        return snapshot

    return ConfigWatcher(
        store.config,
        paths,
        manifest_seed=root.derive(MANIFEST),
        older_seeds=root.older_manifest_seeds(),
        compile_content=compiled,
        on_swap=on_swap,
    )


def foreign_hooks(master: Any, names: Iterable[str]) -> "FlowHooks | None":
    """Loads `module:name` addons into the master. Raises what their import raises: no start without them."""
    from proxy.dataplane.flows import FlowHooks

    own = list(master.addons.chain)
    for name in names:
        module, _, attribute = name.partition(":")
        found = getattr(importlib.import_module(module), attribute or "addons")
        made = found() if isinstance(found, type) else found
        master.addons.add(*(made if isinstance(made, list | tuple) else (made,)))
    return FlowHooks(master, own) if len(master.addons.chain) > len(own) else None


def credential_digest(root: "RootKey") -> Callable[[bytes], str]:
    """Header field value -> the form of `pins:` in policy files."""
    key = root.derive(CREDENTIAL_PIN)
    return lambda value: f"hmac-sha256:{hmac.digest(key, value, 'sha256').hex()}"
