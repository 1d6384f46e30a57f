"""What one worker has leased of the apps' budgets, and how it asks the store for more: behind the requests, before a
lease runs low, and in a request's way only when it asks for more than is there.

Leases follow what is left: each is asked about anew every REFRESH_S, and what is too much by then goes back.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from proxy.budget import Periods, is_tight, least_left, periods, shortage, slice_usd_nanos, usd
from proxy.config.snapshot import AppPolicy, BudgetPolicy
from proxy.dataplane.journal import Key
from proxy.errors import Denied
from proxy.pace import AHEAD_S, STANDBY_S, Pace, runs_low, standby_usd_nanos, target_usd_nanos
from proxy.stores.faults import StoreFault
from proxy.stores.ports import BudgetStore, Grant, StoreUnavailable

# Longer than the pauses inside a conversation's burst, short enough that others need not wait for our leftovers.
IDLE_S: Final = 2.0
# An app that hammers on an empty budget, or a store that is away, is answered from memory for this long.
REFUSAL_S: Final = 1.0
# A lease whose answer was lost may be applied late; it is looked for at this many flushes.
REPAIR_ROUNDS: Final = 3
# Other workers and machines spend too, and a policy may have another limit by now.
REFRESH_S: Final = 10.0
# Faults that one app's damaged key can cause: they must not hold up the money of all other apps.
_OF_ONE_KEY: Final = frozenset({"wrong_type", "refused", "garbage"})

type Apps = Callable[[], Mapping[str, AppPolicy]]
"""The apps of the policy in force."""


@dataclass(slots=True)
class Lease:
    """One (app, day, month). Held are `available` and `reserved`; `keep` of that should be held. `spent` and `peak`
    (the most that was reserved at once) count since the last look at the pace.

    `returning`: what was leased under a limit that has been lowered since; it goes back and is not used. `generation`
    counts such changes."""

    available: int = 0
    reserved: int = 0
    returning: int = 0
    generation: int = 0
    spent: int = 0
    peak: int = 0
    need: int = 0
    keep: int = 0
    left: int | None = None
    tight: bool = False
    touched_s: float = 0.0
    asked_s: float = 0.0
    repairs: int = 0
    budget: BudgetPolicy | None = None
    refusal: "Refusal | None" = None
    pace: Pace = field(default_factory=Pace)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def held(self) -> int:
        return self.available + self.reserved

    def surplus(self, now_s: float, *, closing: bool) -> int:
        """What should go back to the store now."""
        if self.lock.locked():
            return self.returning
        if closing or self.tight:
            return self.returning + self.available
        if now_s - self.touched_s <= IDLE_S and not (self.pace.settled and self.held > 2 * self.keep):
            return self.returning
        return self.returning + max(0, min(self.available, self.held - self.keep))

    def returned(self, usd_nanos: int) -> None:
        """Takes off what `surplus` has told."""
        self.available -= usd_nanos - self.returning
        self.returning = 0

    def adopt(self, budget: BudgetPolicy) -> None:
        """From now on the lease is for `budget`. The caller holds the lock, or awaits nothing meanwhile."""
        if self.budget is not None and is_lowered(self.budget, budget):
            self.returning += self.available
            self.available = 0
            self.generation += 1
        self.budget = budget

    def release(self, reserved: int, usd_nanos: int, generation: int) -> int:
        """Ends a reservation made in `generation`: how much of what it cost the lease covers."""
        self.reserved -= reserved
        if generation == self.generation:
            self.available += reserved
            spent = min(usd_nanos, self.available)
            self.available -= spent
        else:
            spent = min(usd_nanos, reserved)
            self.returning += reserved - spent
        self.spent += spent
        return spent


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the store said last. It holds for the budget it was asked about only: a policy that came since may have
    another limit."""

    until_s: float
    least_usd_nanos: int
    budget: BudgetPolicy
    denied: Denied


def is_of_one_key(fault: StoreFault) -> bool:
    """Whether only one app's data are at fault, and the store itself works."""
    return fault.reason in _OF_ONE_KEY


