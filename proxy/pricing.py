"""Money of a call: integer rates compiled once per model from genai-prices and the platform's own rows.

Rates are pico-dollars per token (1 USD per million tokens = 1,000,000), amounts nano-dollars, rounded once per call.
Covered: input, output, cached reads and writes, reasoning where it is priced apart, size tiers (crossing one prices
the whole call), a fee per request, price changes by date and by time of day. Not covered, because Usage does not tell
it: service tiers and batch discounts, one-hour cache writes, audio, image and video tokens, and tools billed per use.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from proxy.config.snapshot import ModelFacts, Platform, PriceOverride
from proxy.model import Cost, Usage
from proxy.values import dataclass

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

# OpenTelemetry gen_ai.provider.name -> id in genai-prices, where they differ.
_PRICED_AS: Final = {"azure.ai.openai": "azure", "mistral_ai": "mistral", "x_ai": "x-ai", "gcp.gemini": "google"}
_PICOS_PER_NANO = 1000
_PICOS_PER_USD_PER_MTOK = 10**6
_PICOS_PER_USD_PER_KCOUNT = 10**9
# Clients choose model names, so what is remembered of them is bounded.
_MAX_MODELS = 4096
_UNPRICED = Cost(0, priced=False, source="")

type Tiers = tuple[tuple[int, int], ...]
"""(more input tokens than this, pico-dollars per token), ascending; the first starts at -1."""


@dataclass(frozen=True, slots=True)
class Rates:
    """One price row. None: the row has no such price, so the tokens cost what their kind's total costs."""

    input: Tiers
    output: Tiers | None
    cache_read: Tiers | None = None
    cache_write: Tiers | None = None
    reasoning: Tiers | None = None
    request_picos: int = 0

    def picos(self, usage: Usage) -> int | None:
        """The cost of a call, or None when it used what has no price."""
        if usage.output_tokens and self.output is None:
            return None
        size = usage.input_tokens
        read = min(usage.cache_read_input_tokens, size)
        written = min(usage.cache_creation_input_tokens, size - read)
        reasoned = min(usage.reasoning_tokens, usage.output_tokens)
        output = self.output or ()
        return (
            self.request_picos
            + (size - read - written) * _at(self.input, size)
            + read * _at(self.cache_read or self.input, size)
            + written * _at(self.cache_write or self.input, size)
            + (usage.output_tokens - reasoned) * _at(output, size)
            + reasoned * _at(self.reasoning or output, size)
        )

    def worst_picos(self, input_tokens: int, output_tokens: int) -> int | None:
        """The most that a call of up to so many tokens can cost."""
        if output_tokens and self.output is None:
            return None
        dearest_input = max(_most(tiers, input_tokens) for tiers in (self.input, self.cache_write or self.input))
        outputs = [tiers for tiers in (self.output, self.reasoning) if tiers is not None]
        dearest_output = max((_most(tiers, input_tokens) for tiers in outputs), default=0)
        return self.request_picos + input_tokens * dearest_input + output_tokens * dearest_output


def _at(tiers: Tiers, size: int) -> int:
    rate = 0
    for start, picos in tiers:
        if size <= start:
            break
        rate = picos
    return rate


def _most(tiers: Tiers, size: int) -> int:
    return max((picos for start, picos in tiers if size > start), default=0)


@dataclass(frozen=True, slots=True)
class _Model:
    """The rows of one model, the latest first; each with the test whether it holds at a time."""

    rows: tuple[tuple[Callable[[datetime], bool] | None, Rates], ...]
    source: str

    def rates(self, at_s: float) -> Rates:
        if len(self.rows) > 1:
            now = datetime.fromtimestamp(at_s, UTC)
            for holds, rates in self.rows:
                if holds is None or holds(now):
                    return rates
        return self.rows[-1][1]


