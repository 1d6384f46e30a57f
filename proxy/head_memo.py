"""What was worked out for a request head, for the next one that differs from it at most in Content-Length.

SDKs send the same head with every call, but for the length of the prompt. Whoever holds another head than the one that
came (an addon changed it, a coding was taken off) finds nothing here: see `Context.memo_of`.
"""

from collections.abc import Mapping
from typing import Any, Final

from proxy.config.snapshot import Snapshot
from proxy.model import Headers, Listener, Principal, RequestHead
from proxy.policy import Facts, Ruling, Stage

MAX_RULINGS: Final = 16

type Asked = tuple[Stage, str | None, str | None]
"""Stage, provider, model."""


class HeadMemo:
    """One per form of head. `request`: what the trail says of it. `outbound`: the head that goes on, by (body changed,
    answer uncoded). `start`: its fields and target, and both as they go out. `digest`: all of an inspection's job but
    the body, and its digest so far (proxy.inspector.memo)."""

    __slots__ = ("_moment", "_rulings", "digest", "outbound", "request", "start")

    def __init__(self) -> None:
        self.request: dict[str, Any] | None = None
        self.outbound: dict[tuple[bool, bool], RequestHead] = {}
        self.start: tuple[Headers, str, bytes] | None = None
        self.digest: tuple[object, tuple[object, ...], Any] | None = None
        self._moment: tuple[Snapshot, Mapping[str, Any], int, Principal, Listener, str | None] | None = None
        self._rulings: dict[Asked, tuple[Facts, Ruling]] = {}

    def rulings(
        self,
        snapshot: Snapshot,
        kills: Mapping[str, Any],
        now_s: float,
        principal: Principal,
        listener: Listener,
        sni: str | None,
    ) -> dict[Asked, tuple[Facts, Ruling]]:
        """Permissions of this second, policy and caller, to look in and to add to; those of any other are gone."""
        was = self._moment
        if (
            was is None
            or was[0] is not snapshot
            or was[1] is not kills
            or was[2] != int(now_s)
            or was[3] is not principal
            or was[4] != listener
            or was[5] != sni
            or len(self._rulings) >= MAX_RULINGS
        ):
            self._moment = (snapshot, kills, int(now_s), principal, listener, sni)
            self._rulings = {}
        return self._rulings
