"""Rulings of this second, so that a client that asks the same again and again is judged once a second.

A ruling is a pure function of its facts; here the facts are the key. Only permissions are remembered, and none outlives
the second, the snapshot or the kills that it was given under (these are replaced, never changed in place).
"""

from collections.abc import Mapping
from typing import Any, Final

from proxy.config.snapshot import Snapshot
from proxy.model import Authority, Listener, Principal, RequestHead
from proxy.policy import Facts, Ruling, Stage

MAX_RULINGS: Final = 1024
_CONTENT_LENGTH: Final = b"content-length"
type Key = tuple[object, ...]
type _Known = tuple[Facts, Ruling]


def key_of(
    stage: Stage,
    principal: Principal,
    listener: Listener,
    authority: Authority,
    sni: str | None,
    head: RequestHead | None,
    provider: str | None,
    model: str | None,
) -> Key:
    """All that a rule may look at, but for the clock, the policy and the kills."""
    if head is None:
        return (stage, principal, listener, authority, sni)
    fields = tuple([field for field in head.headers if field[0].lower() != _CONTENT_LENGTH])
    line = (head.method, head.target, head.authority, head.protocol, head.http_version)
    return (stage, principal, listener, authority, sni, provider, model, line, fields)


class RulingMemo:
    """One per worker. Rules see the whole head but may not depend on Content-Length, which differs with each prompt."""

    __slots__ = ("_kills", "_known", "_second", "_snapshot")

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._kills: Mapping[str, Mapping[str, Any]] = {}
        self._second = 0
        self._known: dict[Key, _Known] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, snapshot: Snapshot, key: Key, kills: Mapping[str, Any], now_s: float) -> _Known | None:
        """What was ruled on the same facts (`key_of`) in this second under this very policy, or None."""
        if snapshot is self._snapshot and kills is self._kills and int(now_s) == self._second:
            return self._known.get(key)
        self._snapshot, self._kills, self._second = snapshot, kills, int(now_s)
        self._known.clear()
        return None

    def put(self, key: Key, facts: Facts, ruling: Ruling) -> None:
        """Remembers a permission; call after `get` with the same snapshot, kills and time."""
        if ruling.decision.action == "allow" and len(self._known) < MAX_RULINGS:
            self._known[key] = facts, ruling
