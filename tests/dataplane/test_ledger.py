"""Money: never more than the limit, never lost, never counted twice; whatever dies in between."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.snapshot import AppPolicy, BudgetPolicy, DlpPolicy, Limits
from proxy.dataplane import journal as journal_module
from proxy.dataplane.journal import Busy
from proxy.dataplane.leases import IDLE_S, REFUSAL_S
from proxy.dataplane.ledger import Ledger, reconcile, reconcile_all
from proxy.dataplane.settlement import MODEL_CHARACTERS, MODELS_PER_APP
from proxy.errors import Denied
from proxy.model import Cost, Reservation, Usage
from proxy.paths import Paths
from proxy.stores.link import RedisLink
from proxy.stores.memory import MemoryBudgetStore
from proxy.stores.open import Store
from proxy.stores.ports import Grant, StoreUnavailable
from proxy.stores.redis_budget import RedisBudgetStore
from tests.stores.kit import over, store_url, until, valkey

__all__ = ["store_url", "valkey"]

NOW_S = 1_795_500_000.0
DAY, MONTH = "2026-11-24", "2026-11"
KEY = ("a", DAY, MONTH)
DLP = DlpPolicy("balanced", (), "redact")


def policy(name: str = "a", **budget: Any) -> AppPolicy:
    limits = {"daily_usd_nanos": 1000, "monthly_usd_nanos": 5000, "at": "apps/a.yaml:9:1"} | budget
    return AppPolicy(
        name,
        "o",
        "CC",
        "production",
        None,
        "enforce",
        None,
        (),
        True,
        (),
        DLP,
        None,
        BudgetPolicy(**limits),
        Limits(),
        "",
    )


APP = policy()


async def reserve(ledger: Ledger, usd_nanos: int, app: AppPolicy = APP, now_s: float = NOW_S) -> Reservation:
    found = ledger.reserve(app, usd_nanos, "x", now_s)
    return await found if isinstance(found, Awaitable) else found


def usage(model: str = "m") -> Usage:
    return Usage("openai", "chat", model, model, input_tokens=10, output_tokens=5)


class Flaky(MemoryBudgetStore):
    """A store that can go away, before or after it has done what it was asked."""

    down = False
    lose_answers = False

    async def lease(self, app: str, **wanted: Any) -> Grant:
        self._check()
        grant = await super().lease(app, **wanted)
        self._lose()
        return grant

    async def settle(self, app: str, **entry: Any) -> None:
        self._check()
        await super().settle(app, **entry)
        self._lose()

    async def add_usage(self, rows: Any) -> None:
        self._check()
        await super().add_usage(rows)
        self._lose()

    async def spend(self, app: str, *, period: str) -> int:
        self._check()
        return await super().spend(app, period=period)

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("down")

    def _lose(self) -> None:
        if self.lose_answers:
            raise StoreUnavailable("answer lost")


def test_the_second_request_needs_no_store(paths: Paths, store_url: str) -> None:
    async def scenario(store: Store) -> None:
        ledger = Ledger(store.budget, paths, "w1")
        app = policy(daily_usd_nanos=100_000, monthly_usd_nanos=None)
        first = ledger.reserve(app, 100, "x", NOW_S)
        assert not isinstance(first, Reservation)
        ledger.settle(await first, 100, estimated=False)
        await reserve(ledger, 100, app)
        third = ledger.reserve(app, 100, "x", NOW_S)
        assert isinstance(third, Reservation)
        assert (third.app, third.usd_nanos, third.day, third.month) == ("a", 100, DAY, MONTH)
        await ledger.aclose(NOW_S)

    over(store_url, scenario)


def test_settle_sends_spend_and_usage_and_returns_the_rest(paths: Paths, store_url: str) -> None:
    async def scenario(store: Store) -> None:
        ledger = Ledger(store.budget, paths, "w1")
        reservation = await reserve(ledger, 300)
        ledger.settle(reservation, 120, estimated=False)
        ledger.settle(reservation, 999, estimated=False)
        ledger.record_usage(APP, "x", usage(), Cost(120, True, "t"), saved=False, now_s=NOW_S)
        ledger.record_usage(APP, "x", usage(), Cost(77, True, "t"), saved=True, now_s=NOW_S)
        ledger.record_usage(APP, "x", usage("new"), Cost(0, False, ""), saved=False, now_s=NOW_S)
        await ledger.flush(NOW_S)
        assert await store.budget.spend("a", period=DAY) == 120
        await ledger.aclose(NOW_S)
        assert await store.budget.leased_by("w1") == {}
        rows = {row["model"]: row for row in await store.budget.usage(since=DAY, until=DAY, app="a")}
        facts = ("requests", "input_tokens", "cost_usd_nanos", "saved_usd_nanos", "cache_hits", "unpriced")
        assert [rows["m"][name] for name in facts] == [2, 10, 120, 77, 1, 0]
        assert [rows["new"][name] for name in facts] == [1, 10, 0, 0, 0, 1]
        assert (rows["m"]["owner"], rows["m"]["cost_center"]) == ("o", "CC")
        assert list(paths.journal_dir.iterdir()) == []

    over(store_url, scenario)


def test_exceeding_is_denied_with_the_time_to_come_back(paths: Paths) -> None:
    async def scenario() -> None:
        store = MemoryBudgetStore()
        ledger = Ledger(store, paths, "w1")
        ledger.settle(await reserve(ledger, 990), 990, estimated=False)
        await ledger.flush(NOW_S)
        with pytest.raises(Denied) as caught:
            await reserve(ledger, 20)
        assert caught.value.code == "budget_exceeded"
        assert caught.value.where == "apps/a.yaml:9:1"
        assert "daily" in caught.value.detail
        assert caught.value.retry_after_s is not None
        assert 0 < caught.value.retry_after_s <= 86401
        assert (await reserve(ledger, 10)).usd_nanos == 10
        await ledger.aclose(NOW_S)

    asyncio.run(scenario())


def test_a_remembered_refusal_ends_with_the_policy_that_it_was_for(paths: Paths) -> None:
    async def scenario() -> None:
        ledger = Ledger(MemoryBudgetStore(), paths, "w1")
        for _ in range(2):
            with pytest.raises(Denied, match="budget_exceeded"):
                await reserve(ledger, 2000)
        raised = policy(daily_usd_nanos=3000)
        assert (await reserve(ledger, 2000, raised)).usd_nanos == 2000
        with pytest.raises(Denied, match="budget_exceeded"):
            await reserve(ledger, 2000)

    asyncio.run(scenario())


def test_money_in_flight_is_told_apart_from_money_spent(paths: Paths) -> None:
    async def scenario() -> None:
        store = MemoryBudgetStore()
        one, two = Ledger(store, paths, "w1"), Ledger(store, paths, "w2")
        held = await reserve(one, 1000)
        with pytest.raises(Denied, match="in flight") as caught:
            await reserve(two, 1)
        assert caught.value.retry_after_s == 5
        one.settle(held, 100, estimated=False)
        await one.flush(NOW_S)
        assert (await reserve(two, 900, now_s=NOW_S + REFUSAL_S)).usd_nanos == 900
        await one.aclose(NOW_S)
        await two.aclose(NOW_S)

    asyncio.run(scenario())


def test_a_hammering_app_is_refused_from_memory(paths: Paths) -> None:
    class Counting(MemoryBudgetStore):
        leases = 0

        async def lease(self, app: str, **wanted: Any) -> Grant:
            self.leases += 1
            return await super().lease(app, **wanted)

    async def scenario() -> None:
        store = Counting()
        ledger = Ledger(store, paths, "w1")
        for _ in range(50):
            with pytest.raises(Denied, match="budget_exceeded"):
                await reserve(ledger, 2000)
        assert store.leases == 1
        assert (await reserve(ledger, 1000)).usd_nanos == 1000
        await ledger.aclose(NOW_S)

    asyncio.run(scenario())


def test_report_mode_lets_it_through_and_records_the_overspend(paths: Paths) -> None:
    async def scenario() -> None:
        store = MemoryBudgetStore()
        ledger = Ledger(store, paths, "w1")
        app = policy(on_exceeded="report")
        reservation = await reserve(ledger, 5000, app)
        ledger.settle(reservation, 4000, estimated=False)
        await ledger.aclose(NOW_S)
        assert await store.spend("a", period=DAY) == 4000

    asyncio.run(scenario())


def test_overspend_is_recorded_and_eats_nobody_elses_cover(paths: Paths) -> None:
    async def scenario() -> None:
        store = MemoryBudgetStore()
        ledger = Ledger(store, paths, "w1")
        cheap, other = await reserve(ledger, 100), await reserve(ledger, 600)
        ledger.settle(cheap, 350, estimated=False)
        await ledger.flush(NOW_S)
        assert await store.spend("a", period=DAY) == 350
        assert (await store.leased_by("w1"))[KEY] >= 600
        assert ledger.overspent_usd_nanos > 0
        with pytest.raises(Denied):
            await reserve(ledger, 51)
        ledger.settle(other, 600, estimated=False)
        await ledger.aclose(NOW_S)
        assert await store.spend("a", period=DAY) == 950
        assert await store.leased_by("w1") == {}

    asyncio.run(scenario())


def test_unused_leases_go_back_when_idle_and_near_the_limit(paths: Paths) -> None:
    async def scenario() -> None:
        store = MemoryBudgetStore()
        app = policy(daily_usd_nanos=100_000, monthly_usd_nanos=None)
        ledger = Ledger(store, paths, "w1")
        for _ in range(2):
            ledger.settle(await reserve(ledger, 10, app), 10, estimated=False)
        await ledger.flush(NOW_S)
        assert sum((await store.leased_by("w1")).values()) > 0
        await ledger.flush(NOW_S + IDLE_S + 0.1)
        assert await store.leased_by("w1") == {}
        tight = policy("b", daily_usd_nanos=100, monthly_usd_nanos=None)
        ledger.settle(await reserve(ledger, 60, tight), 5, estimated=False)
        await ledger.flush(NOW_S)
        assert await store.leased_by("w1") == {}
        await ledger.aclose(NOW_S)

    asyncio.run(scenario())


def test_periods_follow_the_budgets_time_zone(paths: Paths) -> None:
    async def scenario() -> None:
        ledger = Ledger(MemoryBudgetStore(), paths, "w1")
        app = policy(time_zone="Pacific/Kiritimati")
        late = NOW_S + 6 * 86400 + 12 * 3600
        reservation = await reserve(ledger, 10, app, late)
        assert (reservation.day, reservation.month) == ("2026-12-01", "2026-12")
        await ledger.aclose(late)

    asyncio.run(scenario())


@pytest.mark.parametrize(("mode", "outcome"), [("deny", "budget_unavailable"), ("allow", "")])
def test_store_away(paths: Paths, mode: str, outcome: str) -> None:
    async def scenario() -> None:
        store = Flaky()
        store.down = True
        ledger = Ledger(store, paths, "w1")
        app = policy(on_unavailable=mode)
        if outcome:
            with pytest.raises(Denied, match=outcome):
                await reserve(ledger, 10, app)
        else:
            ledger.settle(await reserve(ledger, 10, app), 7, estimated=False)
        ledger.record_usage(app, "x", usage(), Cost(7, True, ""), saved=False, now_s=NOW_S)
        with pytest.raises(StoreUnavailable):
            await ledger.flush(NOW_S)
        store.down = False
        await ledger.aclose(NOW_S)
        assert await store.spend("a", period=DAY) == (0 if outcome else 7)
        assert sum(row["cost_usd_nanos"] for row in await store.usage(since=DAY, until=DAY, app=None)) == 7

    asyncio.run(scenario())


def test_settles_while_the_store_is_away_arrive_exactly_once(paths: Paths) -> None:
    async def scenario() -> None:
        store = Flaky()
        ledger = Ledger(store, paths, "w1")
        app = policy(daily_usd_nanos=10**6, monthly_usd_nanos=None)
        spent = 0
        for n in range(60):
            store.down = 10 <= n < 40
            store.lose_answers = n % 5 == 4
            try:
                reservation = await reserve(ledger, 100, app, NOW_S + 2 * n)
            except Denied:
                continue
            ledger.settle(reservation, n, estimated=False)
            ledger.record_usage(app, "x", usage(), Cost(n, True, ""), saved=False, now_s=NOW_S)
            spent += n
            try:
                await ledger.flush(NOW_S + 2 * n)
            except StoreUnavailable:
                assert store.down or store.lose_answers
        store.down = store.lose_answers = False
        for _ in range(4):
            await ledger.flush(NOW_S + 300)
        await ledger.aclose(NOW_S + 300)
        assert await store.spend("a", period=DAY) == spent > 0
        rows = await store.usage(since=DAY, until=DAY, app="a")
        assert rows[0]["cost_usd_nanos"] == spent
        assert await store.leased_by("w1") == {}

    asyncio.run(scenario())


def test_a_worker_that_stops_while_the_store_is_away_leaves_its_journal(paths: Paths) -> None:
    async def scenario() -> None:
        store = Flaky()
        ledger = Ledger(store, paths, "w1")
        kept, finished = await reserve(ledger, 100), await reserve(ledger, 50)
        ledger.settle(finished, 20, estimated=False)
        store.down = True
        await ledger.aclose(NOW_S)
        with pytest.raises(StoreUnavailable):
            await reconcile(paths.journal_dir, store, "w1")
        store.down, store.lose_answers = False, True
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await reconcile(paths.journal_dir, store, "w1")
        store.lose_answers = False
        done = await reconcile(paths.journal_dir, store, "w1")
        assert (done.intents, done.damaged) == (1, 0)
        assert await store.spend("a", period=DAY) == 20 + kept.usd_nanos
        assert await store.leased_by("w1") == {}
        assert await reconcile_all(paths.journal_dir, store) == []
        row = (await store.usage(since=DAY, until=DAY, app="a"))[0]
        assert (row["requests"], row["estimated"], row["cost_usd_nanos"]) == (1, 1, 100)

    asyncio.run(scenario())


def test_a_living_workers_journal_is_left_alone(paths: Paths) -> None:
    async def scenario() -> None:
        store = MemoryBudgetStore()
        ledger = Ledger(store, paths, "w1")
        await reserve(ledger, 100)
        with pytest.raises(Busy):
            await reconcile(paths.journal_dir, store, "w1")
        with pytest.raises(Busy):
            Ledger(store, paths, "w1")
        assert await reconcile_all(paths.journal_dir, store) == []
        assert await store.leased_by("w1") == {KEY: 100}
        await ledger.aclose(NOW_S)

    asyncio.run(scenario())


CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from proxy.dataplane.ledger import Ledger
from proxy.model import Cost
from proxy.paths import Paths
from proxy.stores.open import open_store
from tests.dataplane.test_ledger import APP, NOW_S, reserve, usage

async def main():
    paths = Paths(Path(sys.argv[1]))
    ledger = Ledger(open_store(sys.argv[2], paths).budget, paths, "child")
    done = await reserve(ledger, 200)
    ledger.settle(done, 150, estimated=False)
    ledger.record_usage(APP, "x", usage(), Cost(150, True, ""), saved=False, now_s=NOW_S)
    await ledger.flush(NOW_S)
    second = await reserve(ledger, 100)
    ledger.settle(second, 40, estimated=False)
    await reserve(ledger, 70)
    print("reserved", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_kill_nine_between_reserve_and_settle(paths: Paths, valkey: str) -> None:
    async def scenario(store: Store) -> None:
        child = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", CHILD, str(paths.state_dir), valkey],
            capture_output=True,
            check=False,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert child.stdout == "reserved\n"
        assert (await store.budget.leased_by("child"))[KEY] >= 70
        done = await reconcile_all(paths.journal_dir, store.budget)
        assert [(entry.holder, entry.intents, entry.damaged) for entry in done] == [("child", 1, 0)]
        assert await reconcile_all(paths.journal_dir, store.budget) == []
        assert await store.budget.spend("a", period=DAY) == 150 + 40 + 70
        assert await store.budget.leased_by("child") == {}
        rows = await store.budget.usage(since=DAY, until=DAY, app="a")
        assert sum(row["cost_usd_nanos"] for row in rows) == 150 + 70
        assert sum(row["estimated"] for row in rows) == 1

    over(valkey, scenario)


def test_the_usage_of_every_app_survives_a_crash(paths: Paths, store_url: str) -> None:
    async def scenario(store: Store) -> None:
        ledger = Ledger(store.budget, paths, "w1")
        for name, cost in (("a", 7), ("b", 9)):
            ledger.settle(await reserve(ledger, 10, policy(name)), cost, estimated=False, metered=False)
            await reserve(ledger, 100, policy(name))
        ledger._journal.close(remove=False)
        await reconcile(paths.journal_dir, store.budget, "w1")
        rows = await store.budget.usage(since=DAY, until=DAY, app=None)
        assert {(row["app"], row["requests"], row["cost_usd_nanos"]) for row in rows} == {("a", 2, 107), ("b", 2, 109)}

    over(store_url, scenario)


def test_the_store_does_not_grow_with_the_number_of_batches(paths: Paths, valkey: str) -> None:
    async def scenario(store: Store) -> None:
        link = RedisLink(valkey)
        ledger = Ledger(store.budget, paths, "w1")
        sizes = []
        for n in range(40):
            ledger.settle(await reserve(ledger, 10), 12, estimated=False)
            ledger.record_usage(APP, "x", usage(), Cost(12, True, ""), saved=False, now_s=NOW_S)
            await ledger.flush(NOW_S + 10 * n)
            sizes.append(await link.run("DBSIZE"))
        # All are there once money has come and gone back; what was returned leaves no key of its own.
        assert max(sizes[5:]) == max(sizes[:5])
        assert await store.budget.spend("a", period=DAY) == 40 * 12
        await ledger.aclose(NOW_S)
        await link.aclose()

    over(valkey, scenario)


def test_a_torn_last_line_is_counted_and_the_rest_replayed(paths: Paths) -> None:
    async def scenario() -> None:
        store = MemoryBudgetStore()
        ledger = Ledger(store, paths, "w1")
        await reserve(ledger, 100)
        ledger._journal.close(remove=False)
        file = paths.journal_dir / "w1.jsonl"
        file.write_bytes(file.read_bytes() + b'{"t":"intent","id"')
        done = await reconcile(paths.journal_dir, store, "w1")
        assert (done.intents, done.damaged) == (1, 1)
        assert await store.spend("a", period=DAY) == 100

    asyncio.run(scenario())


def test_a_journal_that_cannot_be_written_denies_and_loses_nothing(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write
    room = [10**6]

    def write(fd: int, data: bytes) -> int:
        """A disk with `room` bytes left."""
        part = data[: room[0]]
        if not part:
            raise OSError(28, "No space left on device")
        room[0] -= len(part)
        return real_write(fd, part)

    async def scenario() -> None:
        monkeypatch.setattr(journal_module.os, "write", write)
        store = MemoryBudgetStore()
        ledger = Ledger(store, paths, "w1")
        reservation = await reserve(ledger, 100)
        room[0] = 20
        ledger.settle(reservation, 60, estimated=False)
        with pytest.raises(Denied, match="budget_unavailable"):
            await reserve(ledger, 1)
        with pytest.raises(OSError, match="No space"):
            await ledger.flush(NOW_S)
        assert await store.spend("a", period=DAY) == 0
        room[0] = 10**6
        second = await reserve(ledger, 5)
        await ledger.flush(NOW_S)
        assert await store.spend("a", period=DAY) == 60
        ledger._journal.close(remove=False)
        done = await reconcile(paths.journal_dir, store, "w1")
        assert (done.intents, done.damaged) == (1, 1)
        assert await store.spend("a", period=DAY) == 60 + second.usd_nanos

    asyncio.run(scenario())


def test_a_call_is_two_writes(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a crash finds a metered call's settlement and usage, or neither: then it counts as reserved."""
    written: list[bytes] = []
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        written.append(data)
        return real_write(fd, data)

    monkeypatch.setattr(journal_module.os, "write", write)

    async def scenario() -> None:
        store = MemoryBudgetStore()
        ledger = Ledger(store, paths, "w1")
        for n in range(2):
            reservation = await reserve(ledger, 100)
            ledger.settle(reservation, 60, estimated=False)
            assert len(written) == 2 * n + 1
            ledger.record_usage(APP, "x", usage(), Cost(60, True, ""), saved=False, now_s=NOW_S)
            assert len(written) == 2 * n + 2
        released = await reserve(ledger, 100)
        ledger.settle(released, 0, estimated=False)
        assert [json.loads(line)["t"] for line in b"".join(written).splitlines()] == [
            *("intent", "settle", "note") * 2,
            *("intent", "settle"),
        ]
        cut = await reserve(ledger, 100)
        ledger.settle(cut, 60, estimated=False)
        ledger._journal.close(remove=False)
        await reconcile(paths.journal_dir, store, "w1")
        assert await store.spend("a", period=DAY) == 60 + 60 + 0 + 100
        row, lost = await store.usage(since=DAY, until=DAY, app="a")
        assert sorted(each["requests"] for each in (row, lost)) == [1, 2]

    asyncio.run(scenario())


