"""One worker's money: leases slices of the apps' budgets, reserves from them without a round trip, settles behind the
answer, and keeps a journal so that kill -9 loses nothing.

Conserved at all times, per (app, day, month): what the store holds as leased by us = available + reserved + spent but
not yet sent. Overspend (a call that cost more than was reserved for it, beyond what the lease still had) is sent as
plain spend under the holder `HOLDER/over`, which never has a lease: it must not eat the cover of other reservations.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Set
from typing import Any, Final

from proxy.budget import Periods, periods
from proxy.config.snapshot import AppPolicy, BudgetPolicy
from proxy.dataplane.journal import Journal, Key, Tally
from proxy.dataplane.leases import IDLE_S, Apps, Lease, Leases, is_limited, is_of_one_key, one_by_one, remembered
from proxy.dataplane.pace_file import PaceFile
from proxy.dataplane.reconcile import reconcile, reconcile_all
from proxy.dataplane.settlement import Models, Opened, send_batch, usage_row
from proxy.errors import Denied
from proxy.model import Cost, Reservation, Usage
from proxy.paths import Paths
from proxy.stores.faults import StoreFault
from proxy.stores.ports import BudgetStore, StoreUnavailable

__all__ = ["Ledger", "reconcile", "reconcile_all"]

FLUSH_S: Final = 0.25
# A batch costs some 0.2 ms here and 0.1 ms in the store, however many calls are in it. A single call is sent at once.
SEND_EVERY_S: Final = 2.0
# A lease lasts for many seconds.
TOP_UP_ROUNDS: Final = 4
# How soon a store that was away is asked again for a worker's first leases.
RETRY_S: Final = 0.1
# While the disk is full, lines wait in memory. Settles are few (reserving is refused); usage of calls without budget
# is not: beyond this number it is kept only in the sums, which a crash would lose.
BACKLOG_LINES: Final = 10_000

NO_BUDGET: Final = BudgetPolicy(None, None)


class Ledger:
    """`reserve`, `settle` and `note` are for the event loop's thread. `run` flushes behind them until cancelled; then
    `aclose`. `holder` names this worker's life and is never used again, so that a dead worker's leases are never taken
    for a living one's. `apps`: of the policy in force; leases are topped up for these only. Raises
    proxy.dataplane.journal.Busy when another process uses it."""

    def __init__(
        self,
        store: BudgetStore,
        paths: Paths,
        holder: str,
        *,
        apps: Apps = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.holder = holder
        self.overspent_usd_nanos = 0
        self.store_fault = ""
        self._store = store
        self._clock = clock
        self._journal = Journal(paths.journal_dir, holder)
        self._backlog: list[tuple[str, dict[str, Any]]] = []
        self._leases = Leases(store, holder, apps)
        self._pace_file = PaceFile(paths.pace_dir, holder)
        self._open: dict[str, Opened] = {}
        self._tallies: defaultdict[Key, Tally] = defaultdict(Tally)
        self._batches: dict[Key, dict[str, Any]] = {}
        self._models = Models()
        self._entries = 0
        self._serial = 0
        self._flushing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._urgent: set[Key] = set()
        self._sent_s: dict[Key, float] = {}

    # --- the hot path -------------------------------------------------------------------------------------------

    def reserve(
        self, app: AppPolicy, usd_nanos: int, exchange_id: str, now_s: float
    ) -> Reservation | Awaitable[Reservation]:
        """A Reservation at once when the local lease covers it, else an awaitable that asks the store.

        Denied budget_exceeded (with `retry_after_s`) or budget_unavailable, at once or from the awaitable.
        """
        if usd_nanos < 0:
            raise ValueError("a reservation is not negative")
        budget = app.budget or NO_BUDGET
        at = periods(now_s, budget.time_zone)
        key = (app.app, at.day, at.month)
        if not is_limited(budget):
            return self._grant(app, key, usd_nanos, exchange_id, held=False)
        lease = self._leases.of[key]
        lease.touched_s = now_s
        if lease.available >= usd_nanos and lease.budget is budget:
            return self._take(app, key, lease, usd_nanos, exchange_id)
        return self._acquire(app, budget, at, usd_nanos, exchange_id, now_s)

    def settle(self, reservation: Reservation, usd_nanos: int, *, estimated: bool, metered: bool = True) -> None:
        """Replaces the reservation by what was spent; the second time for one reservation does nothing.

        The call itself is counted by `record_usage`; `metered` False: it will not be (the exchange broke off), so that
        it is counted here. Never raises for a store or disk that is away.
        """
        opened = self._open.pop(reservation.id, None)
        if opened is None:
            return
        spent, over = self._release(opened, max(usd_nanos, 0))
        row = None if metered or not usd_nanos else opened.row(usd_nanos, estimated=estimated)
        tally = self._tallies[opened.key]
        tally.spent += spent
        tally.over += over
        tally.add(row)
        line = {"id": reservation.id, "spent": spent, "over": over, "row": row}
        # A metered call's usage comes next: both lines are one write, and a crash finds both or neither.
        self._write("settle", line, more=metered and usd_nanos > 0)

    def record_usage(
        self, app: AppPolicy, exchange_id: str, usage: Usage, cost: Cost, *, saved: bool, now_s: float
    ) -> None:
        """Counts one call for the usage report. `saved`: a cache hit, `cost` is what it would have cost.

        Never raises for a store or disk that is away. `exchange_id` stands in the journal only.
        """
        at = periods(now_s, (app.budget or NO_BUDGET).time_zone)
        key = (app.app, at.day, at.month)
        model = self._models.label(app.app, at.day, usage.response_model or usage.request_model)
        row = usage_row(app, at.day, model, usage, cost, saved=saved)
        self._tallies[key].add(row)
        self._write("note", {"id": exchange_id, "app": key[0], "day": key[1], "month": key[2], "row": row})

    @property
    def open_count(self) -> int:
        return len(self._open)

    def _take(self, app: AppPolicy, key: Key, lease: Lease, usd_nanos: int, exchange_id: str) -> Reservation:
        reservation = self._grant(app, key, usd_nanos, exchange_id, held=True, generation=lease.generation)
        lease.available -= usd_nanos
        lease.reserved += usd_nanos
        lease.need = usd_nanos
        if lease.reserved > lease.peak:
            lease.peak = lease.reserved
        return reservation

    def _grant(
        self, app: AppPolicy, key: Key, usd_nanos: int, exchange_id: str, *, held: bool, generation: int = 0
    ) -> Reservation:
        """Journal first: what is not on disk could be spent and forgotten."""
        self._serial += 1
        opened = Opened(key, usd_nanos, held, app.owner, app.cost_center, generation)
        reservation = Reservation(f"{exchange_id}.{self._serial}", app.app, usd_nanos, key[1], key[2])
        try:
            self._drain_backlog()
            self._journal.append("intent", **opened.line(reservation.id))
        except OSError:
            raise Denied("budget_unavailable", "the budget journal cannot be written", retry_after_s=5) from None
        self._open[reservation.id] = opened
        return reservation

    def _release(self, opened: Opened, usd_nanos: int) -> tuple[int, int]:
        """(spent from the lease, beyond it). What was reserved and not spent is available again."""
        if not opened.held:
            return 0, usd_nanos
        lease = self._leases.of[opened.key]
        spent = lease.release(opened.usd_nanos, usd_nanos, opened.generation)
        self.overspent_usd_nanos += usd_nanos - spent
        if lease.tight or lease.returning:
            self._hurry(opened.key)
        return spent, usd_nanos - spent

    def _hurry(self, key: Key) -> None:
        self._urgent.add(key)
        self._wake.set()

    # --- asking the store ---------------------------------------------------------------------------------------

    async def _acquire(
        self, app: AppPolicy, budget: BudgetPolicy, at: Periods, usd_nanos: int, exchange_id: str, now_s: float
    ) -> Reservation:
        key = (app.app, at.day, at.month)
        await self._give_way(budget, key, usd_nanos, now_s)
        lease = self._leases.of[key]
        async with lease.lock:
            lease.adopt(budget)
            if lease.returning:
                self._hurry(key)
            if lease.available >= usd_nanos:
                return self._take(app, key, lease, usd_nanos, exchange_id)
            denied = await self._leases.cover(budget, at, key, lease, usd_nanos, now_s)
            if denied is None:
                self._hurry(key)  # the next requests need not ask
                return self._take(app, key, lease, usd_nanos, exchange_id)
            if denied.code == "budget_exceeded" and self._returns(key, lease):
                lease.refusal = None
        mode = budget.on_exceeded if denied.code == "budget_exceeded" else budget.on_unavailable
        if mode == "deny":
            raise denied
        return self._grant(app, key, usd_nanos, exchange_id, held=False)

    async def _give_way(self, budget: BudgetPolicy, key: Key, usd_nanos: int, now_s: float) -> None:
        """What is on its way back counts as leased until the store has it: the request would be refused for it. Not
        under the lease's lock, which a flush may wait for; and the flush may forget the lease."""
        lease = self._leases.of[key]
        async with lease.lock:
            lease.adopt(budget)
        answered = lease.available >= usd_nanos or remembered(budget, lease, usd_nanos, now_s)
        if not answered and self._returns(key, lease):
            with contextlib.suppress(StoreUnavailable, OSError):
                await self.flush(now_s, {key})

    def _returns(self, key: Key, lease: Lease) -> bool:
        return bool(lease.returning or self._batches.get(key, {}).get("returned"))

    # --- behind the answer --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Flushes every quarter second, and at once what must not wait, until cancelled."""
        loop = asyncio.get_running_loop()
        rounds, due_s = 0, loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due_s):
                    await self._wake.wait()
            self._wake.clear()
            urgent, self._urgent = self._urgent, set()
            if loop.time() < due_s:
                await self._round(urgent, urgent)
            else:
                rounds, due_s = rounds + 1, loop.time() + FLUSH_S
                await self._round(None, urgent if rounds % TOP_UP_ROUNDS else None)

    async def _round(self, flushed: Set[Key] | None, topped_up: Set[Key] | None) -> None:
        """None: all keys."""
        fault = ""
        try:
            try:
                await self.flush(self._clock(), flushed, patient=True)
            except StoreFault as damaged:
                if not is_of_one_key(damaged):
                    raise
                fault = str(damaged)
            await self.top_up(self._clock(), topped_up)
        except StoreUnavailable as away:
            fault = str(away)
        except OSError as error:
            fault = f"budget journal: {error.strerror}"
        self.store_fault = fault

    async def prepare(self, wait_s: float) -> None:
        """Leases for the apps that were busy on this machine lately, so that their next request need not ask. Gives up
        after `wait_s`: with the store away, apps that need no lease are served."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while True:
                    now_s = self._clock()
                    with contextlib.suppress(StoreUnavailable, OSError):
                        await self.flush(now_s)
                    with contextlib.suppress(StoreUnavailable):
                        if await self._leases.prepare(self._pace_file.recent(now_s), now_s):
                            return
                    await asyncio.sleep(RETRY_S)

    async def top_up(self, now_s: float, keys: Set[Key] | None = None) -> None:
        """Asks for more where a lease runs low, and notes for a successor how busy which app is. Raises
        StoreUnavailable."""
        try:
            await self._leases.top_up(now_s, keys)
        finally:
            self._pace_file.write(self._leases.paces(now_s), now_s)

    async def flush(
        self, now_s: float, only: Set[Key] | None = None, *, patient: bool = False, closing: bool = False
    ) -> None:
        """Sends what was settled (`patient`: where nothing was sent lately) and gives back what is idle. Raises
        StoreUnavailable or OSError: nothing is lost, and the next flush sends the same entries again, which count
        once."""
        async with self._flushing:
            self._drain_backlog()
            if self._journal.wants_compaction:
                self._compact()
            keys = self._leases.of.keys() | self._tallies.keys() | self._batches.keys() if only is None else only
            await one_by_one(keys, lambda key: self._flush_key(key, now_s, patient=patient, closing=closing))
            if only is None:
                self._sent_s = {key: sent_s for key, sent_s in self._sent_s.items() if _is_recent(sent_s, now_s)}

    async def _flush_key(self, key: Key, now_s: float, *, patient: bool, closing: bool) -> None:
        if key in self._batches:
            await self._send(key)
        if self._seal(key, now_s, patient=patient, closing=closing):
            await self._send(key)
        await self._repair(key)
        self._forget(key, now_s)

    async def aclose(self, now_s: float | None = None) -> None:
        """Sends everything and returns all leases. What the store did not take, and reservations that are still open,
        stay in the journal for `reconcile`."""
        now_s = self._clock() if now_s is None else now_s
        self._pace_file.write(self._leases.paces(now_s), now_s, closing=True)
        try:
            await self.flush(now_s, closing=True)
        except (StoreUnavailable, OSError):
            self._journal.close(remove=False)
            return
        clean = not (self._open or self._batches or self._backlog or any(not t.empty for t in self._tallies.values()))
        self._journal.close(remove=clean)

    def _seal(self, key: Key, now_s: float, *, patient: bool, closing: bool) -> bool:
        """Makes a batch of what is due for `key`, in the journal first. False when nothing is due."""
        tally, lease = self._tallies.get(key, Tally()), self._leases.of.get(key)
        returned = lease.surplus(now_s, closing=closing) if lease is not None else 0
        waits = patient and _is_recent(self._sent_s.get(key), now_s) and not (lease is not None and lease.tight)
        if not returned and (tally.empty or waits):
            return False
        self._sent_s[key] = now_s
        self._entries += 1
        batch = {
            "entry": f"{self.holder}.{self._entries}",
            "series": f"{self.holder}.{key[1]}.{key[2]}",
            "number": self._entries,
            "app": key[0],
            "day": key[1],
            "month": key[2],
            "spent": tally.spent,
            "over": tally.over,
            "returned": returned,
            "rows": list(tally.rows.values()),
        }
        self._journal.append("batch", **batch)
        if lease is not None:
            lease.returned(returned)
        self._tallies.pop(key, None)
        self._batches[key] = batch
        return True

    async def _send(self, key: Key) -> None:
        batch = self._batches[key]
        await send_batch(self._store, self.holder, batch)
        del self._batches[key]
        self._write("done", {"entry": batch["entry"]})

    async def _repair(self, key: Key) -> None:
        """After a lost answer the store may hold more for us than we know (the grant was applied) or less (it lost its
        memory); both are put right."""
        lease = self._leases.of.get(key)
        if lease is None or not lease.repairs or lease.lock.locked():
            return
        async with lease.lock:
            held = await self._store.leased(key[0], day=key[1], month=key[2], holder=self.holder)
            known = lease.held + lease.returning + self._tallies.get(key, Tally()).spent
            if held > known:
                self._entries += 1
                surplus = {"spent": 0, "over": 0, "returned": held - known, "rows": []}
                identity = {"entry": f"{self.holder}.{self._entries}", "app": key[0], "day": key[1], "month": key[2]}
                await send_batch(self._store, self.holder, identity | surplus)
            lease.available -= min(lease.available, max(known - held, 0))
            lease.repairs -= 1

    def _forget(self, key: Key, now_s: float) -> None:
        lease = self._leases.of.get(key)
        if lease is None or lease.held or lease.returning or lease.repairs or lease.lock.locked():
            return
        if now_s - lease.touched_s > IDLE_S and key not in self._tallies and key not in self._batches:
            del self._leases.of[key]

    # --- journal ------------------------------------------------------------------------------------------------

    def _write(self, kind: str, facts: dict[str, Any], *, more: bool = False) -> None:
        """Keeps the order also when the disk is full: a batch line speaks for all lines before it. `more`: another line
        is about to follow."""
        if kind != "note" or len(self._backlog) < BACKLOG_LINES:
            self._backlog.append((kind, facts))
        if more:
            return
        try:
            self._drain_backlog()
        except OSError:
            return  # it waits in the backlog

    def _drain_backlog(self) -> None:
        if self._backlog:
            del self._backlog[: self._journal.append_all(self._backlog)]
        if self._backlog:
            raise OSError(28, "No space left on device")

    def _compact(self) -> None:
        lines: list[tuple[str, Mapping[str, Any]]] = [("batch", batch) for batch in self._batches.values()]
        lines += [("intent", opened.line(name)) for name, opened in self._open.items()]
        for (app, day, month), tally in self._tallies.items():
            facts = {"app": app, "day": day, "month": month, "spent": tally.spent, "over": tally.over}
            lines.append(("tally", facts | {"rows": list(tally.rows.values())}))
        self._journal.rewrite(lines)
        self._backlog.clear()


def _is_recent(sent_s: float | None, now_s: float) -> bool:
    """False for a time in the future too: the clock was set back since."""
    return sent_s is not None and 0 <= now_s - sent_s < SEND_EVERY_S
