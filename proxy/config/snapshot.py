"""The compiled policy: immutable, complete, and all that the hot path reads.

Built by `proxy.config.compile` from a revision's canonical JSON. Every `at` is the `file:line:col` of the rule in the
files it came from. Times are Unix seconds, money integer nano-dollars, sizes bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Final, Literal

from proxy.model import DlpAction, WireProtocol

type Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class DlpRule:
    """One `dlp.rules` item, classes already resolved to entities. Matches a finding whose entity is in `entities`
    when at least `at_least` distinct values of these entities occur in the message. `tiers` not empty: only where the
    call's model is of one of them."""

    entities: frozenset[str]
    action: DlpAction
    at_least: int = 1
    mode: Literal["enforce", "report"] = "enforce"
    at: str = ""
    tiers: frozenset[str] = frozenset()

    def applies(self, tier: str) -> bool:
        """Whether the rule counts where the call's model is of `tier`."""
        return not self.tiers or tier in self.tiers


@dataclass(frozen=True, slots=True)
class DlpException:
    """One `dlp.except` item: literal `values` of an entity, or a `json` path whose leaf is not inspected."""

    entity: str | None = None
    values: frozenset[str] = frozenset()
    json_path: str | None = None
    expires_at_s: float | None = None
    at: str = ""


@dataclass(frozen=True, slots=True)
class DlpDictionary:
    """One `dlp.dictionaries` item: `words` are findings of `entity`, as whole words unless said otherwise."""

    entity: str
    words: tuple[str, ...]
    case_sensitive: bool = False
    whole_words: bool = True
    at: str = ""


@dataclass(frozen=True, slots=True)
class DlpPattern:
    """One `dlp.patterns` item: an RE2 expression, found only near one of the `context` words when there are any."""

    entity: str
    regex: str
    context: frozenset[str] = frozenset()
    at: str = ""


@dataclass(frozen=True, slots=True)
class DlpExactMatch:
    """One `dlp.exact_match` item: rows of an indexed table of which `columns` of the columns `of` stand within
    `within_tokens` words of each other, once `at_least` such rows stand in one message. `index`: the hex SHA-256 of
    the index; `of` empty: all of its columns."""

    id: str
    entity: str
    index: str
    columns: int
    of: frozenset[str] = frozenset()
    within_tokens: int = 50
    at_least: int = 1
    at: str = ""


@dataclass(frozen=True, slots=True)
class DlpPolicy:
    """What to look for and what to do, for one app and destination. Severest matching rule wins:
    `proxy.model.DLP_ACTIONS` is the order; `otherwise` for entities that no rule names.
    `uninspectable`: media kind (image audio pdf encrypted unknown) -> allow | block.
    `digest` identifies the content (hex SHA-256): the inspector's cache key."""

    profile: Literal["strict", "balanced", "paranoid"]
    rules: tuple[DlpRule, ...]
    otherwise: DlpAction
    exceptions: tuple[DlpException, ...] = ()
    uninspectable: Mapping[str, Literal["allow", "block"]] = field(default_factory=dict)
    response_rules: tuple[DlpRule, ...] = ()
    mode: Literal["enforce", "report"] = "enforce"
    digest: str = ""
    dictionaries: tuple[DlpDictionary, ...] = ()
    patterns: tuple[DlpPattern, ...] = ()
    exact_match: tuple[DlpExactMatch, ...] = ()

    @property
    def has_custom_data(self) -> bool:
        """Whether something is looked for that only this policy knows."""
        return bool(self.dictionaries or self.patterns or self.exact_match)


@dataclass(frozen=True, slots=True)
class CachePolicy:
    ttl_s: int
    only_deterministic: bool = False


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """`None` limits are unlimited. `on_unavailable`: what happens when no lease can be had from the store."""

    daily_usd_nanos: int | None
    monthly_usd_nanos: int | None
    time_zone: str = "UTC"
    on_exceeded: Literal["deny", "report"] = "deny"
    unpriced: Literal["deny", "allow"] = "deny"
    on_unavailable: Literal["deny", "allow"] = "deny"
    at: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    max_body_bytes: int = 4 << 20
    requests_per_minute: int | None = None
    max_output_tokens: int | None = None
    connections: int | None = None


