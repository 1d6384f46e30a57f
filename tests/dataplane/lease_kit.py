"""Ledgers over one store that can fail, under a clock that only the test moves on."""

import asyncio
from typing import Any

from proxy.config.snapshot import AppPolicy
from proxy.dataplane.leases import Lease
from proxy.dataplane.ledger import Ledger
from proxy.model import Reservation
from proxy.paths import Paths
from proxy.stores.ports import Grant, StoreUnavailable
from tests.dataplane.test_ledger import DAY, NOW_S, Flaky, policy, reserve

TICK_S = 0.25
AMPLE = policy(daily_usd_nanos=10**12, monthly_usd_nanos=None)


class Counted(Flaky):
    """Knows how often it was asked for a lease; `broken`: an app whose lease is refused."""

    leases = 0
    broken = ""

    async def lease(self, app: str, **wanted: Any) -> Grant:
        self.leases += 1
        return await super().lease(app, **wanted)


class Rig:
    """Workers over one store, under a clock that only `tick` moves on."""

    def __init__(self, paths: Paths, store: Any = None, *apps: AppPolicy) -> None:
        self.paths = paths
        self.store = store or Counted()
        self.now_s = NOW_S
        self.apps = {app.app: app for app in apps or (AMPLE,)}

    def worker(self, name: str) -> Ledger:
        return Ledger(self.store, self.paths, name, apps=lambda: self.apps, clock=lambda: self.now_s)

    async def tick(self, *workers: Ledger, seconds: float = TICK_S) -> None:
        """As `Ledger.run` does."""
        self.now_s += seconds
        for worker in workers:
            try:
                await worker.flush(self.now_s)
                await worker.top_up(self.now_s)
            except StoreUnavailable:
                assert self.store.down or self.store.lose_answers

    async def call(self, worker: Ledger, usd: int, cost: int, app: AppPolicy = AMPLE) -> None:
        worker.settle(await reserve(worker, usd, app, self.now_s), cost, estimated=False)

    def at_hand(self, worker: Ledger, usd: int, app: AppPolicy = AMPLE) -> bool:
        """Whether a request of `usd` is served without the store; it costs nothing."""
        found = worker.reserve(app, usd, "x", self.now_s)
        if isinstance(found, Reservation):
            worker.settle(found, 0, estimated=False)
            return True
        if asyncio.iscoroutine(found):
            found.close()
        return False


def lease_of(worker: Ledger, day: str = DAY) -> Lease:
    return worker._leases.of["a", day, day[:7]]
