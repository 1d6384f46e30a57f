"""One worker's view of the answer cache: a local LRU, a replica of each app's key digests, and puts behind the answer.

Every value carries its expiry and is MACed under its app's key together with its cache key and expiry: whoever can
write to the store can neither change an answer, nor move one under another key or app, nor make it live longer.
"""

import asyncio
import struct
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from proxy.model import CachedAnswer
from proxy.stores.ports import CacheStore, StoreUnavailable

LOCAL_BYTES: Final = 64 << 20
QUEUE_BYTES: Final = 16 << 20
VALUE_BYTES: Final = 4 << 20
FLUSH_S: Final = 0.05
REFRESH_S: Final = 1.0
# A replica that takes long to fetch is fetched less often: at most this part of the time goes into it.
REFRESH_SHARE: Final = 50
# An app that asked for nothing for this long is no longer replicated.
ACTIVE_S: Final = 120.0
_EXPIRY: Final = struct.Struct(">Q")
_ENTRY_OVERHEAD_BYTES: Final = 512

type Place = tuple[str, bytes]


@dataclass(slots=True)
class _Replica:
    keys: frozenset[bytes] = frozenset()
    asked_s: float = 0.0
    due_s: float = 0.0


@dataclass(slots=True)
class CacheStats:
    """Plain counters: local and shared hits, values whose MAC or form was wrong, puts given up, store faults."""

    local_hits: int = 0
    shared_hits: int = 0
    forged: int = 0
    dropped: int = 0
    faults: int = 0


@dataclass(slots=True)
class _Queue:
    items: OrderedDict[Place, tuple[bytes, float]] = field(default_factory=OrderedDict)
    size_bytes: int = 0