@given(room=st.integers(0, 700), torn=st.booleans())
def test_what_a_full_disk_took_is_not_written_again(room: int, torn: bool) -> None:
    lines: list[tuple[str, dict[str, Any]]] = [
        ("note", {"app": "a", "day": DAY, "month": MONTH, "row": {"app": "a", "day": DAY, "requests": 1}})
        for _ in range(5)
    ]
    real_write = os.write
    left = [10**6]

    def write(fd: int, data: bytes) -> int:
        part = data[: left[0]]
        if not part:
            raise OSError(28, "No space left on device")
        left[0] -= len(part)
        return real_write(fd, part)

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="egj-") as directory:
        patch.setattr(journal_module.os, "write", write)
        journal = journal_module.Journal(Path(directory) / "journal", "w1")
        if torn:
            left[0] = 7
            with pytest.raises(OSError, match="No space"):
                journal.append("done", entry="x")
        left[0] = room
        with contextlib.suppress(OSError):
            del lines[: journal.append_all(lines)]
        left[0] = 10**6
        if lines:
            assert journal.append_all(lines) == len(lines)
        replay = journal_module.read(Path(directory) / "journal" / "w1.jsonl")
        (row,) = replay.tally(KEY).rows.values()
        assert row["requests"] == 5
        assert replay.damaged <= 2
        journal.close(remove=True)


