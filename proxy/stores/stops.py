"""Kills and revoked tokens as this machine knows them, on disk: they bite before the store is asked, without it, and
after a restart.

`kills` are the orders that the store said last (see orders.py); `pending` is what an operator said here and the store
has not been told yet (None lifts). Every worker watches the file, so a stop given on this machine needs neither store
nor network.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from proxy.keys.tokens import MAX_TTL_S
from proxy.stores.last_good import locked, replace_file
from proxy.stores.orders import Order, Sealer, stopped
from proxy.stores.ports import ConfigStore

_FILE: Final = "stops.json"

# Until the store says what is really stopped, everything on this machine is.
DAMAGED: Final[Mapping[str, Mapping[str, Any]]] = {"*": {"reason": "this machine's file of stops is damaged"}}

type Kills = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Stops:
    """`kills` (orders) and `revoked` (token id -> until when that matters, in seconds) from the store at its `epoch`,
    and `pending` orders of this machine that lie over them."""

    kills: Kills = field(default_factory=dict)
    revoked: Mapping[str, float] = field(default_factory=dict)
    pending: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    epoch: int = 0

    @property
    def effective(self) -> Kills:
        """Kills in force: app (`*` for all) -> facts."""
        kept = {app: facts for app, facts in stopped(self.kills).items() if app not in self.pending}
        return kept | {app: facts for app, facts in self.pending.items() if facts is not None}


class StopsFile:
    """In the directory `Paths.last_good`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / _FILE
        self._seen: tuple[int, int, int] | None = None
        self._stops = Stops()

    def read(self) -> Stops:
        """The file's content, parsed again only when it has changed. A damaged file stops all apps until the store is
        heard: a lost kill would be worse. Raises OSError when it cannot be read."""
        try:
            facts = self._path.stat()
        except FileNotFoundError:
            self._seen, self._stops = None, Stops()
            return self._stops
        seen = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
        if seen != self._seen:
            self._stops = _parse(self._path.read_bytes())
            self._seen = seen
        return self._stops

    def order(self, app: str, facts: Mapping[str, Any] | None) -> None:
        """Stops `app` (`*`: all) on this machine at once, or lifts the stop; the store is told later."""
        with locked(self._directory):
            old = self.read()
            self._write(replace(old, pending={**old.pending, app: facts}))

    def learn(self, kills: Kills, revoked: Mapping[str, float], epoch: int) -> None:
        """Takes over what the store says now."""
        with locked(self._directory):
            old = self.read()
            if (dict(old.kills), old.revoked.keys(), old.epoch) != (dict(kills), revoked.keys(), epoch):
                self._write(Stops(kills, revoked, old.pending, epoch))

    def delivered(self, app: str, facts: Mapping[str, Any] | None, order: Order) -> None:
        """The store has taken this order; what was said here is forgotten unless something newer came meanwhile."""
        with locked(self._directory):
            old = self.read()
            if app in old.pending and old.pending[app] == facts:
                kills = {**old.kills, app: order}
                pending = {name: body for name, body in old.pending.items() if name != app}
                self._write(replace(old, kills=kills, pending=pending))

    def _write(self, stops: Stops) -> None:
        body = {
            "kills": dict(stops.kills),
            "revoked": dict(stops.revoked),
            "pending": dict(stops.pending),
            "epoch": stops.epoch,
        }
        replace_file(self._path, json.dumps(body).encode())


async def deliver(stops: StopsFile, store: ConfigStore, sealer: Sealer | None, now_s: float) -> None:
    """Tells the store all pending orders. Raises StoreUnavailable; what it was told is not told again. Without a
    `sealer` only stops are told: they are obeyed without a seal."""
    known = stops.read()
    # Another machine's lift that was not heard here yet: a stop must not be numbered below it.
    told = await store.kills() if sealer is not None and known.pending else {}
    for app, facts in list(known.pending.items()):
        order = facts
        if sealer is not None:
            after = sealer.last(app, known.kills.get(app), told.get(app))
            order = sealer.sealed(app, facts, after=after, now_s=now_s)
        if order is None:
            continue
        await store.set_kill(app, order)
        stops.delivered(app, facts, order)


def _parse(raw: bytes) -> Stops:
    try:
        body = json.loads(raw)
        kills, revoked, pending = body["kills"], body["revoked"], body["pending"]
        if not all(isinstance(facts, dict) for facts in (kills, pending, *kills.values())):
            raise TypeError
        if not all(facts is None or isinstance(facts, dict) for facts in pending.values()):
            raise TypeError
        return Stops(kills, _revoked(revoked), pending, int(body["epoch"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Stops(kills=DAMAGED)


def _revoked(found: Any) -> Mapping[str, float]:
    """A list is what older versions wrote."""
    if isinstance(found, list):
        return {str(token): time.time() + MAX_TTL_S for token in found}
    return {str(token): float(until_s) for token, until_s in found.items()}
