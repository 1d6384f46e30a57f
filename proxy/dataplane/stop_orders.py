"""What one process knows of kills and revoked tokens: from this machine's file, from the store, and over both."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
        self._owed: dict[str, Order] = {}
        self._owed_tokens: dict[str, float] = {}

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

    async def learn(self, epoch: int) -> None:
        """Hears the store out. Raises StoreUnavailable, OSError: what was heard by then is in force."""
        forgot = epoch < self._stops.epoch
        told = await self._store.kills()
        kills = self._with_file(self._merged(told, forgot=forgot))
        self._owed = {app: order for app, order in kills.items() if told.get(app) != order and not lifts(order)}
        # In force first: neither damaged tokens nor a full disk must hold up a kill.
        self._stops = replace(self._stops, kills=kills)
        revoked = await self._store.revoked_tokens()
        tokens = self._kept_tokens(revoked)
        self._owed_tokens = {token: tokens[token] for token in tokens.keys() - revoked} if forgot else {}
        # What it has forgotten is still missing there: until it is given back, the store is taken as one that forgot.
        since = self._stops.epoch if forgot and (self._owed or self._owed_tokens) else epoch
        self._stops = replace(self._stops, kills=self._with_file(self._stops.kills), revoked=tokens, epoch=since)
        await asyncio.to_thread(self._file.learn, self._stops.kills, tokens, since)

    async def give_back(self) -> bool:
        """Gives the store what it should have, by the last look; False when there was nothing. Raises
        StoreUnavailable."""
        if not self._owed and not self._owed_tokens:
            return False
        told, now_s = await self._store.kills(), self._clock()
        for app, order in self._owed.items():
            # An order that came meanwhile must not be replaced by the one before it.
            now = told.get(app, order)
            if told.get(app) != order and self._sealer.merged({app: order}, {app: now}, now_s).get(app) == order:
                await self._store.set_kill(app, order)
                self.restored += 1
        for token, until_s in self._owed_tokens.items():
            await self._store.revoke_token(token, ttl_s=max(1, int(until_s - now_s)))
            self.restored += 1
        self._owed, self._owed_tokens = {}, {}
        return True

    def _merged(self, told: Mapping[str, Order], *, forgot: bool) -> dict[str, Order]:
        """A store that has lost its memory (wiped, restored from a backup) lifts not even what has no seal."""
        known = self._stops.kills
        kills = self._sealer.merged(known, {**known, **told} if forgot else told, self._clock())
        return {**kills, **{app: order for app, order in known.items() if forgot and app not in kills}}

    def _with_file(self, kills: Mapping[str, Order]) -> Mapping[str, Order]:
        """Another process of this machine may have given the store an order since it was asked."""
        with contextlib.suppress(OSError):
            return self._sealer.merged(self._file.read().kills, kills, self._clock())
        return kills

    def _kept_tokens(self, told: frozenset[str]) -> dict[str, float]:
        """Revoked tokens and until when that matters: no token outlives it, so that nothing needs to lift one."""
        now_s = self._clock()
        known = {token: until_s for token, until_s in self._stops.revoked.items() if until_s > now_s}
        return dict.fromkeys(told, now_s + MAX_TTL_S) | known