async def one_by_one(keys: Iterable[Key], work: Callable[[Key], Awaitable[None]]) -> None:
    """Does `work` for each key, also after one whose data are damaged. Raises the last such fault, or at once when the
    store itself is away."""
    damaged: StoreFault | None = None
    for key in keys:
        try:
            await work(key)
        except StoreFault as fault:
            if not is_of_one_key(fault):
                raise
            damaged = fault
    if damaged is not None:
        raise damaged


class Leases:
    """For the event loop's thread. Whoever takes from a lease while the store is asked finds it locked or unchanged."""

    def __init__(self, store: BudgetStore, holder: str, apps: Apps) -> None:
        self.of: defaultdict[Key, Lease] = defaultdict(Lease)
        self._store = store
        self._holder = holder
        self._apps = apps

    # --- in a request's way -------------------------------------------------------------------------------------

    async def cover(
        self, budget: BudgetPolicy, at: Periods, key: Key, lease: Lease, usd_nanos: int, now_s: float
    ) -> Denied | None:
        """Has `lease`, whose lock the caller holds, cover `usd_nanos`, or says why not."""
        return remembered(budget, lease, usd_nanos, now_s) or await self._extend(
            budget, at, key, lease, usd_nanos, now_s
        )

    async def _extend(
        self, budget: BudgetPolicy, at: Periods, key: Key, lease: Lease, usd_nanos: int, now_s: float
    ) -> Denied | None:
        """What is available is set aside while the store is asked, so that nobody takes it from under this request."""
        aside, lease.available, lease.need = lease.available, 0, usd_nanos
        least = usd_nanos - aside
        # By what a request costs, not by what is missing of it, which may be a nano-dollar.
        want = max(least, slice_usd_nanos(usd_nanos, lease.left))
        try:
            grant = await self._ask(key, lease, budget, now_s, want=want, least=least)
            if grant.granted_usd_nanos >= least:
                lease.refusal = None
                return None
            denied = await self._exceeded(budget, at, key[0], usd_nanos, now_s)
        except StoreUnavailable as fault:
            denied = Denied("budget_unavailable", str(fault), where=budget.at, retry_after_s=2)
        finally:
            lease.available += aside
        lease.refusal = Refusal(now_s + REFUSAL_S, usd_nanos, budget, denied)
        return denied

    async def _exceeded(self, budget: BudgetPolicy, at: Periods, app: str, usd_nanos: int, now_s: float) -> Denied:
        found = shortage(
            usd_nanos,
            day_limit=budget.daily_usd_nanos,
            month_limit=budget.monthly_usd_nanos,
            day_spent=await self._store.spend(app, period=at.day),
            month_spent=await self._store.spend(app, period=at.month),
            at=at,
            now_s=now_s,
        )
        rest = "requests in flight hold the rest" if found.held else f"{usd(found.spent_usd_nanos)} USD are spent"
        detail = (
            f"the {found.period} budget is {usd(found.limit_usd_nanos)} USD, {rest}, "
            f"and this request may cost {usd(usd_nanos)} USD"
        )
        return Denied("budget_exceeded", detail, where=budget.at, retry_after_s=found.retry_after_s)

    # --- behind the requests ------------------------------------------------------------------------------------

    async def prepare(self, paces: Mapping[str, Pace], now_s: float) -> bool:
        """Leases for apps that were busy lately, before their first request. False: not all of them could be asked for
        yet. Raises StoreUnavailable."""
        leases = []
        for app, pace in paces.items():
            budget = self._budget(app)
            if budget is not None:
                at = periods(now_s, budget.time_zone)
                lease = self.of.setdefault((app, at.day, at.month), Lease(pace=pace))
                lease.touched_s = max(lease.touched_s, now_s)
                leases.append(lease)
        # The first answer tells what is left, and the second look takes its part of it.
        await self.top_up(now_s)
        await self.top_up(now_s)
        return not any(lease.repairs or lease.left is None for lease in leases)

    async def top_up(self, now_s: float, only: Set[Key] | None = None) -> None:
        """Looks at each lease, or at some, and asks for more where it runs low. Raises StoreUnavailable."""
        if only is None:
            self._look_ahead(now_s)
        await one_by_one(list(self.of) if only is None else only, lambda key: self._top_up(key, now_s))

    def paces(self, now_s: float) -> dict[str, Pace]:
        """Of the apps that are busy here, for a worker that comes after."""
        return {key[0]: lease.pace for key, lease in self.of.items() if now_s - lease.touched_s <= STANDBY_S}

    async def _top_up(self, key: Key, now_s: float) -> None:
        lease = self.of.get(key)
        budget = self._plan(key, lease, now_s) if lease is not None else None
        if lease is None or budget is None or lease.tight or lease.repairs or lease.lock.locked():
            return
        known = lease.budget == budget and now_s - lease.asked_s < REFRESH_S
        if known and not runs_low(lease.held, lease.keep):
            return
        lease.adopt(budget)
        async with lease.lock:
            await self._ask(key, lease, budget, now_s, want=max(0, lease.keep - lease.held), least=0)
        self._plan(key, lease, now_s)

    def _plan(self, key: Key, lease: Lease, now_s: float) -> BudgetPolicy | None:
        """Sets what to keep. The budget, or None when nothing of it should be held here any more."""
        lease.pace.note(lease.spent, lease.peak, now_s)
        lease.spent, lease.peak = 0, lease.reserved
        budget = self._budget(key[0])
        idle_s = now_s - lease.touched_s
        if budget is None or idle_s > STANDBY_S or key not in _keys(key[0], budget, now_s):
            lease.keep = 0
            return None
        size = standby_usd_nanos if idle_s > IDLE_S else target_usd_nanos
        lease.keep = size(lease.pace, lease.left)
        return budget

    def _look_ahead(self, now_s: float) -> None:
        """Shortly before midnight the next day's leases are taken too: then all apps would ask at once."""
        for key, lease in list(self.of.items()):
            budget = self._budget(key[0])
            if budget is not None and now_s - lease.touched_s <= STANDBY_S:
                for coming in _keys(key[0], budget, now_s):
                    self.of.setdefault(coming, Lease(pace=lease.pace, touched_s=now_s))

    def _budget(self, app: str) -> BudgetPolicy | None:
        policy = self._apps().get(app)
        budget = policy.budget if policy is not None else None
        return budget if budget is not None and is_limited(budget) else None

    async def _ask(self, key: Key, lease: Lease, budget: BudgetPolicy, now_s: float, *, want: int, least: int) -> Grant:
        try:
            grant = await self._store.lease(
                key[0],
                day=key[1],
                month=key[2],
                want_usd_nanos=want,
                least_usd_nanos=least,
                day_limit=budget.daily_usd_nanos,
                month_limit=budget.monthly_usd_nanos,
                holder=self._holder,
            )
        except BaseException:
            lease.repairs = REPAIR_ROUNDS
            raise
        lease.available += grant.granted_usd_nanos
        lease.left = least_left(grant.day_left_usd_nanos, grant.month_left_usd_nanos)
        lease.tight = is_tight(lease.need, lease.left)
        lease.budget, lease.asked_s = budget, now_s
        return grant