def test_compaction_keeps_what_is_open(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 2000)

    async def scenario() -> None:
        store = Flaky()
        ledger = Ledger(store, paths, "w1")
        app = policy(daily_usd_nanos=10**6, monthly_usd_nanos=None)
        kept = await reserve(ledger, 33, app)
        for _ in range(30):
            ledger.settle(await reserve(ledger, 10, app), 4, estimated=False)
            await ledger.flush(NOW_S)
        file = paths.journal_dir / "w1.jsonl"
        assert file.stat().st_size < 3000
        ledger.settle(await reserve(ledger, 10, app), 4, estimated=False)
        ledger._compact()
        assert [json.loads(line)["t"] for line in file.read_bytes().splitlines()] == ["intent", "tally"]
        ledger._journal.close(remove=False)
        await reconcile(paths.journal_dir, store, "w1")
        assert await store.spend("a", period=DAY) == 31 * 4 + kept.usd_nanos
        assert await store.leased_by("w1") == {}

    asyncio.run(scenario())


def test_a_lost_grant_is_found_and_returned(paths: Paths) -> None:
    async def scenario() -> None:
        store = Flaky()
        ledger = Ledger(store, paths, "w1")
        store.lose_answers = True
        with pytest.raises(Denied, match="budget_unavailable"):
            await reserve(ledger, 400)
        assert (await store.leased_by("w1"))[KEY] == 400
        store.lose_answers = False
        held = await reserve(ledger, 300, now_s=NOW_S + REFUSAL_S)
        await ledger.flush(NOW_S)
        assert (await store.leased_by("w1"))[KEY] == 300
        ledger.settle(held, 0, estimated=False)
        await ledger.aclose(NOW_S)
        assert await store.leased_by("w1") == {}

    asyncio.run(scenario())