class ResponseCache:
    """`get` and `put` are for the event loop's thread and never raise: a store that is away is a miss.

    `mac_key`: app -> 32 bytes. `run` replicates and flushes until cancelled; then `aclose`. `on_forged` is told the app
    of each value that was not sealed here.
    """

    def __init__(
        self,
        store: CacheStore,
        mac_key: Callable[[str], bytes],
        *,
        max_bytes: int = LOCAL_BYTES,
        clock: Callable[[], float] = time.time,
        on_forged: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.stats = CacheStats()
        self._on_forged = on_forged
        self._store = store
        self._mac_key = mac_key
        self._max_bytes = max_bytes
        self._clock = clock
        self._local: OrderedDict[Place, tuple[CachedAnswer, float, int]] = OrderedDict()
        self._local_bytes = 0
        self._replicas: dict[str, _Replica] = {}
        self._queue = _Queue()
        self._wake = asyncio.Event()

    def get(self, app: str, key: bytes) -> CachedAnswer | Awaitable[CachedAnswer | None] | None:
        """The answer at once when it is here, None when nobody has it, else an awaitable that asks the store."""
        now_s = self._clock()
        found = self._local.get((app, key))
        if found is not None:
            if found[1] > now_s:
                self._local.move_to_end((app, key))
                self.stats.local_hits += 1
                return found[0]
            self._evict((app, key))
        replica = self._replicas.setdefault(app, _Replica())
        replica.asked_s = now_s
        return self._fetch(app, key) if key in replica.keys else None

    def put(self, app: str, key: bytes, answer: CachedAnswer, ttl_s: int) -> None:
        """Keeps the answer here and queues it for the store. Too large or too many: dropped, and counted."""
        if ttl_s <= 0:
            return
        expires_s = self._clock() + ttl_s
        value = self._seal(app, key, answer, int(expires_s * 1000))
        if len(value) > VALUE_BYTES:
            self.stats.dropped += 1
            return
        self._keep((app, key), answer, expires_s, len(value))
        queue = self._queue
        if queue.size_bytes + len(value) > QUEUE_BYTES:
            self.stats.dropped += 1
            return
        replaced = queue.items.pop((app, key), None)
        queue.size_bytes += len(value) - (len(replaced[0]) if replaced else 0)
        queue.items[app, key] = (value, expires_s)
        self._wake.set()

    async def run(self) -> None:
        """Never ends by itself; a store that is away is tried again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._flush_loop(), name="cache puts")
            group.create_task(self._replicate_loop(), name="cache keys")

    async def flush(self) -> None:
        """Sends what is queued. What the store does not take is dropped: it is a cache."""
        items, self._queue = self._queue.items, _Queue()
        now_s = self._clock()
        batch = [(app, key, value, int(end_s - now_s + 0.999)) for (app, key), (value, end_s) in items.items()]
        try:
            await self._store.put_many([item for item in batch if item[3] > 0])
        except StoreUnavailable:
            self.stats.faults += 1
            self.stats.dropped += len(batch)

    async def refresh(self, app: str) -> None:
        """Fetches the digests of the keys that the store holds for `app`. Without the store the old ones stay."""
        replica = self._replicas.setdefault(app, _Replica())
        begun_s = time.monotonic()
        try:
            replica.keys = await self._store.keys(app)
        except StoreUnavailable:
            self.stats.faults += 1
        took_s = time.monotonic() - begun_s
        replica.due_s = self._clock() + max(REFRESH_S, took_s * REFRESH_SHARE)

    async def aclose(self) -> None:
        """Sends the last puts."""
        await self.flush()

    async def _flush_loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def _replicate_loop(self) -> None:
        while True:
            now_s = self._clock()
            for app, replica in list(self._replicas.items()):
                if now_s - replica.asked_s > ACTIVE_S:
                    del self._replicas[app]
                elif now_s >= replica.due_s:
                    await self.refresh(app)
            await asyncio.sleep(REFRESH_S / 4)

    async def _fetch(self, app: str, key: bytes) -> CachedAnswer | None:
        try:
            raw = await self._store.get(app, key)
        except StoreUnavailable:
            self.stats.faults += 1
            return None
        opened = self._open(app, key, raw) if raw is not None else None
        if opened is None or raw is None:
            replica = self._replicas.get(app)
            if replica is not None:
                replica.keys -= {key}
            return None
        answer, expires_s = opened
        self._keep((app, key), answer, expires_s, len(raw))
        self.stats.shared_hits += 1
        return answer

    def _seal(self, app: str, key: bytes, answer: CachedAnswer, expires_ms: int) -> bytes:
        from proxy.caching import encode

        expiry = _EXPIRY.pack(expires_ms)
        return expiry + encode(answer, self._mac_key(app), bind=_place(key, expiry))

    def _open(self, app: str, key: bytes, raw: bytes) -> tuple[CachedAnswer, float] | None:
        """None, counted, for a value that was not sealed for exactly this place, or has expired."""
        from proxy.caching import decode

        expiry = raw[: _EXPIRY.size]
        answer = decode(raw[_EXPIRY.size :], self._mac_key(app), bind=_place(key, expiry))
        if answer is None or len(expiry) != _EXPIRY.size:
            self.stats.forged += 1
            self._on_forged(app)
            return None
        expires_s = _EXPIRY.unpack(expiry)[0] / 1000
        return (answer, expires_s) if expires_s > self._clock() else None

    def _keep(self, place: Place, answer: CachedAnswer, expires_s: float, size_bytes: int) -> None:
        if place in self._local:
            self._evict(place)
        cost = size_bytes + _ENTRY_OVERHEAD_BYTES
        if cost > self._max_bytes:
            return
        self._local[place] = (answer, expires_s, cost)
        self._local_bytes += cost
        while self._local_bytes > self._max_bytes:
            self._evict(next(iter(self._local)))

    def _evict(self, place: Place) -> None:
        self._local_bytes -= self._local.pop(place)[2]


def _place(key: bytes, expiry: bytes) -> bytes:
    return len(key).to_bytes(2) + key + expiry
