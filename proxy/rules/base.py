"""What a policy rule is. A module of this package exports one `RULE` and is found by listing.

Policy works by elimination: all entries of the app are candidates, and each rule removes those that do not admit the
request. The denial is that of the rule that removed the last candidate; it can say what the closest entry would have
admitted. Rules of kind `gate` judge the app, the host or the request as such, before any entry is looked at.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

from proxy.config.snapshot import AppPolicy, Entry, Snapshot
from proxy.model import Authority, Listener, Principal, RequestHead
from proxy.values import dataclass

type Stage = Literal["connect", "hello", "head", "body"]
STAGES: Final[tuple[Stage, ...]] = ("connect", "hello", "head", "body")
FROM_CONNECT: Final = frozenset(STAGES)
FROM_HELLO: Final = frozenset(STAGES[1:])
FROM_HEAD: Final = frozenset(STAGES[2:])
FROM_BODY: Final = frozenset(STAGES[3:])


@dataclass(frozen=True)
class Facts:
    """What is known of a request at a stage: CONNECT or original destination, ClientHello, request head, whole body.

    `authority`: where the request would go. `sni`: as sent, None when absent or not TLS. `model`: of an inference
    call, at stage `body`. `provider`: the API that the call speaks, when it is known. `credential_digest`: field value
    -> `hmac-sha256:HEX`; None: pins cannot be verified, so that pinned entries admit nothing.
    """

    stage: Stage
    principal: Principal
    listener: Listener
    authority: Authority
    now_s: float
    sni: str | None = None
    head: RequestHead | None = None
    model: str | None = None
    kills: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    credential_digest: Callable[[bytes], str] | None = None
    provider: str | None = None

    @cached_property
    def path(self) -> str:
        """The canonical path; raises ValueError when the target has none."""
        from proxy.net.names import canonical_path

        return canonical_path(self.head.target) if self.head is not None else "/"


class Verdict(NamedTuple):
    """Why not. `where`: `file:line:col` of what decided; `allowed`: what would have been admitted, for the remedy."""

    code: str
    detail: str
    where: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Gate:
    """A rule that judges before entries are looked at. `judge` returns None when it has nothing against the request."""

    name: str
    order: int
    stages: frozenset[Stage]
    judge: Callable[[Facts, AppPolicy, Snapshot], Verdict | None]
    what: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that removes entries. `admits` is called on the hot path; `refuse` only when it removed the last entry,
    with those it removed. `bites_in_report`: not softened by an app's report mode.

    A permission holds for the rest of its second for equal facts (proxy.rulings): a rule must be a pure function of
    what it is given, counts time in whole seconds, and does not look at Content-Length (limits and framing do).
    """

    name: str
    order: int
    stages: frozenset[Stage]
    admits: Callable[[Entry, Facts, Snapshot], bool]
    refuse: Callable[[Sequence[Entry], Facts, Snapshot], Verdict]
    what: str
    bites_in_report: bool = False


def listed(words: Iterable[object], limit: int = 8) -> str:
    """A few words for a sentence: sorted, cut after `limit`."""
    texts = sorted({str(word) for word in words})
    return ", ".join(texts[:limit]) + (f" and {len(texts) - limit} more" if len(texts) > limit else "")


def printable(text: str, limit: int = 80) -> str:
    """Text that the caller sent, cut and without control characters, quoted."""
    clean = "".join(char if char.isprintable() and char.isascii() else "?" for char in text)
    return f"'{clean if len(clean) <= limit else clean[:limit] + '…'}'"