def test_the_leases_of_many_apps_are_repaired_one_by_one(paths: Paths, valkey: str) -> None:
    """After an outage the store is asked about each lease, not for each lease about all."""

    async def scenario(_store: Store) -> None:
        asked: list[str] = []

        class Watched(RedisBudgetStore):
            async def leased(self, app: str, **which: Any) -> int:
                asked.append(app)
                return int(await super().leased(app, **which))

            async def leased_by(self, holder: str) -> Any:
                raise AssertionError(holder)

        link = RedisLink(valkey)
        ledger = Ledger(Watched(link), paths, "w1")
        for n in range(20):
            await reserve(ledger, 10, policy(f"a{n}"))
        for lease in ledger._leases.of.values():
            lease.repairs = 1
        await ledger.flush(NOW_S)
        assert sorted(asked) == sorted(f"a{n}" for n in range(20))
        await link.aclose()

    over(valkey, scenario)


def test_a_client_that_leaves_while_the_store_is_asked_leaks_nothing(paths: Paths) -> None:
    async def scenario() -> None:
        class Slow(MemoryBudgetStore):
            async def lease(self, app: str, **wanted: Any) -> Grant:
                grant = await super().lease(app, **wanted)
                await asyncio.sleep(0.05)
                return grant

        store = Slow()
        ledger = Ledger(store, paths, "w1")
        task = asyncio.ensure_future(reserve(ledger, 400))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ledger.flush(NOW_S)
        assert await store.leased_by("w1") == {}
        assert (await reserve(ledger, 1000)).usd_nanos == 1000
        await ledger.aclose(NOW_S)

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(8))
def test_fifty_reservers_over_four_workers_never_exceed_the_limits(paths: Paths, store_url: str, seed: int) -> None:
    """Against a model: at each grant, what is reserved and what was spent stays within both limits."""
    chance = random.Random(seed)
    day_limit, month_limit = chance.choice([(1000, 3000), (3000, 1000), (997, None), (None, 1500)])  # type: ignore[misc]
    app = replace(APP, budget=BudgetPolicy(day_limit, month_limit))
    limit = min(value for value in (day_limit, month_limit) if value is not None)

    async def scenario(store: Store) -> None:
        ledgers = [Ledger(store.budget, paths, f"w{n}") for n in range(4)]
        held = spent = granted = 0
        refusals: set[str] = set()

        async def client(n: int) -> None:
            nonlocal held, spent, granted
            for round_ in range(6):
                ledger, amount = ledgers[(n + round_) % 4], chance.randint(1, 60)
                try:
                    reservation = await reserve(ledger, amount, app, NOW_S + round_ * 2)
                except Denied as denied:
                    refusals.add(denied.code)
                    continue
                held, granted = held + amount, granted + 1
                assert held + spent <= limit
                await asyncio.sleep(0)
                cost = chance.randint(0, amount)
                ledger.settle(reservation, cost, estimated=False)
                held, spent = held - amount, spent + cost
                if chance.random() < 0.5:
                    await ledger.flush(NOW_S + round_ * 2)

        await asyncio.gather(*(client(n) for n in range(50)))
        for ledger in ledgers:
            await ledger.aclose(NOW_S)
        assert await store.budget.spend("a", period=DAY) == await store.budget.spend("a", period=MONTH) == spent
        assert refusals == {"budget_exceeded"}
        assert spent > limit * 0.8
        assert granted > 10
        for n in range(4):
            assert await store.budget.leased_by(f"w{n}") == {}

    over(store_url, scenario)


