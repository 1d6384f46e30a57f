"""Money against a model: whatever happens, the limit holds and nothing is lost."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.dataplane.ledger import Ledger, reconcile
from proxy.errors import Denied
from proxy.model import Reservation
from proxy.paths import Paths
from tests.dataplane.lease_kit import Rig
from tests.dataplane.test_ledger import DAY, policy, reserve

_WORKERS = 3
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(0, 2), st.integers(1, 400), st.integers(0, 450)),
        st.tuples(st.just("hold"), st.integers(0, 2), st.integers(1, 400)),
        st.tuples(st.just("let_go"), st.integers(0, 9), st.integers(0, 400)),
        st.tuples(st.just("tick"), st.sampled_from([0.25, 3.0, 11.0, 130.0])),
        st.tuples(st.just("store"), st.sampled_from(["up", "down", "forgetful"])),
        st.tuples(st.just("crash"), st.integers(0, 2)),
        st.tuples(st.just("limit_to"), st.integers(100, 60_000)),
    ),
    min_size=5,
    max_size=60,
)


class Model:
    """Three workers of an app. `over`: what calls cost beyond what was reserved for them, which no limit stops."""

    def __init__(self, paths: Paths, limit: int) -> None:
        self.limit = self.highest = limit
        self.app = policy(daily_usd_nanos=limit, monthly_usd_nanos=None)
        self.rig = Rig(paths, None, self.app)
        self.workers = [self.rig.worker(f"w{n}.0") for n in range(_WORKERS)]
        self.births = 0
        self.held: list[tuple[Ledger, Reservation]] = []
        self.spent = self.over = 0

    async def hold(self, slot: int, usd: int) -> bool:
        worker = self.workers[slot]
        try:
            reservation = await reserve(worker, usd, self.app, self.rig.now_s)
        except Denied:
            return False
        self.held.append((worker, reservation))
        assert self.spent - self.over + sum(each.usd_nanos for _, each in self.held) <= self.limit
        return True

    async def let_go(self, which: int, cost: int) -> None:
        if self.held:
            worker, reservation = self.held.pop(which % len(self.held))
            worker.settle(reservation, cost, estimated=False, metered=False)
            self.spent += cost
            self.over += max(0, cost - reservation.usd_nanos)

    async def call(self, slot: int, usd: int, cost: int) -> None:
        if await self.hold(slot, usd):
            await self.let_go(-1, cost)

    async def tick(self, seconds: float) -> None:
        await self.rig.tick(*self.workers, seconds=seconds)

    async def store(self, state: str) -> None:
        self.rig.store.down, self.rig.store.lose_answers = state == "down", state == "forgetful"

    async def limit_to(self, limit: int) -> None:
        """Lowers it. Raised and lowered again within a second, a worker may not have heard of either."""
        if limit < self.limit:
            self.limit = limit
            self.app = policy(daily_usd_nanos=limit, monthly_usd_nanos=None)
            self.rig.apps = {"a": self.app}

    async def crash(self, slot: int) -> None:
        """kill -9, and what the supervisor does then."""
        if self.rig.store.down or self.rig.store.lose_answers:
            return
        dead = self.workers[slot]
        dead._journal.close(remove=False)
        await reconcile(self.rig.paths.journal_dir, self.rig.store, dead.holder)
        self.spent += sum(each.usd_nanos for worker, each in self.held if worker is dead)
        self.held = [(worker, each) for worker, each in self.held if worker is not dead]
        self.births += 1
        self.workers[slot] = self.rig.worker(f"w{slot}.{self.births}")
        await self.workers[slot].prepare(5)

    def check(self) -> None:
        store = self.rig.store
        assert store._spend["a", DAY] - self.over + store._leased["a", DAY] <= self.highest

    async def end(self) -> None:
        """All calls end, and all workers stop."""
        await self.store("up")
        while self.held:
            await self.let_go(-1, self.held[-1][1].usd_nanos)
        for _ in range(4):
            await self.tick(3.0)
        for worker in self.workers:
            await worker.aclose(self.rig.now_s)
        booked = sum(amount for (_, period), amount in self.rig.store._spend.items() if len(period) > len("2026-11"))
        assert booked == self.spent
        assert not any(self.rig.store._leases.values())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(500, 60_000), steps=_STEPS)
def test_whatever_happens_the_limit_holds_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, limit: int, steps: list[tuple[Any, ...]]
) -> None:
    """Outages, lost answers, crashes, lowered limits. Reserved and spent never pass the limit (what calls cost beyond
    their reservation aside); in the end all that was spent is booked, and nothing is leased."""

    async def scenario() -> None:
        model = Model(Paths(Path(tmp_path_factory.mktemp("state"))), limit)
        for kind, *facts in steps:
            await getattr(model, kind)(*facts)
            model.check()
        await model.end()

    asyncio.run(scenario())
