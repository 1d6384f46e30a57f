"""One suite, every store: what Redis does, memory does."""

import asyncio
from typing import Any

import pytest

from proxy.stores.link import RedisLink
from proxy.stores.open import Store
from proxy.stores.ports import Conflict, Grant
from proxy.stores.redis_cache import RedisCacheStore
from tests.stores.kit import flush, over, store_url, valkey

__all__ = ["store_url", "valkey"]

PERIOD = {"day": "2026-11-24", "month": "2026-11"}


def lease_args(want: int, least: int, day: int | None, month: int | None, holder: str = "w1") -> dict[str, Any]:
    return PERIOD | {
        "want_usd_nanos": want,
        "least_usd_nanos": least,
        "day_limit": day,
        "month_limit": month,
        "holder": holder,
    }


def settle_args(spent: int, returned: int, entry: str, holder: str = "w1") -> dict[str, Any]:
    return PERIOD | {
        "spent_usd_nanos": spent,
        "returned_usd_nanos": returned,
        "entry_id": entry,
        "holder": holder,
    }


def test_revisions_and_manifests_in_order(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        config = store.config
        assert await config.head_manifest() is None
        assert await config.get_revision("aa") is None
        assert list(await config.manifests(5)) == []
        await config.put_revision("aa", b"\x00content")
        assert await config.get_revision("aa") == b"\x00content"
        await config.append_manifest(b"one", seq=1, expect_seq=0)
        await config.append_manifest(b"seven", seq=7, expect_seq=1)
        assert await config.head_manifest() == b"seven"
        assert list(await config.manifests(5)) == [b"seven", b"one"]
        assert list(await config.manifests(1)) == [b"seven"]
        assert list(await config.manifests(0)) == []

    over(store_url, scenario)


def test_only_one_of_many_publishers_wins(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        async def publish(n: int) -> bool:
            try:
                await store.config.append_manifest(b"m%d" % n, seq=1, expect_seq=0)
            except Conflict as conflict:
                return conflict.head_seq != 1
            return True

        won = await asyncio.gather(*(publish(n) for n in range(20)))
        assert sum(won) == 1
        assert list(await store.config.manifests(50)) == [b"m%d" % won.index(True)]

    over(store_url, scenario)


def test_every_change_raises_the_epoch_and_wakes_listeners(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        config = store.config
        changes = await config.changes()
        epochs = [await config.epoch()]
        for change in (
            config.append_manifest(b"m", seq=1, expect_seq=0),
            config.set_kill("app", {"reason": "test"}),
            config.set_kill("app", None),
            config.revoke_token("t1", ttl_s=60),
        ):
            await change
            epochs.append(await config.epoch())
            await asyncio.wait_for(anext(changes), 2)  # type: ignore[arg-type]
        assert epochs == sorted(set(epochs))
        with pytest.raises(Conflict):
            await config.append_manifest(b"m", seq=1, expect_seq=0)
        assert await config.epoch() == epochs[-1]

    over(store_url, scenario)


def test_kills_and_tokens(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        config = store.config
        await config.set_kill("*", {"reason": "incident", "time_s": 1.5})
        await config.set_kill("a:b {c}", {"reason": "ü"})
        assert await config.kills() == {"*": {"reason": "incident", "time_s": 1.5}, "a:b {c}": {"reason": "ü"}}
        await config.set_kill("*", None)
        await config.set_kill("never", None)
        assert set(await config.kills()) == {"a:b {c}"}
        await config.put_token("t1", {"app": "a", "n": 1}, ttl_s=60)
        await config.put_token("t0", {"app": "gone"}, ttl_s=0)
        assert await config.tokens() == {"t1": {"app": "a", "n": 1}}
        await config.revoke_token("t1", ttl_s=60)
        await config.revoke_token("old", ttl_s=0)
        assert await config.revoked_tokens() == frozenset({"t1"})

    over(store_url, scenario)


def test_a_lease_counts_against_both_limits(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        budget = store.budget
        assert await budget.lease("a", **lease_args(60, 10, 100, 500)) == Grant(60, 40, 440)
        assert await budget.lease("a", **lease_args(60, 10, 100, 500, "w2")) == Grant(40, 0, 400)
        assert await budget.lease("a", **lease_args(60, 10, 100, 500, "w2")) == Grant(0, 0, 400)
        assert await budget.lease("b", **lease_args(60, 60, None, 50)) == Grant(0, None, 50)
        assert await budget.lease("b", **lease_args(60, 50, None, 50)) == Grant(50, None, 0)
        assert await budget.lease("c", **lease_args(60, 50, None, None)) == Grant(60, None, None)
        assert await budget.leased_by("w1") == {
            ("a", "2026-11-24", "2026-11"): 60,
            ("b", "2026-11-24", "2026-11"): 50,
            ("c", "2026-11-24", "2026-11"): 60,
        }

    over(store_url, scenario)


def test_a_limit_lowered_below_the_spend_grants_nothing(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        budget = store.budget
        await budget.lease("a", **lease_args(100, 100, 100, None))
        await budget.settle("a", **settle_args(100, 0, "e1"))
        assert await budget.lease("a", **lease_args(10, 0, 50, None)) == Grant(0, -50, None)
        assert await budget.lease("a", **lease_args(10, 1, 50, None)) == Grant(0, -50, None)

    over(store_url, scenario)


def test_numbers_of_one_entry_rise_and_repetitions_do_nothing(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        budget = store.budget
        await budget.lease("a", **lease_args(1000, 1000, 5000, None))
        for number, spent in ((3, 10), (3, 10), (2, 500), (7, 20), (3, 10), (7, 20), (8, 1)):
            await budget.settle("a", **settle_args(spent, 0, "series"), number=number)
            row = PERIOD | {"app": "a", "requests": 1, "id": "series.0", "number": number}
            await budget.add_usage([row])
        await budget.settle("a", **settle_args(100, 0, "another"))
        assert await budget.spend("a", period="2026-11-24") == 10 + 20 + 1 + 100
        assert (await budget.leased_by("w1"))["a", "2026-11-24", "2026-11"] == 1000 - 131
        assert await budget.leased("a", **PERIOD, holder="w1") == 1000 - 131
        assert await budget.leased("a", **PERIOD, holder="w2") == 0
        rows = await budget.usage(since="2026-11-24", until="2026-11-24", app="a")
        assert [row["requests"] for row in rows] == [3]

    over(store_url, scenario)


def test_settling_turns_leases_into_spend_once(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        budget = store.budget
        await budget.lease("a", **lease_args(100, 100, 100, 100))
        for _ in range(3):
            await budget.settle("a", **settle_args(30, 20, "e1"))
        assert await budget.spend("a", period="2026-11-24") == 30
        assert await budget.spend("a", period="2026-11") == 30
        assert await budget.leased_by("w1") == {("a", "2026-11-24", "2026-11"): 50}
        assert await budget.lease("a", **lease_args(50, 1, 100, 100, "w2")) == Grant(20, 0, 0)
        assert await budget.spend("a", period="2026-11-25") == 0

    over(store_url, scenario)


def test_settling_more_than_leased_never_mints_budget(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        budget = store.budget
        await budget.lease("a", **lease_args(10, 10, 100, 100))
        await budget.settle("a", **settle_args(25, 500, "e1"))
        await budget.settle("a", **settle_args(5, 0, "e2", "nobody"))
        assert await budget.spend("a", period="2026-11") == 30
        assert await budget.leased_by("w1") == {}
        assert await budget.lease("a", **lease_args(1000, 1, 100, 100)) == Grant(70, 0, 0)

    over(store_url, scenario)


def test_negative_money_is_refused(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        with pytest.raises(ValueError, match="negative"):
            await store.budget.lease("a", **lease_args(-1, -5, 100, 100))
        with pytest.raises(ValueError, match="negative"):
            await store.budget.settle("a", **settle_args(-1, 0, "e"))

    over(store_url, scenario)


def test_large_amounts_are_exact(store_url: str) -> None:
    """Lua prints 1e15 in exponent form, which Redis refuses as an integer: five million dollars must still work."""

    async def scenario(store: Store) -> None:
        limit = 5_000_000 * 10**9
        grant = await store.budget.lease("a", **lease_args(limit - 7, 1, limit, limit))
        assert grant == Grant(limit - 7, 7, 7)
        await store.budget.settle("a", **settle_args(limit - 9, 2, "e"))
        assert await store.budget.spend("a", period="2026-11") == limit - 9

    over(store_url, scenario)


def test_usage_rows_add_up_and_count_once(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        labels = {"app": "a", "owner": "o|x", "cost_center": "C,1", "provider": "openai", "model": 'm"1'}
        row = labels | {"day": "2026-11-24", "requests": 2, "input_tokens": 7, "cost_usd_nanos": 3}
        await store.budget.add_usage([row | {"id": "r1"}, row | {"id": "r2"}])
        await store.budget.add_usage([row | {"id": "r1"}, row | {"id": "r3", "day": "2026-11-30"}])
        await store.budget.add_usage([row | {"id": "r4", "app": "b"}])
        found = await store.budget.usage(since="2026-11-24", until="2026-11-24", app="a")
        assert [(r["requests"], r["input_tokens"], r["cost_usd_nanos"], r["unpriced"]) for r in found] == [
            (4, 14, 6, 0)
        ]
        assert {name: found[0][name] for name in labels} == labels
        assert len(await store.budget.usage(since="2026-11-01", until="2026-11-30", app=None)) == 3
        assert await store.budget.usage(since="2026-12-01", until="2026-12-02", app=None) == []
        with pytest.raises(ValueError, match="at most"):
            await store.budget.usage(since="1800-01-01", until="2026-12-02", app=None)

    over(store_url, scenario)


def test_cache_keeps_apps_apart(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        cache = store.cache
        k1, k2 = b"\x00" * 32, b"\xff" * 32
        await cache.put_many(
            [("a", k1, b"v1", 60), ("b", k1, b"v2", 60), ("a", k2, b"\x00\r\n", 60), ("a", b"z", b"", 0)]
        )
        assert await cache.get("a", k1) == b"v1"
        assert await cache.get("b", k1) == b"v2"
        assert await cache.get("b", k2) is None
        assert await cache.keys("a") == {k1, k2}
        assert await cache.drop_app("a") == 2
        assert await cache.get("a", k1) is None
        assert await cache.keys("a") == frozenset()
        assert await cache.get("b", k1) == b"v2"

    over(store_url, scenario)


def test_cache_keys_of_one_app_are_bounded(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.stores.redis_cache.KEYS_PER_APP", 10)
    monkeypatch.setattr("proxy.stores.memory.KEYS_PER_APP", 10)

    async def scenario(store: Store) -> None:
        keys = [bytes([n]) * 32 for n in range(30)]
        await store.cache.put_many([("a", key, b"v", 60 + n) for n, key in enumerate(keys)])
        assert await store.cache.keys("a") == frozenset(keys[20:])
        left = [key for key in keys if await store.cache.get("a", key) is not None]
        assert left == keys[20:]

    over(store_url, scenario)


def test_cache_bytes_of_one_app_are_bounded(valkey: str) -> None:
    """Whatever is written, replaced or lost, one app holds no more than its bytes, and other apps lose nothing."""

    async def scenario() -> None:
        await flush(valkey)
        link = RedisLink(valkey)
        cache = RedisCacheStore(link, bytes_per_app=1000)
        keys = [bytes([n]) * 32 for n in range(30)]
        try:
            await cache.put_many([("b", keys[0], b"b" * 900, 10)])
            await cache.put_many([("a", key, b"v" * 100, 60 + n) for n, key in enumerate(keys)])
            assert await cache.keys("a") == frozenset(keys[20:])
            assert [key for key in keys if await cache.get("a", key) is not None] == keys[20:]
            # A value that is replaced counts once, with its new size.
            for _ in range(3):
                await cache.put_many([("a", keys[29], b"v" * 100, 100)])
            assert len(await cache.keys("a")) == 10
            await cache.put_many([("a", keys[29], b"v" * 500, 100)])
            assert await cache.keys("a") == frozenset(keys[24:])
            await cache.put_many([("a", keys[0], b"v" * 1001, 100)])
            assert await cache.get("a", keys[0]) is None
            assert await cache.keys("a") == frozenset(keys[24:])
            # What is dropped gives its room back.
            await cache.drop_app("a")
            await cache.put_many([("a", key, b"v" * 100, 60) for key in keys[:10]])
            assert len(await cache.keys("a")) == 10
            assert await cache.keys("b") == {keys[0]}
        finally:
            await link.aclose()

    asyncio.run(scenario())


def test_fifty_concurrent_reservers_never_exceed_the_limits(store_url: str) -> None:
    async def scenario(store: Store) -> None:
        budget, granted = store.budget, []

        async def reserve(n: int) -> None:
            grant = await budget.lease("a", **lease_args(97, 13, 1000, 800, f"w{n % 4}"))
            granted.append(grant.granted_usd_nanos)
            if n % 3 == 0 and grant.granted_usd_nanos:
                await budget.settle("a", **settle_args(13, grant.granted_usd_nanos - 13, f"e{n}", f"w{n % 4}"))

        await asyncio.gather(*(reserve(n) for n in range(50)))
        leased = sum([sum((await budget.leased_by(f"w{n}")).values()) for n in range(4)])
        spent = await budget.spend("a", period="2026-11")
        assert spent % 13 == 0
        assert leased + spent <= 800
        assert all(amount == 0 or 13 <= amount <= 97 for amount in granted)

    over(store_url, scenario)
