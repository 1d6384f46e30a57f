"""Stops of this machine: an order is never lost, forgotten too early, or taken over by an older one."""

import asyncio
import time
from pathlib import Path

import pytest

from proxy.dataplane.watcher import ConfigWatcher
from proxy.paths import Paths
from proxy.stores.memory import MemoryConfigStore
from proxy.stores.orders import AHEAD_S, Sealer, stopped
from proxy.stores.stops import Stops, StopsFile, deliver

FACTS = {"reason": "r"}
SEED = b"s" * 32
SEALER = Sealer(SEED)
UNTIL_S = {"t": 2e9}


def test_orders_lie_over_what_the_store_says(paths: Paths) -> None:
    stops = StopsFile(paths.last_good)
    assert stops.read() == Stops()
    stops.learn({"a": FACTS, "b": FACTS}, UNTIL_S, 4)
    stops.order("a", None)
    stops.order("c", FACTS)
    found = StopsFile(paths.last_good).read()
    assert found.effective == {"b": FACTS, "c": FACTS}
    assert (found.revoked, found.epoch) == (UNTIL_S, 4)
    stops.learn({"a": FACTS}, {}, 5)
    assert stops.read().effective == {"c": FACTS}


def test_an_order_that_changed_while_it_was_delivered_is_delivered_again(paths: Paths) -> None:
    stops = StopsFile(paths.last_good)

    class Slow(MemoryConfigStore):
        async def set_kill(self, app: str, facts: object) -> None:
            await super().set_kill(app, facts)  # type: ignore[arg-type]
            if "reason" in facts:  # type: ignore[operator]  # an order to stop
                StopsFile(paths.last_good).order("a", None)

    async def scenario() -> None:
        store = Slow()
        stops.order("a", FACTS)
        await deliver(stops, store, SEALER, 1.0)
        assert stops.read().pending == {"a": None}
        await deliver(stops, store, SEALER, 1.0)
        assert stops.read().pending == {}
        assert stopped(await store.kills()) == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("facts", [FACTS, None])
def test_other_workers_keep_to_an_order_between_its_delivery_and_their_next_look(
    paths: Paths, facts: dict[str, str] | None
) -> None:
    """Delivered means: gone from the file's orders. A worker that has not asked the store since must not fall back."""

    async def scenario() -> None:
        store = MemoryConfigStore()
        if facts is None:
            await store.set_kill("a", FACTS)
        worker = ConfigWatcher(store, paths, manifest_seed=SEED)
        await worker.refresh()
        stops = StopsFile(paths.last_good)
        stops.order("a", facts)
        worker.read_stops()
        assert ("a" in worker.kills) == (facts is not None)
        await deliver(stops, store, SEALER, 1.0)
        worker.read_stops()
        assert ("a" in worker.kills) == (facts is not None)
        await worker.refresh()
        assert ("a" in worker.kills) == (facts is not None)

    asyncio.run(scenario())


def test_an_order_that_another_process_delivers_during_a_look_is_not_forgotten(paths: Paths) -> None:
    class Busy(MemoryConfigStore):
        async def revoked_tokens(self) -> frozenset[str]:
            if known:
                known.clear()
                stops.order("a", FACTS)
                await deliver(stops, self, SEALER, 1.0)
                worker.read_stops()
            return await super().revoked_tokens()

    stops, store, known = StopsFile(paths.last_good), Busy(), []
    worker = ConfigWatcher(store, paths, manifest_seed=SEED)

    async def scenario() -> None:
        await store.set_kill("lost", SEALER.sealed("lost", FACTS, after=None, now_s=1.0))
        await worker.refresh()
        known.append("lost")
        await MemoryConfigStore.set_kill(store, "lost", None)
        await worker.refresh()
        assert set(worker.kills) == {"lost", "a"}
        assert set(stops.read().effective) == {"lost", "a"}

    asyncio.run(scenario())


@pytest.mark.parametrize("poisoned", [False, True])
def test_a_stop_from_a_machine_that_never_heard_the_lift_holds(tmp_path: Path, poisoned: bool) -> None:
    """`poisoned`: the lift answered an unsealed stop with a number of its writer's choice. Otherwise the clock of the
    machine that lifts is a little fast."""

    async def scenario() -> None:
        store = MemoryConfigStore()
        await store.set_kill("a", FACTS | {"number": 10**18} if poisoned else FACTS)
        one, two = (Paths(tmp_path / name) for name in ("one", "two"))
        clock_s = [time.time() + (0 if poisoned else AHEAD_S / 2)]
        worker = ConfigWatcher(store, one, manifest_seed=SEED, clock=lambda: clock_s[0])
        await worker.refresh()
        StopsFile(one.last_good).order("a", None)
        worker.read_stops()
        await worker.refresh()
        worker.read_stops()
        await worker.refresh()
        assert not worker.kills
        StopsFile(two.last_good).order("a", FACTS)
        await deliver(StopsFile(two.last_good), store, SEALER, time.time())
        await worker.refresh()
        assert set(worker.kills) == {"a"}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"kills": 1}', b'{"kills": {"a": 1}, "revoked": [], "pending": {}}']
)
def test_a_damaged_file_stops_everything(paths: Paths, raw: bytes) -> None:
    stops = StopsFile(paths.last_good)
    stops.order("a", FACTS)
    (paths.last_good / "stops.json").write_bytes(raw)
    assert set(stops.read().effective) == {"*"}
    stops.learn({}, {}, 1)
    assert stops.read().effective == {}
