"""What an exchange may ask for. Each effect is awaitable and yields itself, so `await Reserve(...)` is typed.

The driver (proxy.dataplane.runtime) answers with `send(result)` or `throw(Denied | Aborted)`. An effect that has no
driver, or whose driver raises anything else, ends the exchange with a denial: nothing is sent by default.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from proxy.model import (
    AuditRecord,
    Authority,
    CachedAnswer,
    Cost,
    Inspection,
    InspectJob,
    Request,
    RequestHead,
    Reservation,
    Response,
    ResponseHead,
    Traffic,
    Usage,
)
from proxy.values import dataclass

if TYPE_CHECKING:
    from proxy.answer import AnswerTap
    from proxy.config.snapshot import AppPolicy, Entry


class Aborted(Exception):
    """One side is gone. `side` is `client` or `upstream`; `sent`: the whole request had been sent upstream by then."""

    def __init__(self, side: str, detail: str, *, sent: bool) -> None:
        super().__init__(side, detail)
        self.side = side
        self.detail = detail
        self.sent = sent


class Effect[T]:
    """Base of all effects: `await effect` hands it to the driver and returns the driver's result."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, T]:
        result: T = yield self
        return result


@dataclass(frozen=True, slots=True)
class ReadBody(Effect[tuple[bytes, tuple[tuple[bytes, bytes], ...]]]):
    """The whole request body, de-chunked, and its trailers. Denied: too_large, malformed, timeout, overloaded."""

    max_bytes: int


@dataclass(frozen=True, slots=True)
class Offer(Effect[tuple[RequestHead, bytes]]):
    """Shows the request to foreign mitmproxy addons; the result is what they made of it. Denied: internal,
    target_mismatch. Asked for only when some addon listens."""

    head: RequestHead
    body: bytes


@dataclass(frozen=True, slots=True)
class Inspect(Effect[Inspection]):
    """Denied: inspector_unavailable when it is down, full or past its deadline."""

    job: InspectJob


@dataclass(frozen=True, slots=True)
class CacheGet(Effect[CachedAnswer | None]):
    """Never raises: a broken store is a miss."""

    app: str
    key: bytes


@dataclass(frozen=True, slots=True)
class CachePut(Effect[None]):
    """Queued; never waits, never raises."""

    app: str
    key: bytes
    answer: CachedAnswer
    ttl_s: int


@dataclass(frozen=True, slots=True)
class Reserve(Effect[Reservation]):
    """Denied: budget_exceeded, budget_unavailable."""

    app: "AppPolicy"
    usd_nanos: int
    exchange_id: str


@dataclass(frozen=True, slots=True)
class Settle(Effect[None]):
    """Replaces the reservation by what was spent (0 releases it). Local and journalled: never waits, never raises.
    `metered` False: no Meter tells of the call, so that the settlement has to count it."""

    reservation: Reservation
    usd_nanos: int
    estimated: bool
    metered: bool = True


@dataclass(frozen=True, slots=True)
class Meter(Effect[None]):
    """Adds one call to usage report and metrics. `saved`: a cache hit, `cost` is then what it would have been."""

    app: "AppPolicy"
    exchange_id: str
    usage: Usage
    cost: Cost
    saved: bool = False


@dataclass(frozen=True, slots=True)
class Forward(Effect[ResponseHead]):
    """The only effect that sends a byte upstream. Denied: ip_denied, self_connection, upstream_*; Aborted: client."""

    entry: "Entry"
    app: str
    request: Request


@dataclass(frozen=True, slots=True)
class Relay(Effect[None]):
    """Streams the upstream's body through `tap` to the client under `head`. Aborted on either side's early end."""

    head: ResponseHead
    tap: "AnswerTap"


@dataclass(frozen=True, slots=True)
class Collect(Effect[bytes]):
    """Reads the upstream's whole body instead of relaying it (response inspection). Denied: too_large."""

    max_bytes: int


@dataclass(frozen=True, slots=True)
class Upgrade(Effect[Traffic]):
    """Runs an accepted WebSocket (after a 101 head) until both sides are closed.

    Every message is inspected: `job` is the template, its `body` and `direction` replaced per message.
    """

    head: ResponseHead
    job: InspectJob


@dataclass(frozen=True, slots=True)
class Tunnel(Effect[Traffic]):
    """Pass-through: dials a vetted address and copies bytes both ways until both sides are closed."""

    entry: "Entry"
    app: str
    authority: Authority
    first_bytes: bytes


@dataclass(frozen=True, slots=True)
class Reply(Effect[None]):
    """Sends a whole answer of ours to the client. Aborted: client gone."""

    response: Response


@dataclass(frozen=True, slots=True)
class Emit(Effect[None]):
    """Appends to the audit trail (spooled when the disk is slow). Denied: audit_unavailable when the spool is full."""

    record: AuditRecord
