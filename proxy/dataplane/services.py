"""All that one worker's exchanges share. Built once by the worker; the runtime, the lane and the addons read it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.config.snapshot import Snapshot
    from proxy.dataplane.audit_writer import AuditWriter
    from proxy.dataplane.cache_client import ResponseCache
    from proxy.dataplane.counters import Counters
    from proxy.dataplane.flows import FlowHooks
    from proxy.dataplane.ledger import Ledger
    from proxy.dataplane.limiter import Limiter
    from proxy.dataplane.watcher import ConfigWatcher
    from proxy.inspector.client import InspectorClient
    from proxy.keys.ca import LeafStore
    from proxy.keys.root import RootKey
    from proxy.model import Listener
    from proxy.net.dial import OwnAddresses
    from proxy.net.resolver import Resolver
    from proxy.pricing import PriceBook


@dataclass(slots=True)
class Services:
    """`placeholder_key` and `cache_mac_key`: app -> 32 bytes. `credential_digest`: field value -> pin form.

    `price_book`: the compiled rates of a snapshot, built once per snapshot. `own`: addresses this proxy listens on.
    `hooks`: foreign mitmproxy addons, None when there are none.
    """

    worker_id: str
    watcher: "ConfigWatcher"
    inspector: "InspectorClient"
    cache: "ResponseCache"
    ledger: "Ledger"
    limiter: "Limiter"
    audit: "AuditWriter"
    counters: "Counters"
    root: "RootKey"
    leaf_store: "LeafStore"
    resolver: "Resolver"
    own: "OwnAddresses"
    price_book: "Callable[[Snapshot], PriceBook]"
    placeholder_key: Callable[[str], bytes]
    cache_mac_key: Callable[[str], bytes]
    credential_digest: Callable[[bytes], str]
    listen: "Mapping[Listener, str]" = field(default_factory=dict)
    hooks: "FlowHooks | None" = None