@dataclass(frozen=True, slots=True)
class CredentialPolicy:
    """`headers`: lower-case names that may carry the key. `pins`: `hmac-sha256:<hex>` digests; empty = any key of the
    provider's own form."""

    headers: frozenset[str]
    pins: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Entry:
    """One allowlist rule. `host` is canonical; with `wildcard` it is the suffix below which any depth matches.
    `methods`, `paths`, `models`, `tiers` None = any. `addresses` None = public addresses only.
    `upstream_ca` is PEM text of extra roots. `dlp`, `cache`, `limits` are resolved (entry over app over platform)."""

    rule_id: str
    host: str
    wildcard: bool
    scheme: Literal["https", "http"]
    ports: frozenset[int]
    methods: frozenset[str] | None
    paths: tuple[str, ...] | None
    models: frozenset[str] | None
    tiers: frozenset[str] | None
    protocols: frozenset[WireProtocol]
    passthrough: bool
    credentials: CredentialPolicy | None
    addresses: tuple[Network, ...] | None
    upstream_ca: str | None
    dlp: DlpPolicy
    cache: CachePolicy | None
    limits: Limits
    expires_at_s: float | None
    sandbox: bool = False
    connector: str = ""
    subdomains: Literal["plain", "any"] = "plain"
    at: str = ""


@dataclass(frozen=True, slots=True)
class AppPolicy:
    """One app. `digest` is the hex SHA-256 of its compiled policy without marks: same content, same digest. `source`
    identifies what it was compiled from, marks included: same source, same object after a reload."""

    app: str
    owner: str
    cost_center: str
    stage: Literal["draft", "sandbox", "production", "suspended"]
    expires_at_s: float | None
    mode: Literal["enforce", "report"]
    report_until_s: float | None
    networks: tuple[Network, ...]
    token: bool
    entries: tuple[Entry, ...]
    dlp: DlpPolicy
    cache: CachePolicy | None
    budget: BudgetPolicy | None
    limits: Limits
    digest: str
    at: str = ""
    source: str = ""


UNLISTED: Final = "unlisted"
"""The tier of calls whose model the catalogue does not know, and of what is no call of a model."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    provider: str
    tier: str


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """Rates in pico-dollars per token (1 USD per million tokens = 1,000,000 pico-dollars per token)."""

    provider: str
    model: str
    input_usd_picos: int
    output_usd_picos: int
    source: str
    from_s: float
    cache_read_usd_picos: int | None = None
    cache_write_usd_picos: int | None = None


@dataclass(frozen=True, slots=True)
class HostPattern:
    """An exact host, or (`wildcard`) any name below it."""

    host: str
    wildcard: bool
    at: str = ""

    def matches(self, host: str) -> bool:
        """True when canonical `host` is this host, or lies below it for a wildcard."""
        return host.endswith("." + self.host) if self.wildcard else host == self.host


@dataclass(frozen=True, slots=True)
class Platform:
    listen: Mapping[str, str]
    deny: tuple[HostPattern, ...]
    models: Mapping[str, ModelFacts]
    prices: tuple[PriceOverride, ...]
    classes: Mapping[str, frozenset[str]]
    publishers: Mapping[str, str]
    sandbox: tuple[HostPattern, ...] = ()
    resolve: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    max_staleness_s: int | None = None

    def tier_of(self, model: str | None) -> str:
        """The model's tier in the catalogue, else `unlisted`."""
        known = self.models.get(model) if model is not None else None
        return known.tier if known is not None else UNLISTED


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One revision, ready to use. Immutable; a reload builds a new one and swaps the reference."""

    revision: str
    seq: int
    platform: Platform
    apps: Mapping[str, AppPolicy]
