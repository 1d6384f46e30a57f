"""What the product needs from a store, and nothing of how Redis does it.

Every method may raise `StoreUnavailable`. Keys and values hold no prompt text, no PII and no secrets in the clear.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class StoreUnavailable(Exception):
    """The store did not answer, refused, or answered nonsense. The message names the reason, never a value."""


class Conflict(Exception):
    """Compare-and-set lost: somebody else published first. `head_seq` is the seq that stands now."""

    def __init__(self, head_seq: int) -> None:
        super().__init__(head_seq)
        self.head_seq = head_seq


@dataclass(frozen=True, slots=True)
class Grant:
    """A slice of budget: how much was granted and what is left of each limit (None = unlimited), nano-dollars."""

    granted_usd_nanos: int
    day_left_usd_nanos: int | None
    month_left_usd_nanos: int | None


class ConfigStore(Protocol):
    """Revisions (content-addressed), the signed manifest log, revocations, kills, and one epoch counter that rises
    on every change of any of them."""

    async def put_revision(self, revision: str, content: bytes) -> None: ...
    async def get_revision(self, revision: str) -> bytes | None: ...
    async def append_manifest(self, manifest: bytes, *, seq: int, expect_seq: int) -> None:
        """Raises Conflict unless the head's seq is `expect_seq` (0 = none yet)."""

    async def head_manifest(self) -> bytes | None: ...
    async def manifests(self, limit: int) -> Sequence[bytes]:
        """Newest first."""

    async def epoch(self) -> int: ...
    async def changes(self) -> AsyncIterator[None]:
        """Yields on each published change; ends when the connection is lost."""

    async def put_token(self, token_id: str, facts: Mapping[str, Any], *, ttl_s: int) -> None: ...
    async def tokens(self) -> Mapping[str, Mapping[str, Any]]: ...
    async def revoke_token(self, token_id: str, *, ttl_s: int) -> None: ...
    async def revoked_tokens(self) -> frozenset[str]: ...
    async def set_kill(self, app: str, facts: Mapping[str, Any] | None) -> None:
        """Replaces the app's order (see orders.py); None removes it. App `*` stands for all apps."""

    async def kills(self) -> Mapping[str, Mapping[str, Any]]: ...


class BudgetStore(Protocol):
    """Spend per app and period, and slices leased to workers. All operations are atomic in the store; money is integer
    nano-dollars. A lease counts against the limit until it is returned or spent."""

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
        """Grants between `least` and `want`, or 0 when not even `least` is left."""

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
        """Turns leased money into spend and gives the rest back; applied once per `entry_id` and number. Numbers of one
        id only rise: one that is not above the last applied is taken for a repetition."""

    async def spend(self, app: str, *, period: str) -> int: ...
    async def leased(self, app: str, *, day: str, month: str, holder: str) -> int:
        """One worker's open lease of one app, nano-dollars."""

    async def leased_by(self, holder: str) -> Mapping[tuple[str, str, str], int]:
        """Open leases of one worker: (app, day, month) -> nano-dollars. For cleaning up after a crash."""

    async def add_usage(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds counters per (day, app, provider, model): requests, tokens, cost, saved; applied once per row `id` and
        `number` (1 where it has none), as in `settle`."""

    async def usage(self, *, since: str, until: str, app: str | None) -> Sequence[Mapping[str, Any]]: ...


class CacheStore(Protocol):
    """Opaque MACed values under opaque keys, per app, with a TTL; plus the set of key digests of one app."""

    async def get(self, app: str, key: bytes) -> bytes | None: ...
    async def put_many(self, items: Sequence[tuple[str, bytes, bytes, int]]) -> None:
        """(app, key, value, ttl_s) each."""

    async def keys(self, app: str) -> frozenset[bytes]: ...
    async def drop_app(self, app: str) -> int: ...
