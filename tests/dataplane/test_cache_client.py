"""Answers come back unchanged, to their own app only, and never from a store that lies or is away."""

import asyncio
from collections.abc import Awaitable, Sequence

import pytest

from proxy.dataplane import cache_client
from proxy.dataplane.cache_client import ResponseCache
from proxy.model import CachedAnswer
from proxy.stores.memory import MemoryCacheStore
from proxy.stores.open import Store
from proxy.stores.ports import StoreUnavailable
from tests.stores.kit import over, store_url, until, valkey

__all__ = ["store_url", "valkey"]

K1, K2 = b"1" * 32, b"2" * 32


def answer(body: bytes = b"body") -> CachedAnswer:
    return CachedAnswer(200, ((b"Content-Type", b"application/json"),), body, 1000.5, "m", 3, 4, 5)


def mac_key(app: str) -> bytes:
    return app.encode().ljust(32, b"\0")


async def got(cache: ResponseCache, app: str, key: bytes) -> CachedAnswer | None:
    found = cache.get(app, key)
    return await found if isinstance(found, Awaitable) else found


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Counting(MemoryCacheStore):
    down = False
    gets = 0

    async def get(self, app: str, key: bytes) -> bytes | None:
        self.gets += 1
        self._check()
        return await super().get(app, key)

    async def put_many(self, items: Sequence[tuple[str, bytes, bytes, int]]) -> None:
        self._check()
        await super().put_many(items)

    async def keys(self, app: str) -> frozenset[bytes]:
        self._check()
        return await super().keys(app)

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("down")


def test_an_answer_travels_from_worker_to_worker(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        one, two = ResponseCache(store.cache, mac_key), ResponseCache(store.cache, mac_key)
        one.put("a", K1, answer(), 60)
        assert one.get("a", K1) == answer()
        assert two.get("a", K1) is None
        await one.flush()
        await two.refresh("a")
        assert await got(two, "a", K1) == answer()
        assert two.get("a", K1) == answer()
        assert two.get("b", K1) is None
        await two.refresh("b")
        assert await got(two, "b", K1) is None
        assert (two.stats.shared_hits, two.stats.local_hits, two.stats.forged) == (1, 1, 0)

    over(store_url, scenario)


def test_a_miss_asks_the_store_only_when_it_has_the_key() -> None:
    async def scenario() -> None:
        store = Counting()
        cache = ResponseCache(store, mac_key)
        await cache.refresh("a")
        for _ in range(10):
            assert cache.get("a", K1) is None
        assert store.gets == 0

    asyncio.run(scenario())


def test_run_flushes_and_replicates_by_itself() -> None:
    async def scenario() -> None:
        store = Counting()
        one, two = ResponseCache(store, mac_key), ResponseCache(store, mac_key)
        tasks = [asyncio.create_task(cache.run()) for cache in (one, two)]
        assert two.get("a", K1) is None
        one.put("a", K1, answer(), 60)
        await until(lambda: not one._queue.items and bool(store._apps["a"]))
        await until(lambda: K1 in two._replicas["a"].keys)
        assert await got(two, "a", K1) == answer()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())


@pytest.mark.parametrize("attack", ["flip", "swap_key", "swap_app", "longer", "short", "empty"])
def test_values_that_were_tampered_with_are_misses(attack: str) -> None:
    async def scenario() -> None:
        store, clock = MemoryCacheStore(), Clock()
        one = ResponseCache(store, mac_key, clock=clock)
        one.put("a", K1, answer(b"one"), 60)
        one.put("a", K2, answer(b"two"), 60)
        one.put("b", K1, answer(b"other app"), 60)
        await one.flush()
        raw = await store.get("a", K1)
        assert raw is not None
        changed = {
            "flip": raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:],
            "swap_key": await store.get("a", K2),
            "swap_app": await store.get("b", K1),
            "longer": (2**50).to_bytes(8) + raw[8:],
            "short": raw[:5],
            "empty": b"",
        }[attack]
        assert changed is not None
        await store.put_many([("a", K1, changed, 60)])
        told: list[str] = []
        two = ResponseCache(store, mac_key, clock=clock, on_forged=told.append)
        await two.refresh("a")
        assert await got(two, "a", K1) is None
        assert two.stats.forged == 1
        assert told == ["a"]
        assert await got(two, "a", K2) == answer(b"two")
        assert two.get("a", K1) is None

    asyncio.run(scenario())


def test_expiry_holds_everywhere() -> None:
    async def scenario() -> None:
        store, clock = MemoryCacheStore(), Clock()
        one, two = (ResponseCache(store, mac_key, clock=clock) for _ in range(2))
        one.put("a", K1, answer(), 10)
        one.put("a", K2, answer(), 0)
        await one.flush()
        await two.refresh("a")
        clock.now_s += 9.9
        assert one.get("a", K1) == answer()
        assert await got(two, "a", K1) == answer()
        clock.now_s += 0.2
        assert one.get("a", K1) is None
        assert await got(two, "a", K1) is None
        assert await got(one, "a", K2) is None

    asyncio.run(scenario())


def test_a_store_that_is_away_is_a_miss() -> None:
    async def scenario() -> None:
        store = Counting()
        cache = ResponseCache(store, mac_key)
        cache.put("a", K1, answer(), 60)
        await cache.flush()
        await cache.refresh("a")
        other = ResponseCache(store, mac_key)
        await other.refresh("a")
        store.down = True
        assert await got(other, "a", K1) is None
        assert cache.get("a", K1) == answer()
        cache.put("a", K2, answer(), 60)
        await cache.aclose()
        await cache.refresh("a")
        assert (cache.stats.dropped, cache.stats.faults) == (1, 2)
        store.down = False
        assert await got(other, "a", K1) == answer()

    asyncio.run(scenario())


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_client, "QUEUE_BYTES", 100_000)
    monkeypatch.setattr(cache_client, "VALUE_BYTES", 50_000)

    async def scenario() -> None:
        cache = ResponseCache(MemoryCacheStore(), mac_key, max_bytes=30_000)
        keys = [bytes([n]) * 32 for n in range(20)]
        for key in keys:
            cache.put("a", key, answer(b"x" * 8000), 60)
        assert cache._local_bytes <= 30_000
        assert cache._local_bytes == sum(cost for _, _, cost in cache._local.values())
        assert cache.get("a", keys[-1]) is not None
        assert cache.get("a", keys[0]) is None
        assert cache._queue.size_bytes <= 100_000
        assert cache.stats.dropped > 0
        dropped = cache.stats.dropped
        cache.put("a", K1, answer(b"x" * 60_000), 60)
        assert cache.stats.dropped == dropped + 1
        assert cache.get("a", K1) is None
        for _ in range(5):
            cache.put("a", keys[-1], answer(b"y" * 8000), 60)
        assert cache._queue.size_bytes == sum(len(value) for value, _ in cache._queue.items.values())

    asyncio.run(scenario())
