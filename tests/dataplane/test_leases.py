"""Leases behind the requests: no store in a request's way, no budget swallowed, nothing of an old limit."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.dataplane.leases import IDLE_S, REFRESH_S
from proxy.dataplane.pace_file import WRITE_EVERY_S
from proxy.errors import Denied
from proxy.pace import STANDBY_S
from proxy.paths import Paths
from proxy.stores.open import Store
from proxy.stores.ports import Grant, StoreUnavailable
from tests.dataplane.lease_kit import AMPLE, TICK_S, Counted, Rig, lease_of
from tests.dataplane.test_ledger import DAY, MONTH, policy, reserve
from tests.stores.kit import over, store_url, valkey

__all__ = ["store_url", "valkey"]

ROUGHLY_MIDNIGHT_S = 1_795_564_800.0  # 2026-11-25T00:00:00Z


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@pytest.mark.parametrize("per_tick", [1, 15, 400])
def test_a_busy_app_outlives_a_store_that_is_away(paths: Paths, per_tick: int) -> None:
    async def scenario() -> None:
        rig = Rig(paths)
        worker = rig.worker("w1")
        for n in range(200):
            for _ in range(per_tick):
                await rig.call(worker, 100, 90)
            await rig.tick(worker)
            if n == 20:
                asked = rig.store.leases
                lease = lease_of(worker)
        assert rig.store.leases - asked < 30
        rig.store.down = True
        for _ in range(80):
            for _ in range(per_tick):
                assert rig.at_hand(worker, 100)
                await rig.call(worker, 100, 90)
            await rig.tick(worker)
        assert lease.available > 0
        rig.store.down = False
        await worker.aclose(rig.now_s)
        assert await rig.store.spend("a", period=DAY) == 280 * per_tick * 90

    run(scenario)


def test_a_worker_that_comes_after_has_its_lease_before_the_first_request(paths: Paths) -> None:
    async def scenario() -> None:
        rig = Rig(paths, None, AMPLE, policy("quiet"))
        old = rig.worker("w1")
        for _ in range(80):
            await rig.call(old, 100, 90)
            await rig.tick(old)
        fresh = rig.worker("w2")
        await fresh.prepare(5)
        assert await rig.store.leased_by("w2") == {("a", DAY, MONTH): lease_of(fresh).available}
        rig.store.down = True
        for _ in range(80):
            await rig.call(fresh, 100, 90)
            await rig.tick(fresh)
        rig.store.down = False
        for worker in (old, fresh):
            await worker.aclose(rig.now_s)
        assert await rig.store.leased_by("w2") == {}
        # Also after all workers have stopped, as when the whole service is started anew.
        last = rig.worker("w3")
        await last.prepare(5)
        assert rig.at_hand(last, 100)
        await last.aclose(rig.now_s)

    run(scenario)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"at_s": 1}', b'{"at_s": 1795500000, "apps": {"a": 3}}'])
def test_a_damaged_or_old_pace_file_is_removed(paths: Paths, content: bytes) -> None:
    async def scenario() -> None:
        rig = Rig(paths)
        worker = rig.worker("w2")
        file = paths.pace_dir / "w1.json"
        file.write_bytes(content)
        await worker.prepare(5)
        assert not file.exists()
        assert rig.store.leases == 0
        await worker.aclose(rig.now_s)

    run(scenario)


def test_the_pace_is_written_now_and_then_and_forgotten_when_old(paths: Paths) -> None:
    async def scenario() -> None:
        rig = Rig(paths)
        worker = rig.worker("w1")
        file = paths.pace_dir / "w1.json"
        await rig.call(worker, 100, 90)
        await rig.tick(worker)
        first = file.read_bytes()
        await rig.call(worker, 700, 90)
        await rig.tick(worker, seconds=WRITE_EVERY_S / 2)
        assert file.read_bytes() == first
        await rig.tick(worker, seconds=WRITE_EVERY_S)
        assert file.read_bytes() != first
        rig.now_s += STANDBY_S + 1
        fresh = rig.worker("w2")
        await fresh.prepare(5)
        assert not rig.at_hand(fresh, 100)
        for each in (worker, fresh):
            await each.aclose(rig.now_s)

    run(scenario)


def test_first_leases_are_asked_for_until_the_store_is_back_or_patience_ends(paths: Paths) -> None:
    class Returning(Counted):
        async def lease(self, app: str, **wanted: Any) -> Grant:
            self.down = self.leases < 3
            return await super().lease(app, **wanted)

    async def scenario() -> None:
        rig = Rig(paths)
        old = rig.worker("w1")
        await rig.call(old, 100, 90)
        await rig.tick(old)
        rig.store.down = True
        fresh = rig.worker("w2")
        await fresh.prepare(0)
        assert not rig.at_hand(fresh, 100)
        rig.store = Returning()
        other = rig.worker("w3")
        await other.prepare(30)
        assert rig.store.leases > 3
        assert rig.at_hand(other, 100)
        await other.aclose(rig.now_s)

    run(scenario)


def test_an_idle_worker_keeps_a_little_for_a_while(paths: Paths) -> None:
    async def scenario() -> None:
        rig = Rig(paths)
        worker = rig.worker("w1")
        for _ in range(100):
            await rig.call(worker, 100, 90)
            await rig.tick(worker)
        busy = lease_of(worker).available
        await rig.tick(worker, seconds=IDLE_S + 0.1)
        await rig.tick(worker)
        assert 100 <= lease_of(worker).available < busy / 4
        await rig.tick(worker, seconds=STANDBY_S / 2)
        assert rig.at_hand(worker, 100)
        await rig.tick(worker)
        await rig.tick(worker, seconds=STANDBY_S + 1)
        await rig.tick(worker)
        assert await rig.store.leased_by("w1") == {}
        await worker.aclose(rig.now_s)

    run(scenario)


def test_what_a_busy_worker_does_not_need_goes_back(paths: Paths) -> None:
    async def scenario() -> None:
        rig = Rig(paths)
        worker = rig.worker("w1")
        for n in range(200):
            await rig.call(worker, 10**6 if n < 4 else 100, 90)
            await rig.tick(worker)
        # Within a window and a refresh, of the 4,000,000 that the first calls suggested.
        assert sum((await rig.store.leased_by("w1")).values()) < 50_000
        await worker.aclose(rig.now_s)

    run(scenario)


@pytest.mark.parametrize("workers", [2, 8])
def test_a_small_budget_can_be_spent_by_one_of_many_workers(paths: Paths, workers: int) -> None:
    """Also to the last call: what others were leased comes back once the rest becomes small."""

    async def scenario() -> None:
        app = policy(daily_usd_nanos=10_000, monthly_usd_nanos=None)
        rig = Rig(paths, None, app)
        ledgers = [rig.worker(f"w{n}") for n in range(workers)]
        for ledger in ledgers:
            await rig.call(ledger, 10, 10, app)
        spent = 10 * workers
        for _ in range(4 * workers):
            await rig.tick(*ledgers)
        assert sum(lease_of(ledger).held for ledger in ledgers) <= 10_000 / 2
        for _ in range(3000):
            try:
                await rig.call(ledgers[0], 10, 10, app)
                spent += 10
            except Denied as denied:
                assert denied.code == "budget_exceeded"
            assert spent <= 10_000
            await rig.tick(*ledgers)
        assert spent == 10_000
        for ledger in ledgers:
            await ledger.aclose(rig.now_s)

    run(scenario)


@pytest.mark.parametrize("change", ["lowered", "removed", "unlimited"])
def test_a_lease_ends_with_the_policy_that_it_was_for(paths: Paths, change: str) -> None:
    async def scenario() -> None:
        rig = Rig(paths)
        worker = rig.worker("w1")
        for _ in range(100):
            await rig.call(worker, 100, 90)
            await rig.tick(worker)
        assert lease_of(worker).available > 1000
        changed = {
            "lowered": {"a": policy(daily_usd_nanos=500, monthly_usd_nanos=None)},
            "removed": {},
            "unlimited": {"a": policy(daily_usd_nanos=None, monthly_usd_nanos=None)},
        }
        rig.apps = changed[change]
        await rig.tick(worker)
        await rig.tick(worker)
        assert await rig.store.leased_by("w1") == {}
        await worker.aclose(rig.now_s)

    run(scenario)


@pytest.mark.parametrize("told_first", ["by a request", "by the look at all leases"])
def test_a_lowered_limit_binds_the_next_request(paths: Paths, told_first: str) -> None:
    """Nothing that was leased under the old limit is used any more, nor what requests in flight give back of it."""

    async def scenario() -> None:
        rig = Rig(paths)
        worker = rig.worker("w1")
        for _ in range(20):
            await rig.call(worker, 100, 90)
            await rig.tick(worker)
        in_flight = await reserve(worker, 100, AMPLE, rig.now_s)
        lowered = policy(daily_usd_nanos=20 * 90 + 150, monthly_usd_nanos=None)
        rig.apps = {"a": lowered}
        if told_first == "by the look at all leases":
            await worker.top_up(rig.now_s)
        with pytest.raises(Denied, match="in flight hold the rest"):
            await reserve(worker, 60, lowered, rig.now_s)
        await rig.tick(worker, seconds=2)
        assert await rig.store.leased_by("w1") == {("a", DAY, MONTH): 100}
        # 1,800 are spent and 100 reserved of 1,950.
        await rig.call(worker, 50, 0, lowered)
        worker.settle(in_flight, 40, estimated=False)
        assert lease_of(worker).returning == 60
        with pytest.raises(Denied, match="budget_exceeded"):
            await reserve(worker, 111, lowered, rig.now_s)
        await rig.tick(worker, seconds=2)
        await rig.call(worker, 110, 110, lowered)
        with pytest.raises(Denied, match="daily budget"):
            await reserve(worker, 1, lowered, rig.now_s)
        await worker.aclose(rig.now_s)
        assert await rig.store.spend("a", period=DAY) == 1950
        assert await rig.store.leased_by("w1") == {}

    run(scenario)


@pytest.mark.parametrize("sealed", [False, True], ids=["not sent yet", "sent in vain"])
def test_a_lowered_limit_refuses_nothing_for_what_is_on_its_way_back(paths: Paths, sealed: bool) -> None:
    async def scenario() -> None:
        rig = Rig(paths)
        worker = rig.worker("w1")
        for _ in range(20):
            await rig.call(worker, 100, 1)
            await rig.tick(worker)
        lowered = policy(daily_usd_nanos=150, monthly_usd_nanos=None)
        assert lease_of(worker).held > 150
        rig.apps = {"a": lowered}
        if sealed:
            rig.store.down = True
            await rig.tick(worker, seconds=10)
            rig.store.down = False
        await rig.call(worker, 100, 10, lowered)
        await worker.aclose(rig.now_s)
        assert await rig.store.spend("a", period=DAY) == 30

    run(scenario)


def test_a_refusal_for_what_could_not_be_given_back_is_not_remembered(paths: Paths) -> None:
    class Deaf(Counted):
        """Takes no batches."""

        deaf = False

        async def settle(self, *args: Any, **batch: Any) -> Any:
            if self.deaf:
                raise StoreUnavailable("deaf")
            return await super().settle(*args, **batch)

    async def scenario() -> None:
        store = Deaf()
        rig = Rig(paths, store)
        worker = rig.worker("w1")
        for _ in range(20):
            await rig.call(worker, 100, 1)
            await rig.tick(worker)
        lowered = policy(daily_usd_nanos=150, monthly_usd_nanos=None)
        rig.apps = {"a": lowered}
        store.deaf = True
        with pytest.raises(Denied, match="budget_exceeded"):
            await reserve(worker, 100, lowered, rig.now_s)
        store.deaf = False
        await rig.call(worker, 100, 10, lowered)
        await worker.aclose(rig.now_s)

    run(scenario)


def test_a_policy_with_the_same_or_a_higher_limit_goes_on_with_the_lease(paths: Paths) -> None:
    async def scenario() -> None:
        rig = Rig(paths)
        worker = rig.worker("w1")
        for _ in range(20):
            await rig.call(worker, 100, 90)
            await rig.tick(worker)
        rig.store.down = True
        for app in (
            policy(daily_usd_nanos=10**12, monthly_usd_nanos=None),
            policy(daily_usd_nanos=10**13, monthly_usd_nanos=None),
            policy(daily_usd_nanos=None, monthly_usd_nanos=None),
        ):
            await rig.call(worker, 100, 90, app)
        with pytest.raises(Denied, match="budget_unavailable"):
            await rig.call(worker, 100, 90, policy(daily_usd_nanos=10**13, monthly_usd_nanos=10**13))
        rig.store.down = False
        for _ in range(3):
            await rig.tick(worker, seconds=2)
        await worker.aclose(rig.now_s)
        assert await rig.store.spend("a", period=DAY) == 23 * 90
        assert await rig.store.leased_by("w1") == {}

    run(scenario)


def test_leases_follow_what_is_left(paths: Paths) -> None:
    async def scenario() -> None:
        app = policy(daily_usd_nanos=1_000_000, monthly_usd_nanos=None)
        rig = Rig(paths, None, app)
        worker = rig.worker("w1")
        for _ in range(100):
            await rig.call(worker, 1000, 900, app)
            await rig.tick(worker)
        before = lease_of(worker).held
        left = 1_000_000 - await rig.store.spend("a", period=DAY) - before
        await rig.store.lease("a", day=DAY, month=MONTH, want_usd_nanos=left - 10_000, least_usd_nanos=0,
                              day_limit=None, month_limit=None, holder="elsewhere")  # fmt: skip
        for _ in range(round(REFRESH_S / TICK_S) + 2):
            await rig.call(worker, 10, 0, app)
            await rig.tick(worker)
        assert lease_of(worker).held < before / 2
        await worker.aclose(rig.now_s)

    run(scenario)


def test_the_next_days_lease_is_there_before_midnight(paths: Paths) -> None:
    async def scenario() -> None:
        rig = Rig(paths)
        rig.now_s = ROUGHLY_MIDNIGHT_S - 60
        worker = rig.worker("w1")
        while rig.now_s < ROUGHLY_MIDNIGHT_S - 1:
            await rig.call(worker, 100, 90)
            await rig.tick(worker)
        rig.store.down = True
        rig.now_s = ROUGHLY_MIDNIGHT_S + 1
        assert rig.at_hand(worker, 100)
        assert "2026-11-25" in {key[1] for key in worker._leases.of}
        rig.store.down = False
        # And yesterday's goes back.
        for _ in range(12):
            await rig.call(worker, 100, 90)
            await rig.tick(worker)
        assert {key[1] for key in await rig.store.leased_by("w1")} == {"2026-11-25"}
        await worker.aclose(rig.now_s)

    run(scenario)


def test_a_top_up_whose_answer_is_lost_is_repaired(paths: Paths) -> None:
    async def scenario() -> None:
        rig = Rig(paths)
        worker = rig.worker("w1")
        await rig.call(worker, 100, 100)
        await worker.flush(rig.now_s)
        rig.store.lose_answers = True
        with pytest.raises(StoreUnavailable):
            await worker.top_up(rig.now_s + REFRESH_S)
        rig.store.lose_answers = False
        for _ in range(8):
            await rig.tick(worker)
        held = await rig.store.leased_by("w1")
        assert held == {("a", DAY, MONTH): lease_of(worker).held}
        assert rig.at_hand(worker, 100)
        await worker.aclose(rig.now_s)

    run(scenario)


def test_one_apps_damaged_key_does_not_keep_the_others_from_their_leases(paths: Paths, valkey: str) -> None:
    async def scenario(store: Store) -> None:
        from proxy.stores.link import RedisLink

        apps = [policy(name, daily_usd_nanos=10**12, monthly_usd_nanos=10**12) for name in "abc"]
        rig = Rig(paths, store.budget, *apps)
        link = RedisLink(valkey)
        worker = rig.worker("w1")
        for app in apps:
            await rig.call(worker, 100, 100, app)
        await worker.flush(rig.now_s)
        await link.run("SET", "egress:{a:a}:leased:2026-11", "nonsense")
        with pytest.raises(StoreUnavailable):
            await worker.top_up(rig.now_s + REFRESH_S)
        await worker.flush(rig.now_s)
        await worker.top_up(rig.now_s + REFRESH_S)
        assert [rig.at_hand(worker, 100, app) for app in apps] == [False, True, True]
        await link.aclose()

    over(valkey, scenario)
