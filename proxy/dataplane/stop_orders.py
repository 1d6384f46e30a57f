"""What one process knows of kills and revoked tokens: from this machine's file, from the store, and over both."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy.keys.tokens import MAX_TTL_S
from proxy.stores.orders import Order, Sealer, lifts
from proxy.stores.ports import ConfigStore
from proxy.stores.stops import DAMAGED, Stops, StopsFile, deliver


class StopOrders:
    """`kills` and `revoked` are what is in force. `restored`: orders that were missing or replaced in the store, and
    were given back to it: somebody meddles there, or it lost its memory.

    `file`: this machine's. `seed`, `older`: as Sealer's.
    """

    def __init__(
        self,
        file: StopsFile,
        store: ConfigStore,
        seed: bytes,
        older: Sequence[bytes] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.restored = 0
        self._file = file
        self._store = store
        self._sealer = Sealer(seed, older)
        self._clock = clock
        self._stops = Stops()

    @property
    def kills(self) -> Mapping[str, Mapping[str, Any]]:
        """App (`*`: all) -> facts of its stop."""
        return self._stops.effective

    @property
    def revoked(self) -> frozenset[str]:
        """Ids of tokens."""
        return frozenset(self._stops.revoked)

    def remember(self) -> None:
        """Takes over what this machine knew before."""
        try:
            self._stops = self._file.read()
        except OSError:
            self._stops = Stops(kills=DAMAGED)

    def read(self) -> None:
        """Takes this machine's own orders from disk. A file that cannot be read keeps what is known."""
        try:
            stops = self._file.read()
        except OSError:
            return
        known = dict(self._stops.kills)
        for app in self._stops.pending.keys() - stops.pending.keys():
            # Another process has delivered it: until we hear of it from the store, its outcome stands in the file.
            known.pop(app, None)
            known |= {app: stops.kills[app]} if app in stops.kills else {}
        self._stops = Stops(known, self._stops.revoked, stops.pending, self._stops.epoch)

    async def deliver(self) -> bool:
        """Tells the store the orders of this machine; False when there are none. Raises StoreUnavailable."""
        if not self._file.read().pending:
            return False
        await deliver(self._file, self._store, self._sealer, self._clock())
        return True

    async def learn(self, epoch: int) -> bool:
        """Hears the store out, and gives back what it should have; True when there was something. Raises
        StoreUnavailable, OSError."""
        told, revoked = dict(await self._store.kills()), await self._store.revoked_tokens()
        forgot = epoch < self._stops.epoch
        # A store that has lost its memory (wiped, restored from a backup) lifts not even what has no seal.
        kills = self._sealer.merged(self._stops.kills, {**self._stops.kills, **told} if forgot else told)
        kills = {**kills, **{app: order for app, order in self._stops.kills.items() if forgot and app not in kills}}
        tokens = self._kept_tokens(revoked)
        gave = await self._give_back(kills, told, {} if not forgot else tokens, revoked)
        # Another process of this machine may have given the store an order since it was asked.
        kills = self._sealer.merged(self._stops.kills, kills)
        with contextlib.suppress(OSError):
            kills = self._sealer.merged(self._file.read().kills, kills)
        # In force first, on disk second: a full disk must not hold up a kill.
        self._stops = Stops(kills, tokens, self._stops.pending, epoch)
        await asyncio.to_thread(self._file.learn, kills, tokens, epoch)
        return gave

    def _kept_tokens(self, told: frozenset[str]) -> dict[str, float]:
        """Revoked tokens and until when that matters: no token outlives it, so that nothing needs to lift one."""
        now_s = self._clock()
        known = {token: until_s for token, until_s in self._stops.revoked.items() if until_s > now_s}
        return dict.fromkeys(told, now_s + MAX_TTL_S) | known

    async def _give_back(
        self,
        kills: Mapping[str, Order],
        told: Mapping[str, Order],
        tokens: Mapping[str, float],
        revoked: frozenset[str],
    ) -> bool:
        missing = {app: order for app, order in kills.items() if told.get(app) != order and not lifts(order)}
        for app, order in missing.items():
            await self._store.set_kill(app, order)
        gone = tokens.keys() - revoked
        for token in gone:
            await self._store.revoke_token(token, ttl_s=max(1, int(tokens[token] - self._clock())))
        self.restored += len(missing) + len(gone)
        return bool(missing or gone)
