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
# As far as the clocks of machines may differ. Numbers beyond that come from a clock that is wrong: a lift would outrank
# every stop until then.
AHEAD_S: Final = 600.0


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
        """The order to stop `app` (None: to lift it), newer than `after`, the last sealed one of it. Numbers are
        milliseconds of the wall clock, so that machines that do not know each other's orders keep their sequence.

        A stop follows also a number from the future, a lift does not: nobody would obey it."""
        follows = after is not None and self.genuine(app, after) and (facts is not None or not _is_ahead(after, now_s))
        number = max(int(now_s * 1000), _number(after) + 1 if after is not None and follows else 0)
        order = {**(facts if facts is not None else {_LIFTED: True}), _NUMBER: number}
        return {**order, _SEAL: _seal(self._keys[0], app, order)}

    def genuine(self, app: str, order: Order) -> bool:
        """The order was sealed with the installation's secret, for this app."""
        seal = order.get(_SEAL)
        if not isinstance(seal, str) or not seal.isascii():
            return False
        bare = {name: value for name, value in order.items() if name != _SEAL}
        try:
            return any(hmac.compare_digest(seal, _seal(key, app, bare)) for key in self._keys)
        except (ValueError, RecursionError):
            # What cannot be written as JSON was never sealed.
            return False

    def last(self, app: str, *orders: Order | None) -> Order | None:
        """The sealed one of them with the highest number: what a new order has to follow."""
        sealed = (order for order in orders if order is not None and self.genuine(app, order))
        return max(sealed, key=_number, default=None)

    def merged(self, known: Orders, told: Orders, now_s: float) -> dict[str, Order]:
        """What holds, by what was known here and what the store says now."""
        found = {app: self._newest(app, known.get(app), told.get(app), now_s) for app in known.keys() | told.keys()}
        return {app: order for app, order in found.items() if order is not None}

    def _newest(self, app: str, known: Order | None, told: Order | None, now_s: float) -> Order | None:
        kept = known if known is not None and self.genuine(app, known) else None
        if kept is not None and lifts(kept) and _is_ahead(kept, now_s):
            kept = None
        if told is None:
            return kept
        if self.genuine(app, told) and not (lifts(told) and _is_ahead(told, now_s)):
            return told if kept is None or _outranks(told, kept, now_s) else kept
        if lifts(told):
            return kept
        return told if kept is None or lifts(kept) else kept


def _outranks(told: Order, kept: Order, now_s: float) -> bool:
    """Of two orders with one number the stop counts. A stop from the future holds until the next lift."""
    if lifts(told) != lifts(kept) and (_is_ahead(told, now_s) or _is_ahead(kept, now_s)):
        return True
    return (_number(told), not lifts(told)) >= (_number(kept), not lifts(kept))


def _is_ahead(order: Order, now_s: float) -> bool:
    return _number(order) > (now_s + AHEAD_S) * 1000


def _number(order: Order) -> int:
    number = order.get(_NUMBER)
    return number if type(number) is int else 0


def _seal(key: bytes, app: str, order: Order) -> str:
    text = json.dumps([app, order], sort_keys=True, separators=(",", ":"))
    return hmac.new(key, text.encode(), "sha256").hexdigest()
