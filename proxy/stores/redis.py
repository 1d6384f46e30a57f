"""The three stores over one link to Redis or Valkey."""

from proxy.stores.link import CONNECT_S, OPERATION_S, RedisLink
from proxy.stores.redis_budget import RedisBudgetStore
from proxy.stores.redis_cache import RedisCacheStore
from proxy.stores.redis_config import RedisConfigStore


class RedisStore:
    """`config`, `budget` and `cache` over the server (Sentinel, Cluster) that `url` names. Connects on first use.

    Raises ValueError when the URL is not one that `proxy.stores.link` describes.
    """

    def __init__(self, url: str, *, connect_s: float = CONNECT_S, operation_s: float = OPERATION_S) -> None:
        self._link = RedisLink(url, connect_s=connect_s, operation_s=operation_s)
        self.config = RedisConfigStore(self._link)
        self.budget = RedisBudgetStore(self._link)
        self.cache = RedisCacheStore(self._link)

    async def aclose(self) -> None:
        """Closes the connections; the next operation would open new ones."""
        await self._link.aclose()
