"""What only the memory store has: a clock that can be moved. Everything else is in test_conformance."""

import asyncio

from proxy.stores.memory import MemoryCacheStore, MemoryConfigStore


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_time_to_live() -> None:
    async def scenario() -> None:
        clock = Clock()
        config, cache = MemoryConfigStore(clock), MemoryCacheStore(clock)
        await config.put_token("t", {}, ttl_s=10)
        await config.revoke_token("t", ttl_s=10)
        await cache.put_many([("a", b"k", b"v", 10)])
        clock.now_s += 9.9
        assert await config.tokens() == {"t": {}}
        assert await config.revoked_tokens() == {"t"}
        assert await cache.get("a", b"k") == b"v"
        clock.now_s += 0.1
        assert await config.tokens() == {}
        assert await config.revoked_tokens() == frozenset()
        assert await cache.get("a", b"k") is None
        assert await cache.keys("a") == frozenset()

    asyncio.run(scenario())