def test_apps_without_a_budget_never_ask_the_store(paths: Paths) -> None:
    async def scenario() -> None:
        store = Flaky()
        store.down = True
        ledger = Ledger(store, paths, "w1")
        for app in (replace(APP, budget=None), policy(daily_usd_nanos=None, monthly_usd_nanos=None)):
            reservation = ledger.reserve(app, 10, "x", NOW_S)
            assert isinstance(reservation, Reservation)
            ledger.settle(reservation, 10, estimated=True, metered=False)
        store.down = False
        await ledger.aclose(NOW_S)
        assert await store.spend("a", period=DAY) == 20
        row = (await store.usage(since=DAY, until=DAY, app="a"))[0]
        assert (row["requests"], row["estimated"], row["cost_usd_nanos"]) == (2, 2, 20)

    asyncio.run(scenario())


def test_one_apps_damaged_key_does_not_hold_up_the_others(paths: Paths, valkey: str) -> None:
    async def scenario(store: Store) -> None:
        link = RedisLink(valkey)
        ledger = Ledger(store.budget, paths, "w1")
        for name in "abcdef":
            ledger.settle(await reserve(ledger, 10, policy(name)), 7, estimated=False)
        for nonsense in ("nonsense", "1.5", "99999999999999999999", "inf", ""):
            await link.run("SET", "egress:{a:c}:spend:2026-11", nonsense)
            with pytest.raises(StoreUnavailable):
                await ledger.flush(NOW_S)
        assert [await store.budget.spend(name, period=MONTH) for name in "abdef"] == [7] * 5
        await link.run("DEL", "egress:{a:c}:spend:2026-11")
        await ledger.aclose(NOW_S)
        assert await store.budget.spend("c", period=MONTH) == 7
        await link.aclose()

    over(valkey, scenario)


