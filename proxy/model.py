"""Values that pass between the steps of one exchange. All frozen; none of them does I/O."""

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final, Literal

from proxy.values import dataclass

if TYPE_CHECKING:
    from proxy.config.snapshot import DlpPolicy
    from proxy.head_memo import HeadMemo

type Headers = tuple[tuple[bytes, bytes], ...]
"""Header fields in wire order; names as sent, values without surrounding white space."""

type Action = Literal["allow", "redact", "deny", "reply"]
type DlpAction = Literal["block", "redact", "hash", "mask", "encrypt", "synthesize", "tokenize", "allow"]
type Listener = Literal["explicit", "transparent", "dns"]
type WireProtocol = Literal["http1", "websocket", "h2"]

DLP_ACTIONS: Final[tuple[DlpAction, ...]] = (
    "block", "redact", "hash", "mask", "encrypt", "synthesize", "tokenize", "allow",
)  # fmt: skip
"""Severest first, by how much of the value can still be known outside: nothing (redact), whether two are equal (hash),
its last characters (mask); then what comes back in answers, by how much of the form stays. Of all rules that match a
finding the severest wins. docs/adr/0006-custom-data-and-actions.md gives the reasons."""


@dataclass(frozen=True, slots=True)
class Authority:
    """The one destination of an exchange. `host` is canonical (proxy.net.names): lower case, A-labels, no end dot."""

    scheme: Literal["https", "http"]
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. `via` names the proof: `network`, `token` or `network+token`."""

    app: str
    via: str
    client_ip: str
    token_id: str | None = None


class HeadFields:
    """Looks fields up by their names in lower case: `names`, in the order of `headers`."""

    __slots__ = ()

    headers: Headers
    names: tuple[bytes, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple([name.lower() for name, _ in self.headers]))

    def first(self, name: bytes) -> bytes | None:
        """Value of the first field called `name` (lower case), or None."""
        return self.headers[self.names.index(name)][1] if name in self.names else None

    def all(self, name: bytes) -> list[bytes]:
        """Values of all fields called `name` (lower case)."""
        if name not in self.names:
            return []
        return [field[1] for field, key in zip(self.headers, self.names, strict=True) if key == name]


@dataclass(frozen=True, slots=True)
class RequestHead(HeadFields):
    """A request line and its fields, parsed and validated. `target` is origin-form (`/path?query`), ASCII."""

    method: str
    target: str
    authority: Authority
    headers: Headers
    protocol: WireProtocol = "http1"
    http_version: str = "1.1"
    names: tuple[bytes, ...] = field(init=False, repr=False, compare=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Request:
    """What goes upstream: a head, a whole body (inspected) and trailers."""

    head: RequestHead
    body: bytes = b""
    trailers: Headers = ()


@dataclass(frozen=True, slots=True)
class ResponseHead(HeadFields):
    """Status line and fields of an answer, framing fields included as the upstream sent them."""

    status: int
    reason: str
    headers: Headers
    http_version: str = "1.1"
    names: tuple[bytes, ...] = field(init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer that the proxy itself gives (denial, cache hit)."""

    head: ResponseHead
    body: bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """One detected span. `location` names the leaf (`body $.messages[0].content`, `header x-foo`, `query q`).

    `start` and `end` are character offsets in that leaf's decoded text. The matched text itself is never kept.
    """

    entity: str
    start: int
    end: int
    score: float
    recognizer: str
    location: str = ""
    action: DlpAction = "block"
    mode: Literal["enforce", "report"] = "enforce"


@dataclass(frozen=True, slots=True)
class InspectJob:
    """Everything the inspector needs to look at one outbound message, and nothing more.

    `skip_headers`: lower-case names of the entry's own credential headers, which may carry secrets.
    `placeholder_key`: 32 bytes, already derived for this app (and period); the root secret never goes there.
    `direction`: `request` (URL, headers and body), `message` (one WebSocket message in `body`), `response`.
    `tier`: of the call's model (`proxy.config.snapshot.Platform.tier_of`); rules may hold in some tiers only.
    `memo`: of the head that the job was made from; it stays in this process.
    """

    app: str
    dlp: "DlpPolicy"
    method: str
    target: str
    headers: Headers
    body: bytes
    placeholder_key: bytes
    provider: str | None = None
    skip_headers: frozenset[str] = frozenset()
    direction: Literal["request", "message", "response"] = "request"
    trailers: Headers = ()
    tier: str = "unlisted"
    memo: "HeadMemo | None" = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Inspection:
    """The inspector's verdict. `action` `transform` means: send `target`, `headers`, `body` instead (None = unchanged).

    `restore` maps each placeholder put into the request to the original text. `inspected` is `full` or
    `none:<reason>` (only where policy names the kind). `code`, `detail`, `remedy` are set when `action` is `block`;
    `would_block` holds the code that a rule or app in report mode would have used.
    """

    action: Literal["allow", "transform", "block"]
    findings: tuple[Finding, ...] = ()
    code: str | None = None
    detail: str = ""
    where: str = ""
    target: str | None = None
    headers: Headers | None = None
    body: bytes | None = None
    restore: Mapping[str, str] = field(default_factory=dict)
    inspected: str = "full"
    would_block: str | None = None
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of policy for one step. `where` is the rule's `file:line:col`."""

    action: Action
    code: str | None
    rule_id: str
    where: str
    mode: Literal["enforce", "report"]
    would_deny: bool
    detail: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one inference call, in OpenTelemetry GenAI terms. Cached tokens are included in `input_tokens`."""

    provider: str
    operation: str
    request_model: str
    response_model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """Money of one call in nano-dollars; `priced` False: no price is known (never a guess). `source`: the price row."""

    usd_nanos: int
    priced: bool
    source: str


@dataclass(frozen=True, slots=True)
class Reservation:
    """An amount held for one exchange in the app's daily and monthly budgets, until it is settled."""

    id: str
    app: str
    usd_nanos: int
    day: str
    month: str


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """A stored inference answer, before restore. `body` is the decoded payload as relayed (SSE events included)."""

    status: int
    headers: Headers
    body: bytes
    stored_at_s: float
    model: str
    input_tokens: int
    output_tokens: int
    usd_nanos: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an upgraded or tunnelled connection carried. Sizes in bytes."""

    sent_bytes: int = 0
    received_bytes: int = 0
    messages: int = 0
    findings: int = 0
    close_code: int | None = None


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One line of the audit trail, without seq and chain fields (the writer adds those). Values are JSON-able."""

    id: str
    kind: Literal["terminal", "open", "event"]
    time_s: float
    fields: dict[str, Any]
