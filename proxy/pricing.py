"""Money of a call: integer rates compiled once per model from genai-prices and the platform's own rows.

Rates are pico-dollars per token (1 USD per million tokens = 1,000,000), amounts nano-dollars, rounded once per call.
Covered: input, output, cached reads and writes, reasoning where it is priced apart, size tiers (crossing one prices
the whole call), a fee per request, price changes by date and by time of day. Not covered, because Usage does not tell
it: service tiers and batch discounts, one-hour cache writes, audio, image and video tokens, and tools billed per use.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
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
        picos = self.request_picos + (size - read - written) * _at(self.input, size)
        picos += (usage.output_tokens - reasoned) * _at(output, size)
        if read:
            picos += read * _at(self.cache_read or self.input, size)
        if written:
            picos += written * _at(self.cache_write or self.input, size)
        if reasoned:
            picos += reasoned * _at(self.reasoning or output, size)
        return picos

    def worst_picos(self, input_tokens: int, output_tokens: int) -> int | None:
        """The most that a call of up to so many tokens can cost."""
        if output_tokens and self.output is None:
            return None
        dearest_input = max(_most(self.input, input_tokens), _most(self.cache_write or (), input_tokens))
        dearest_output = max(_most(self.output or (), input_tokens), _most(self.reasoning or (), input_tokens))
        return self.request_picos + input_tokens * dearest_input + output_tokens * dearest_output


def _at(tiers: Tiers, size: int) -> int:
    if len(tiers) == 1:
        return tiers[0][1]
    rate = 0
    for start, picos in tiers:
        if size <= start:
            break
        rate = picos
    return rate


def _most(tiers: Tiers, size: int) -> int:
    if len(tiers) <= 1:
        return tiers[0][1] if tiers else 0
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


type _Priced = tuple[Rates, str]
"""Rates and the row that they come from."""
_NO_PRICE: Final = None, ""


@dataclass(frozen=True, slots=True)
class _Offer:
    """What is known of one model's price: the platform's rows (since when, rates, source), and genai-prices'."""

    own: tuple[tuple[float, Rates, str], ...]
    listed: _Model | None

    def own_at(self, at_s: float) -> _Priced | tuple[None, str]:
        for from_s, rates, source in self.own:
            if from_s <= at_s:
                return rates, source
        return _NO_PRICE

    def listed_at(self, at_s: float) -> _Priced | tuple[None, str]:
        return (self.listed.rates(at_s), self.listed.source) if self.listed is not None else _NO_PRICE

    def candidates(self, at_s: float | None) -> Sequence[_Priced]:
        """Those that hold at `at_s`; None: all, whenever they hold, of the platform's if it has any."""
        if at_s is None:
            if self.own:
                return [(rates, source) for _, rates, source in self.own]
            return [(rates, self.listed.source) for _, rates in self.listed.rows] if self.listed is not None else ()
        for rates, source in (self.own_at(at_s), self.listed_at(at_s)):
            if rates is not None:
                return ((rates, source),)
        return ()


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
        self._offers: dict[tuple[str, str], _Offer] = {}
        self._dearest: dict[str, tuple[Rates, ...]] = {}

    @classmethod
    def of(cls, platform: Platform) -> "PriceBook":
        """The price book of a platform file."""
        return cls(platform.prices, platform.models)

    def warm(self, models: Iterable[tuple[str, str]]) -> None:
        """Compiles (provider, model) pairs ahead of their first call."""
        for provider, model in models:
            self._sold(provider, model)

    def cost(self, usage: Usage, at_s: float) -> Cost:
        """What a call cost. The model that answered counts; the one asked for when that one has no price.

        The platform's rows for either of them win, so that a deployment's name can be priced.
        """
        answered, asked = usage.response_model, usage.request_model
        models = (answered,) if asked == answered or not asked else (answered, asked) if answered else (asked,)
        sold = [self._sold(usage.provider, model) for model in models if model]
        for own in (True, False):
            for offer in sold:
                rates, source = offer.own_at(at_s) if own else offer.listed_at(at_s)
                picos = rates.picos(usage) if rates is not None else None
                if picos is not None:
                    return Cost((picos + _PICOS_PER_NANO // 2) // _PICOS_PER_NANO, priced=True, source=source)
        return _UNPRICED

    def worst_case(
        self, provider: str, model: str, input_tokens: int, output_cap: int | None, *, at_s: float | None = None
    ) -> Cost:
        """The most that a call can cost, rounded up. `output_cap` of all choices together, None for none.

        Without `at_s` the dearest of all the model's rows counts, whenever it holds.
        """
        worst = _UNPRICED
        for rates, source in self._sold(provider, model).candidates(at_s):
            picos = rates.worst_picos(input_tokens, output_cap or 0)
            nanos = 0 if picos is None else -(-picos // _PICOS_PER_NANO)
            if picos is not None and (not worst.priced or nanos > worst.usd_nanos):
                worst = Cost(nanos, priced=True, source=source)
        return worst

    def dearest(self, provider: str, input_tokens: int, output_tokens: int) -> Cost:
        """The most that a call of a model without a price would cost at the dearest known rates of its provider: what
        is held for it. Not `priced`: nothing is charged by it. Zero where no price of the provider is known."""
        vendor = _priced_as(provider)
        if vendor not in self._dearest:
            own = [_own_rates(row) for (seller, _), rows in self._own.items() for row in rows if seller == vendor]
            self._dearest[vendor] = tuple(own) + _listed_rates(vendor)
        picos = (rates.worst_picos(input_tokens, output_tokens) for rates in self._dearest[vendor])
        return Cost(-(-max((each or 0 for each in picos), default=0) // _PICOS_PER_NANO), priced=False, source="")

    def _sold(self, provider: str, model: str) -> _Offer:
        """Found once per model: names and dates are looked through, and genai-prices is asked, then."""
        key = (provider, model)
        offer = self._offers.get(key)
        if offer is None:
            if len(self._offers) >= _MAX_MODELS:
                self._offers.clear()
            vendors = self._sold_by(provider, model)
            # By vendor, the latest row first.
            own = [row for vendor in vendors for row in reversed(self._own.get((vendor, model), ()))]
            listed = next((found for vendor in vendors if (found := _compile(vendor, model))), None)
            rows = tuple((row.from_s, _own_rates(row), row.source) for row in own)
            offer = self._offers[key] = _Offer(rows, listed)
        return offer

    def _sold_by(self, provider: str, model: str) -> Sequence[str]:
        """Under whose name the model may be priced: who serves it, and whom the catalogue names."""
        named = self._vendors.get(model)
        served = _priced_as(provider)
        return (served,) if named is None or not provider.endswith("_compatible") else (served, _priced_as(named))


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


@cache
def _listed_rates(vendor: str) -> tuple[Rates, ...]:
    """Each once, of all models that genai-prices lists for the vendor."""
    from genai_prices.data_snapshot import get_snapshot

    provider = next((provider for provider in get_snapshot().providers if provider.id == vendor), None)
    models = provider.models if provider is not None else ()
    return tuple({rates for info in models for _, price in _rows(info) if (rates := _rates_of(price)) is not None})


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