def test_one_apps_damaged_key_does_not_keep_the_others_leases_low(paths: Paths, valkey: str) -> None:
    async def scenario(store: Store) -> None:
        link = RedisLink(valkey)
        apps = {name: policy(name, daily_usd_nanos=10**6, monthly_usd_nanos=None) for name in "ab"}
        ledger = Ledger(store.budget, paths, "w1", apps=lambda: apps, clock=lambda: NOW_S)
        ledger.settle(await reserve(ledger, 10, apps["a"]), 7, estimated=False)
        await link.run("SET", "egress:{a:a}:spend:2026-11", "nonsense")
        await reserve(ledger, 10, apps["b"])
        # The first look tells what is left, the second takes its part.
        for _ in range(2):
            await ledger._round(None, None)
            assert ledger.store_fault
        assert ledger._leases.of["b", DAY, MONTH].available >= 10
        await link.run("DEL", "egress:{a:a}:spend:2026-11")
        await ledger.aclose(NOW_S)
        await link.aclose()

    over(valkey, scenario)


def test_the_journal_stays_small_while_the_store_is_away(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 2000)

    async def scenario() -> None:
        store = Flaky()
        store.down = True
        ledger = Ledger(store, paths, "w1")
        for _ in range(50):
            ledger.record_usage(APP, "x", usage(), Cost(2, True, ""), saved=False, now_s=NOW_S)
            with pytest.raises(StoreUnavailable):
                await ledger.flush(NOW_S)
        assert (paths.journal_dir / "w1.jsonl").stat().st_size < 4000
        ledger._journal.close(remove=False)
        store.down = False
        await reconcile(paths.journal_dir, store, "w1")
        rows = await store.usage(since=DAY, until=DAY, app="a")
        assert [(row["requests"], row["cost_usd_nanos"]) for row in rows] == [(50, 100)]

    asyncio.run(scenario())


