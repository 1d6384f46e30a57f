"""Prices: genai-prices as the oracle, the platform's own rows, the worst case."""

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.snapshot import ModelFacts, PriceOverride
from proxy.model import Usage
from proxy.pricing import PriceBook

# Our names of the vendors that genai-prices calls otherwise.
NAMES = {"azure": "azure.ai.openai", "mistral": "mistral_ai", "x-ai": "x_ai", "google": "gcp.gemini"}
NOW_S = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
TIMES_S = (NOW_S, datetime(2024, 6, 1, 3, 30, tzinfo=UTC).timestamp(), datetime(2025, 9, 1, 20, tzinfo=UTC).timestamp())
SIZES = ((1, 1, 0, 0), (1000, 500, 300, 0), (1000, 500, 300, 200), (200_000, 10, 0, 0), (300_001, 7777, 1000, 99))
BOOK = PriceBook()


def usage(
    provider: str, model: str, given: int = 0, taken: int = 0, read: int = 0, written: int = 0, **more: Any
) -> Usage:
    return Usage(
        provider=provider,
        operation="chat",
        request_model=more.pop("request_model", model),
        response_model=model,
        input_tokens=given,
        output_tokens=taken,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        **more,
    )


def oracle(provider: str, model: str, size: tuple[int, int, int, int], at_s: float, reasoning: int) -> Decimal | None:
    given, taken, read, written = size
    theirs = TheirUsage(
        input_tokens=given,
        output_tokens=taken,
        cache_read_tokens=read,
        cache_write_tokens=written,
        output_reasoning_tokens=reasoning,
    )
    at = datetime.fromtimestamp(at_s, UTC)
    try:
        found = calc_price(theirs, model, provider_id=provider, genai_request_timestamp=at)
    except LookupError:
        return None
    price: Any = found.model_price
    return found.total_price if price.input_mtok is not None and price.output_mtok is not None else None


def models() -> list[tuple[str, str]]:
    """All models of the vendors that our providers reach, and every seventh of the others."""
    reached = {
        "openai",
        "anthropic",
        "azure",
        "mistral",
        "groq",
        "deepseek",
        "x-ai",
        "google",
        "perplexity",
        "cerebras",
    }
    found = []
    for provider in get_snapshot().providers:
        step = 1 if provider.id in reached else 7
        found += [(provider.id, model.id) for model in provider.models[::step]]
    return found


def test_costs_agree_with_genai_prices_within_a_nano() -> None:
    """Every priced model, in several sizes and at several times, costs what genai-prices says."""
    compared = 0
    for provider, model in models():
        for at_s in TIMES_S:
            for size in SIZES:
                expected = oracle(provider, model, size, at_s, min(size[1], 5))
                ours = BOOK.cost(
                    usage(NAMES.get(provider, provider), model, *size, reasoning_tokens=min(size[1], 5)), at_s
                )
                if expected is None:
                    continue
                assert ours.priced, (provider, model)
                assert abs(Decimal(ours.usd_nanos) - expected * 10**9) <= 1, (provider, model, size, at_s)
                compared += 1
    assert compared > 5000


@given(st.sampled_from(models()), st.integers(0, 10**6), st.integers(0, 10**5), st.data())
def test_the_worst_case_covers_every_call_within_it(model: tuple[str, str], given: int, taken: int, data: Any) -> None:
    """No call of up to so many tokens costs more than was reserved, at any time."""
    provider = NAMES.get(model[0], model[0])
    worst = BOOK.worst_case(provider, model[1], given, taken)
    sent = data.draw(st.integers(0, given))
    read = data.draw(st.integers(0, sent))
    written = data.draw(st.integers(0, sent - read))
    got = data.draw(st.integers(0, taken))
    cost = BOOK.cost(usage(provider, model[1], sent, got, read, written), data.draw(st.sampled_from(TIMES_S)))
    if worst.priced:
        assert cost.usd_nanos <= worst.usd_nanos


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "no-such-model"), ("openai_compatible", "gpt-4o-mini"), ("nobody", "gpt-4o-mini"), ("openai", "")],
)
def test_unknown_is_unpriced_never_zero_cost_by_guess(provider: str, model: str) -> None:
    """A model or vendor that is not known has no price."""
    cost = BOOK.cost(usage(provider, model, 10, 10), NOW_S)
    assert (cost.usd_nanos, cost.priced, cost.source) == (0, False, "")
    assert not BOOK.worst_case(provider, model, 10, 10).priced


def test_a_call_without_a_price_holds_what_the_dearest_of_its_provider_could_cost() -> None:
    """No model of the list may cost more; and it stays without a price."""
    held = BOOK.dearest("anthropic", 1000, 500)
    (listed,) = (each for each in get_snapshot().providers if each.id == "anthropic")
    worst = [BOOK.worst_case("anthropic", info.id, 1000, 500) for info in listed.models]
    assert held.usd_nanos >= max(cost.usd_nanos for cost in worst) > 0
    assert not held.priced
    assert BOOK.dearest("nobody", 1000, 500).usd_nanos == 0


