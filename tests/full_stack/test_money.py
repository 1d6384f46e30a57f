"""Issue bullet 8: tokens and money, over two workers, against the upstream's own books."""

import csv
import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import openai
import pytest

from tests.full_stack.kit import House, say
from tests.lab.product import eventually


def _usage(house: House, app: str, form: str = "json") -> Any:
    out = house.product.cli("usage", "--app", app, "--by", "app", "--format", form).stdout
    return json.loads(out)["rows"] if form == "json" else out


def _row(house: House, app: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The app's row once it is as wanted: workers ship their counts a moment later."""

    def look() -> dict[str, Any] | None:
        rows = _usage(house, app)
        return rows[0] if rows and wanted(rows[0]) else None

    return eventually(look, f"the usage of {app}")


def test_the_cap_is_written_into_the_request_and_only_that(house: House) -> None:
    house.openai("narrow").chat.completions.create(**say("hi"))
    house.openai("narrow").chat.completions.create(**say("hi"), max_completion_tokens=7)
    first, second = (request.json() for request in house.lab.api.requests)
    caps = {name: value for name, value in first.items() if name.startswith("max_")}
    assert list(caps.values()) == [100]
    assert first == {**say("hi"), **caps}
    assert second["max_completion_tokens"] == 7
    house.fresh()
    with pytest.raises(openai.PermissionDeniedError, match="output tokens"):
        house.openai("narrow").chat.completions.create(**say("hi"), max_completion_tokens=101)
    assert house.lab.api.raw == b""


def test_fifty_at_once_and_a_budget_for_ten(house: House) -> None:
    """Each call may cost 60 tokens out and some 9 in at 1000 USD per million: 0.07 USD; the day has 1 USD."""

    def call(number: int) -> str:
        try:
            client = house.openai("poor")
            client.chat.completions.create(**say(f"word {number}", model="house-1"))
        except openai.RateLimitError as refused:
            assert "budget_exceeded" in str(refused)
            assert int(refused.response.headers["retry-after"]) > 0
            return "refused"
        return "answered"

    house.lab.api.answer = house.llm
    with ThreadPoolExecutor(50) as pool:
        outcomes = list(pool.map(call, range(50)))
    records = house.new(50, app="poor")
    reached = [record for record in records if record["outcome"] == "allowed"]
    spent = sum(record["cost_usd_nanos"] for record in reached)
    assert spent <= 1_000_000_000
    assert outcomes.count("answered") == len(house.lab.api.requests) == len(reached)
    assert 1 <= len(reached) <= 50
    own = sum(bill["prompt_tokens"] + bill["completion_tokens"] for bill in house.llm.bill)
    assert spent == own * 1_000_000
    # At no moment could the calls under way together have cost more than the day's budget.
    assert max(record["reserved_usd_nanos"] for record in reached) * 10 <= 1_000_000_000


def test_usage_equals_the_upstreams_own_books(house: House) -> None:
    client = house.openai("priced")
    before = (_usage(house, "priced") or [{"requests": 0, "input_tokens": 0, "output_tokens": 0}])[0]
    for number in range(3):
        client.chat.completions.create(**say(f"tell me {number}"))
        list(client.chat.completions.create(**say(f"tell me {number}"), stream=True))
    bill = house.llm.bill
    assert len(bill) == 6
    row = _row(house, "priced", lambda row: row["requests"] == before["requests"] + 6)
    assert row["input_tokens"] - before["input_tokens"] == sum(one["prompt_tokens"] for one in bill)
    assert row["output_tokens"] - before["output_tokens"] == sum(one["completion_tokens"] for one in bill)
    recorded = house.new(6)
    assert not any(record["estimated"] for record in recorded)
    # gpt-4o-mini: 0.15 and 0.60 USD per million tokens.
    for record in recorded:
        tokens = record["gen_ai.usage.input_tokens"] * 150 + record["gen_ai.usage.output_tokens"] * 600
        assert record["cost_usd_nanos"] == tokens
    table = _usage(house, "priced", "table")
    assert "priced" in table
    (line,) = csv.DictReader(io.StringIO(_usage(house, "priced", "csv")))
    assert int(line["requests"]) == row["requests"]
    assert Decimal(line["cost_usd"]) * 10**9 == row["cost_usd_nanos"]
    eventually(lambda: house.product.metric("cost_usd_nanos_total", app="priced") > 0, "the metric")


def test_an_unpriced_model_follows_the_policy(house: House) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="unpriced"):
        house.openai("priced").chat.completions.create(**say("hi", model="nobody-knows-1"))
    assert house.lab.api.raw == b""
    house.openai("lenient").chat.completions.create(**say("hi", model="nobody-knows-1"))
    record = house.one(app="lenient")
    assert record["price_source"] == "unpriced"
    assert "cost_usd_nanos" not in record
    assert _row(house, "lenient", lambda row: row["unpriced"] >= 1)["cost_usd_nanos"] == 0
    eventually(lambda: house.product.metric("unpriced_total", app="lenient") >= 1, "the metric")


def test_an_aborted_stream_is_settled_from_what_was_seen(house: House) -> None:
    gate = threading.Event()
    house.llm.before_part = lambda: gate.wait(10)
    stream = house.openai("priced").chat.completions.create(**say("one two three four five six"), stream=True)
    next(iter(stream))
    stream.response.close()
    record = house.one()
    gate.set()
    assert (record["outcome"], record["aborted_by"], record["estimated"]) == ("aborted", "client", True)
    assert 0 < record["cost_usd_nanos"] < record["reserved_usd_nanos"]