def test_hostile_model_names_are_bounded_and_harmless(paths: Paths, store_url: str) -> None:
    async def scenario(store: Store) -> None:
        ledger = Ledger(store.budget, paths, "w1")
        names = ["\ud800\x00\n|", "x" * 10_000, *(f"m{n}" for n in range(500))]
        for name in names:
            ledger.record_usage(APP, "x", usage(name), Cost(1, True, ""), saved=False, now_s=NOW_S)
        await ledger.aclose(NOW_S)
        rows = {row["model"]: row["requests"] for row in await store.budget.usage(since=DAY, until=DAY, app="a")}
        assert len(rows) == MODELS_PER_APP + 1
        assert sum(rows.values()) == len(names)
        assert rows["???|"] == rows["x" * MODEL_CHARACTERS] == 1

    over(store_url, scenario)


def test_the_calls_of_two_seconds_are_one_batch(paths: Paths) -> None:
    class Counting(MemoryBudgetStore):
        settled = 0

        async def settle(self, app: str, **entry: Any) -> None:
            self.settled += 1
            await super().settle(app, **entry)

    async def scenario() -> None:
        store = Counting()
        ledger = Ledger(store, paths, "w1")
        app = policy(daily_usd_nanos=10**6, monthly_usd_nanos=None)
        for n in range(41):
            ledger.settle(await reserve(ledger, 10, app, NOW_S + n / 4), 10, estimated=False)
            await ledger.flush(NOW_S + n / 4, patient=True)
            # The first at once, and then every two seconds.
            assert store.settled == 1 + n // 8
        assert await store.spend("a", period=DAY) == 410
        # A clock that is set back holds nothing up.
        ledger.settle(await reserve(ledger, 10, app), 10, estimated=False)
        await ledger.flush(NOW_S - 100, patient=True)
        assert await store.spend("a", period=DAY) == 420
        # Where money is scarce others wait for it.
        tight = policy("b", daily_usd_nanos=50, monthly_usd_nanos=None)
        for n in range(5):
            ledger.settle(await reserve(ledger, 10, tight), 10, estimated=False)
            await ledger.flush(NOW_S, patient=True)
            assert await store.spend("b", period=DAY) == 10 * (n + 1)
        await ledger.aclose(NOW_S)

    asyncio.run(scenario())


