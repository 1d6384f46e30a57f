"""All three stores in this process's memory: for tests and single-process use. Same behaviour as Redis, same tests."""

import asyncio
import copy
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from proxy.stores.ports import Conflict, Grant
from proxy.stores.redis_budget import check_amounts
from proxy.stores.redis_cache import KEYS_PER_APP
from proxy.stores.redis_config import LOG_LIMIT
from proxy.stores.usage_rows import counters, days, field_name, row_from


class MemoryConfigStore:
    """See proxy.stores.ports.ConfigStore."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._revisions: dict[str, bytes] = {}
        self._log: list[bytes] = []
        self._seq = 0
        self._epoch = 0
        self._tokens: dict[str, tuple[float, dict[str, Any]]] = {}
        self._revoked: dict[str, float] = {}
        self._kills: dict[str, dict[str, Any]] = {}
        self._listeners: set[asyncio.Queue[None]] = set()

    async def put_revision(self, revision: str, content: bytes) -> None:
        self._revisions[revision] = content

    async def get_revision(self, revision: str) -> bytes | None:
        return self._revisions.get(revision)

    async def append_manifest(self, manifest: bytes, *, seq: int, expect_seq: int) -> None:
        if self._seq != expect_seq:
            raise Conflict(self._seq)
        self._seq = seq
        self._log = [manifest, *self._log[: LOG_LIMIT - 1]]
        self._touch()

    async def head_manifest(self) -> bytes | None:
        return self._log[0] if self._log else None

    async def manifests(self, limit: int) -> Sequence[bytes]:
        return self._log[: max(limit, 0)]

    async def epoch(self) -> int:
        return self._epoch

    async def changes(self) -> AsyncIterator[None]:
        queue: asyncio.Queue[None] = asyncio.Queue()
        self._listeners.add(queue)
        return self._iterate(queue)

    async def put_token(self, token_id: str, facts: Mapping[str, Any], *, ttl_s: int) -> None:
        self._tokens[token_id] = (self._clock() + ttl_s, copy.deepcopy(dict(facts)))

    async def tokens(self) -> Mapping[str, Mapping[str, Any]]:
        now_s = self._clock()
        return {name: copy.deepcopy(facts) for name, (end_s, facts) in self._tokens.items() if end_s > now_s}

    async def revoke_token(self, token_id: str, *, ttl_s: int) -> None:
        self._revoked[token_id] = self._clock() + ttl_s
        self._touch()

    async def revoked_tokens(self) -> frozenset[str]:
        now_s = self._clock()
        return frozenset(name for name, end_s in self._revoked.items() if end_s > now_s)

    async def set_kill(self, app: str, facts: Mapping[str, Any] | None) -> None:
        if facts is None:
            self._kills.pop(app, None)
        else:
            self._kills[app] = copy.deepcopy(dict(facts))
        self._touch()

    async def kills(self) -> Mapping[str, Mapping[str, Any]]:
        return copy.deepcopy(self._kills)

    def _touch(self) -> None:
        self._epoch += 1
        for queue in self._listeners:
            queue.put_nowait(None)

    async def _iterate(self, queue: asyncio.Queue[None]) -> AsyncIterator[None]:
        try:
            while True:
                await queue.get()
                yield None
        finally:
            self._listeners.discard(queue)


class MemoryBudgetStore:
    """See proxy.stores.ports.BudgetStore. Atomic because no method awaits."""

    def __init__(self) -> None:
        self._spend: dict[tuple[str, str], int] = defaultdict(int)
        self._leased: dict[tuple[str, str], int] = defaultdict(int)
        self._leases: dict[tuple[str, str, str, str], int] = defaultdict(int)
        self._done: dict[tuple[str, str], int] = {}
        self._usage: dict[str, dict[str, dict[str, int]]] = {}

    async def lease(
        self,
        app: str,
        *,
        day: str,
        month: str,
        want_usd_nanos: int,
        least_usd_nanos: int,
        day_limit: int | None,
        month_limit: int | None,
        holder: str,
    ) -> Grant:
        check_amounts(want_usd_nanos, least_usd_nanos)
        day_left, month_left = self._left(app, day, day_limit), self._left(app, month, month_limit)
        room = min(want_usd_nanos, *(left for left in (day_left, month_left) if left is not None), want_usd_nanos)
        if room < least_usd_nanos or room < 0:
            room = 0
        self._shift(app, day, month, holder, room)
        return Grant(
            room,
            None if day_left is None else day_left - room,
            None if month_left is None else month_left - room,
        )

    async def settle(
        self,
        app: str,
        *,
        day: str,
        month: str,
        spent_usd_nanos: int,
        returned_usd_nanos: int,
        holder: str,
        entry_id: str,
        number: int = 1,
    ) -> None:
        check_amounts(spent_usd_nanos, returned_usd_nanos)
        if not self._is_new((app, entry_id), number):
            return
        held = self._leases[app, day, month, holder]
        for period in (day, month):
            self._spend[app, period] += spent_usd_nanos
        self._shift(app, day, month, holder, -min(held, spent_usd_nanos + returned_usd_nanos))

    async def spend(self, app: str, *, period: str) -> int:
        return self._spend[app, period]

    async def leased(self, app: str, *, day: str, month: str, holder: str) -> int:
        return self._leases[app, day, month, holder]

    async def leased_by(self, holder: str) -> Mapping[tuple[str, str, str], int]:
        return {key[:3]: amount for key, amount in self._leases.items() if key[3] == holder and amount > 0}

    async def add_usage(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            if self._is_new((f"usage {row['day']}", str(row["id"])), row.get("number", 1)):
                counts = self._usage.setdefault(str(row["day"]), {}).setdefault(field_name(row), defaultdict(int))
                for name, amount in counters(row).items():
                    counts[name] += amount

    async def usage(self, *, since: str, until: str, app: str | None) -> Sequence[Mapping[str, Any]]:
        rows = [
            row_from(day, name, counts)
            for day in days(since, until)
            for name, counts in sorted(self._usage.get(day, {}).items())
            if counts
        ]
        return [row for row in rows if app is None or row["app"] == app]

    def _is_new(self, entry: tuple[str, str], number: int) -> bool:
        new = self._done.get(entry, 0) < number
        if new:
            self._done[entry] = number
        return new

    def _left(self, app: str, period: str, limit: int | None) -> int | None:
        return None if limit is None else limit - self._spend[app, period] - self._leased[app, period]

    def _shift(self, app: str, day: str, month: str, holder: str, amount: int) -> None:
        self._leases[app, day, month, holder] += amount
        for period in (day, month):
            self._leased[app, period] += amount


class MemoryCacheStore:
    """See proxy.stores.ports.CacheStore."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._apps: dict[str, dict[bytes, tuple[float, bytes]]] = defaultdict(dict)

    async def get(self, app: str, key: bytes) -> bytes | None:
        end_s, value = self._apps[app].get(key, (0.0, b""))
        return value if end_s > self._clock() else None

    async def put_many(self, items: Sequence[tuple[str, bytes, bytes, int]]) -> None:
        for app, key, value, ttl_s in items:
            if ttl_s > 0:
                self._apps[app][key] = (self._clock() + ttl_s, value)
                self._trim(app)

    async def keys(self, app: str) -> frozenset[bytes]:
        now_s = self._clock()
        return frozenset(key for key, (end_s, _) in self._apps[app].items() if end_s > now_s)

    async def drop_app(self, app: str) -> int:
        dropped = await self.keys(app)
        self._apps.pop(app, None)
        return len(dropped)

    def _trim(self, app: str) -> None:
        entries = self._apps[app]
        if len(entries) > KEYS_PER_APP:
            del entries[min(entries, key=lambda key: entries[key][0])]