def is_lowered(old: BudgetPolicy, new: BudgetPolicy) -> bool:
    """Whether a limit is lower than it was, so that what was leased may be more than is left."""
    limits = (old.daily_usd_nanos, new.daily_usd_nanos), (old.monthly_usd_nanos, new.monthly_usd_nanos)
    return any(after is not None and (before is None or after < before) for before, after in limits)


def is_limited(budget: BudgetPolicy) -> bool:
    """Whether there is anything to lease of."""
    return budget.daily_usd_nanos is not None or budget.monthly_usd_nanos is not None


def _keys(app: str, budget: BudgetPolicy, now_s: float) -> list[Key]:
    """The present period's, and the next one's when it is about to begin."""
    at = periods(now_s, budget.time_zone)
    found = [at] if at.day_ends_s - now_s > AHEAD_S else [at, periods(at.day_ends_s, budget.time_zone)]
    return [(app, each.day, each.month) for each in found]


def remembered(budget: BudgetPolicy, lease: Lease, usd_nanos: int, now_s: float) -> Denied | None:
    """The store's refusal of as much, a moment ago."""
    refusal = lease.refusal
    if refusal is None or refusal.budget != budget:
        return None
    if now_s >= refusal.until_s or usd_nanos < refusal.least_usd_nanos:
        return None
    denied = refusal.denied
    return Denied(denied.code, denied.detail, where=denied.where, retry_after_s=denied.retry_after_s)