def test_the_platforms_own_rows_count_among_the_dearest() -> None:
    row = PriceOverride("house", "m", 5_000_000, 7_000_000, "contract", 0.0)
    assert PriceBook([row]).dearest("house", 10, 20).usd_nanos == (10 * 5_000_000 + 20 * 7_000_000) // 1000


def test_a_model_without_token_prices_is_unpriced() -> None:
    """Whisper is billed by the hour, which Usage does not tell."""
    assert not BOOK.cost(usage("openai", "whisper-1", 10, 10), NOW_S).priced


def row(model: str, picos: int, from_s: float = 0, provider: str = "openai", **more: Any) -> PriceOverride:
    return PriceOverride(provider, model, picos, 2 * picos, f"contract {picos}", from_s, **more)


def test_own_rows_win_from_their_date_on() -> None:
    """The latest row that holds counts; before the first, genai-prices does; other models are untouched."""
    book = PriceBook([row("gpt-4o-mini", 300_000, NOW_S), row("gpt-4o-mini", 100_000, NOW_S - 100)])
    spent = usage("openai", "gpt-4o-mini", 1000, 1000)
    costs = [book.cost(spent, at_s) for at_s in (NOW_S - 101, NOW_S - 100, NOW_S - 1, NOW_S)]
    assert [cost.usd_nanos for cost in costs] == [750_000, 300_000, 300_000, 900_000]
    assert [cost.source for cost in costs][1:] == ["contract 100000", "contract 100000", "contract 300000"]
    assert costs[0].source.startswith("genai-prices ")
    assert costs[0].source.endswith(" openai/gpt-4o-mini")
    assert book.worst_case("openai", "gpt-4o-mini", 1000, 1000).usd_nanos == 900_000
    assert book.worst_case("openai", "gpt-4o-mini", 1000, 1000, at_s=NOW_S - 1).usd_nanos == 300_000
    assert book.cost(usage("openai", "gpt-4o", 1000, 0), NOW_S).usd_nanos == 2_500_000


def test_own_rows_price_cached_tokens_when_they_say_so() -> None:
    """Without rates of their own cached tokens cost what input costs."""
    spent = usage("openai", "acme", 100, 0, 50, 30)
    assert PriceBook([row("acme", 1000)]).cost(spent, NOW_S).usd_nanos == 100
    rates = row("acme", 1000, cache_read_usd_picos=100, cache_write_usd_picos=2000)
    assert PriceBook([rates]).cost(spent, NOW_S).usd_nanos == 20 + 5 + 60


def test_a_deployment_is_priced_by_its_own_row_or_by_the_model_that_answered() -> None:
    """Azure's deployment names say nothing about the price; the platform may."""
    spent = usage("azure.ai.openai", "gpt-4o-mini-2024-07-18", 1000, 0, request_model="our-deployment")
    assert PriceBook().cost(spent, NOW_S).usd_nanos == 150_000
    own = PriceBook([row("our-deployment", 7000, provider="azure.ai.openai")])
    assert own.cost(spent, NOW_S).usd_nanos == 7000
    unknown = usage("openai", "mystery-2026", 1000, 0, request_model="gpt-4o-mini")
    assert PriceBook().cost(unknown, NOW_S).usd_nanos == 150_000


def test_the_catalogue_prices_compatible_hosts_only() -> None:
    """A gateway's model costs what the catalogue's vendor charges; a known vendor's host is not renamed."""
    book = PriceBook(models={"gpt-4o-mini": ModelFacts("openai", "trusted")})
    assert book.cost(usage("openai_compatible", "gpt-4o-mini", 1000, 0), NOW_S).usd_nanos == 150_000
    assert not book.cost(usage("groq", "gpt-4o-mini", 1000, 0), NOW_S).priced


def test_money_is_rounded_once() -> None:
    """One token of a small model costs 150 nano-dollars; halves of a nano round up, once per call."""
    assert BOOK.cost(usage("openai", "gpt-4o-mini", 1, 0), NOW_S).usd_nanos == 150
    book = PriceBook([row("acme", 500)])
    assert [book.cost(usage("openai", "acme", count, 0), NOW_S).usd_nanos for count in (1, 2, 3)] == [1, 1, 2]
    assert book.worst_case("openai", "acme", 3, 0).usd_nanos == 2


def test_lying_usage_is_cut_down() -> None:
    """More cached tokens than tokens cannot make a call cheaper than all of them cached."""
    liar = usage("openai", "gpt-4o-mini", 10, 0, 1000, 1000)
    assert BOOK.cost(liar, NOW_S).usd_nanos == 750


def test_many_model_names_do_not_fill_memory() -> None:
    """Clients choose names; what is remembered of them stays bounded."""
    book = PriceBook()
    for number in range(4200):
        book.cost(usage("nobody", f"m{number}", 1, 1), NOW_S)
    assert len(book._offers) <= 4096


def test_a_known_price_needs_no_genai_prices() -> None:
    """After the first look-up a cost is arithmetic: far below what genai-prices takes (some 100 µs)."""
    spent = usage("openai", "gpt-4o-mini", 1000, 500, 10)
    BOOK.warm([("openai", "gpt-4o-mini")])
    started = time.process_time()
    for _ in range(2000):
        BOOK.cost(spent, NOW_S)
    assert (time.process_time() - started) / 2000 < 50e-6