class PriceBook:
    """Prices of one snapshot. The platform's own rows win over genai-prices; what neither knows is unpriced.

    `models`: the platform's catalogue, which says whose price a model has at a host that only speaks a vendor's API.
    genai-prices is loaded at the first look-up (0.2 s; call `warm` off the hot path) and asked once per model.
    """

    def __init__(self, prices: Iterable[PriceOverride] = (), models: Mapping[str, ModelFacts] | None = None) -> None:
        self._own: dict[tuple[str, str], list[PriceOverride]] = {}
        for row in sorted(prices, key=lambda row: row.from_s):
            self._own.setdefault((_priced_as(row.provider), row.model), []).append(row)
        self._vendors = {name: facts.provider for name, facts in (models or {}).items()}
        self._models: dict[tuple[str, str], _Model | None] = {}

    @classmethod
    def of(cls, platform: Platform) -> "PriceBook":
        """The price book of a platform file."""
        return cls(platform.prices, platform.models)

    def warm(self, models: Iterable[tuple[str, str]]) -> None:
        """Compiles (provider, model) pairs ahead of their first call."""
        for provider, model in models:
            self._compiled(provider, model)

    def cost(self, usage: Usage, at_s: float) -> Cost:
        """What a call cost. The model that answered counts; the one asked for when that one has no price.

        The platform's rows for either of them win, so that a deployment's name can be priced.
        """
        models = [model for model in dict.fromkeys((usage.response_model, usage.request_model)) if model]
        for look_up in (self._own_at, self._listed_at):
            for model in models:
                found = look_up(usage.provider, model, at_s)
                picos = found[0].picos(usage) if found else None
                if found and picos is not None:
                    nanos = (picos + _PICOS_PER_NANO // 2) // _PICOS_PER_NANO
                    return Cost(nanos, priced=True, source=found[1])
        return _UNPRICED

    def worst_case(
        self, provider: str, model: str, input_tokens: int, output_cap: int | None, *, at_s: float | None = None
    ) -> Cost:
        """The most that a call can cost, rounded up. `output_cap` of all choices together, None for none.

        Without `at_s` the dearest of all the model's rows counts, whenever it holds.
        """
        if at_s is None:
            candidates = self._all_rates(provider, model)
        else:
            found = self._own_at(provider, model, at_s) or self._listed_at(provider, model, at_s)
            candidates = [found] if found else []
        worst = _UNPRICED
        for rates, source in candidates:
            picos = rates.worst_picos(input_tokens, output_cap or 0)
            nanos = 0 if picos is None else -(-picos // _PICOS_PER_NANO)
            if picos is not None and (not worst.priced or nanos > worst.usd_nanos):
                worst = Cost(nanos, priced=True, source=source)
        return worst

    def _own_at(self, provider: str, model: str, at_s: float) -> tuple[Rates, str] | None:
        for vendor in self._sold_by(provider, model):
            current = [row for row in self._own.get((vendor, model), ()) if row.from_s <= at_s]
            if current:
                return _own_rates(current[-1]), current[-1].source
        return None

    def _listed_at(self, provider: str, model: str, at_s: float) -> tuple[Rates, str] | None:
        compiled = self._compiled(provider, model)
        return (compiled.rates(at_s), compiled.source) if compiled else None

    def _all_rates(self, provider: str, model: str) -> list[tuple[Rates, str]]:
        rows = [row for vendor in self._sold_by(provider, model) for row in self._own.get((vendor, model), ())]
        if rows:
            return [(_own_rates(row), row.source) for row in rows]
        compiled = self._compiled(provider, model)
        return [(rates, compiled.source) for _, rates in compiled.rows] if compiled else []

    def _sold_by(self, provider: str, model: str) -> Sequence[str]:
        """Under whose name the model may be priced: who serves it, and whom the catalogue names."""
        named = self._vendors.get(model)
        served = _priced_as(provider)
        return (served,) if named is None or not provider.endswith("_compatible") else (served, _priced_as(named))

    def _compiled(self, provider: str, model: str) -> _Model | None:
        key = (provider, model)
        if key not in self._models:
            if len(self._models) >= _MAX_MODELS:
                self._models.clear()
            found = (_compile(vendor, model) for vendor in self._sold_by(provider, model))
            self._models[key] = next((compiled for compiled in found if compiled), None)
        return self._models[key]


def _priced_as(provider: str) -> str:
    return _PRICED_AS.get(provider, provider)


def _own_rates(row: PriceOverride) -> Rates:
    def flat(picos: int | None) -> Tiers | None:
        return None if picos is None else ((-1, picos),)

    return Rates(
        input=((-1, row.input_usd_picos),),
        output=flat(row.output_usd_picos),
        cache_read=flat(row.cache_read_usd_picos),
        cache_write=flat(row.cache_write_usd_picos),
    )


def _compile(vendor: str, model: str) -> _Model | None:
    """The model's rows from genai-prices. Its own matching decides which model a name means."""
    from genai_prices import __version__
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    # Not its own search for a provider, which takes `openai_compatible` for OpenAI.
    provider = next((provider for provider in snapshot.providers if provider.id == vendor), None)
    info = provider.find_model(model, all_providers=snapshot.providers) if provider else None
    if provider is None or info is None:
        return None
    rows = tuple((holds, rates) for holds, price in _rows(info) if (rates := _rates_of(price)) is not None)
    return _Model(rows, f"genai-prices {__version__} {provider.id}/{info.id}") if rows else None


def _rows(info: "ModelInfo") -> "list[tuple[Callable[[datetime], bool] | None, ModelPrice]]":
    """A model's rows, the latest first; the very first one stands where no other holds."""
    if not isinstance(info.prices, list):
        return [(None, info.prices)]
    rows: list[tuple[Callable[[datetime], bool] | None, ModelPrice]] = [
        (row.constraint.active if row.constraint else None, row.prices) for row in reversed(info.prices)
    ]
    return [*rows, (None, info.prices[0].prices)] if rows and rows[-1][0] is not None else rows


def _rates_of(price: "ModelPrice") -> Rates | None:
    taken = _tiers(price.input_mtok)
    if taken is None:
        return None
    fee = price.requests_kcount
    return Rates(
        input=taken,
        output=_tiers(price.output_mtok),
        cache_read=_tiers(price.cache_read_mtok),
        cache_write=_tiers(price.cache_write_mtok),
        reasoning=_tiers(price.output_reasoning_mtok),
        request_picos=round(_base(fee) * _PICOS_PER_USD_PER_KCOUNT) if fee is not None else 0,
    )


def _tiers(price: Any) -> Tiers | None:
    """Decimal USD per million tokens, or genai-prices' tiers of it, as integer pico-dollars per token."""
    if price is None:
        return None
    steps = [(-1, _base(price)), *((tier.start, tier.price) for tier in getattr(price, "tiers", ()))]
    return tuple((start, round(usd * _PICOS_PER_USD_PER_MTOK)) for start, usd in steps)


def _base(price: Any) -> Any:
    return getattr(price, "base", price)
