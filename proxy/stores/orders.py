"""Stop orders as they lie in a shared store: sealed and numbered, so that who can merely write there lifts none.

A kill and the lift of one are both orders; the newest genuine one of an app counts, and whoever has seen it falls back
to no older one. Anybody may stop an app: an order without a seal that stops is obeyed, one that lifts is not.
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

type Order = Mapping[str, Any]
type Orders = Mapping[str, Order]
"""App (`*`: all) -> its order."""

_SEAL: Final = "mac"
_NUMBER: Final = "number"
_LIFTED: Final = "lifted"


def lifts(order: Order) -> bool:
    """The order ends a stop."""
    return order.get(_LIFTED) is True


def stopped(orders: Orders) -> dict[str, Order]:
    """The apps that are stopped by them."""
    return {app: order for app, order in orders.items() if not lifts(order)}


class Sealer:
    """Of one installation. `seed`: its manifest seed; `older`: those of root secrets that were rotated out and still
    count."""

    def __init__(self, seed: bytes, older: Sequence[bytes] = ()) -> None:
        self._keys = [hmac.digest(each, b"stop orders", "sha256") for each in (seed, *older)]

    def sealed(self, app: str, facts: Order | None, *, after: Order | None, now_s: float) -> Order:
        """The order to stop `app` (None: to lift it), newer than `after`, the last one known of it. Numbers are
        milliseconds of the wall clock, so that machines that do not know each other's orders keep their sequence."""
        number = max(int(now_s * 1000), _number(after) + 1 if after is not None else 0)
        order = {**(facts if facts is not None else {_LIFTED: True}), _NUMBER: number}
        return {**order, _SEAL: _seal(self._keys[0], app, order)}

    def genuine(self, app: str, order: Order) -> bool:
        """The order was sealed with the installation's secret, for this app."""
        seal = order.get(_SEAL)
        bare = {name: value for name, value in order.items() if name != _SEAL}
        return isinstance(seal, str) and any(
            hmac.compare_digest(seal.encode(), _seal(key, app, bare).encode()) for key in self._keys
        )

    def merged(self, known: Orders, told: Orders) -> dict[str, Order]:
        """What holds, by what was known here and what the store says now."""
        found = {app: self._newest(app, known.get(app), told.get(app)) for app in known.keys() | told.keys()}
        return {app: order for app, order in found.items() if order is not None}

    def _newest(self, app: str, known: Order | None, told: Order | None) -> Order | None:
        kept = known if known is not None and self.genuine(app, known) else None
        if told is None:
            return kept
        if self.genuine(app, told):
            return told if kept is None or _rank(told) >= _rank(kept) else kept
        if lifts(told):
            return kept
        return told if kept is None or lifts(kept) else kept


def _rank(order: Order) -> tuple[int, bool]:
    """Of two orders with one number the stop counts."""
    return _number(order), not lifts(order)


def _number(order: Order) -> int:
    number = order.get(_NUMBER)
    return number if type(number) is int else 0


def _seal(key: bytes, app: str, order: Order) -> str:
    text = json.dumps([app, order], sort_keys=True, separators=(",", ":"))
    return hmac.new(key, text.encode(), "sha256").hexdigest()
