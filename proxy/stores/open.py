"""From a URL (or none) to a store."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from proxy.paths import Paths
from proxy.stores.ports import BudgetStore, CacheStore, ConfigStore

MEMORY_URL: Final = "memory://"


async def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Store:
    """The three ports of one store, and how to let go of it."""

    config: ConfigStore
    budget: BudgetStore
    cache: CacheStore
    url: str
    aclose: Callable[[], Coroutine[Any, Any, None]] = field(default=_nothing)


def embedded_url(paths: Paths) -> str:
    """Where the store that the supervisor starts by itself listens."""
    return f"unix://{quote(str(paths.store_socket))}"


def open_store(url: str | None, paths: Paths) -> Store:
    """The store at `url`, else the embedded one of this state directory. Opens no connection yet.

    Raises ValueError for a URL that no store understands.
    """
    if url == MEMORY_URL:
        from proxy.stores.memory import MemoryBudgetStore, MemoryCacheStore, MemoryConfigStore

        return Store(MemoryConfigStore(), MemoryBudgetStore(), MemoryCacheStore(), MEMORY_URL)
    from proxy.stores.redis import RedisStore

    chosen = url or embedded_url(paths)
    store = RedisStore(chosen)
    return Store(store.config, store.budget, store.cache, chosen, store.aclose)