def test_after_a_first_call_the_next_need_not_ask(paths: Paths) -> None:
    """`run` tops its lease up at once."""

    async def scenario() -> None:
        app = policy(daily_usd_nanos=10**6, monthly_usd_nanos=None)
        ledger = Ledger(MemoryBudgetStore(), paths, "w1", apps=lambda: {"a": app}, clock=lambda: NOW_S)
        task = asyncio.create_task(ledger.run())
        first = await reserve(ledger, 100, app)
        await until(lambda: ledger._leases.of[KEY].available >= 100)
        second = ledger.reserve(app, 100, "x", NOW_S)
        assert isinstance(second, Reservation)
        for reservation in (first, second):
            ledger.settle(reservation, 100, estimated=False)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ledger.aclose(NOW_S)

    asyncio.run(scenario())


def test_run_flushes_by_itself(paths: Paths) -> None:
    async def scenario() -> None:
        store = MemoryBudgetStore()
        ledger = Ledger(store, paths, "w1", clock=lambda: NOW_S)
        task = asyncio.create_task(ledger.run())
        ledger.settle(await reserve(ledger, 900), 100, estimated=False)
        await until(lambda: store._spend["a", DAY] == 100 and not any(store._leases.values()))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ledger.aclose(NOW_S)

    asyncio.run(scenario())
