"""Issue bullet 7: repeated inference calls, as the openai SDK sees them."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.full_stack.kit import EMAIL, WORKERS, House, say
from tests.lab.upstream import Received, raw, reply_json


def _ask(house: House, app: str, text: str, **options: Any) -> tuple[str, str | None, str | None]:
    """(answer, X-Cache, Age)."""
    made = house.openai(app).chat.completions.with_raw_response.create(**say(text), **options)
    content = made.parse().choices[0].message.content or ""
    return content, made.headers.get("x-cache"), made.headers.get("age")


def _ask_stream(house: House, app: str, text: str) -> tuple[str, str | None]:
    made = house.openai(app).chat.completions.with_raw_response.create(**say(text), stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in made.parse() if chunk.choices]
    return "".join(parts), made.headers.get("x-cache")


def _writers(house: House, app: str) -> Counter[str]:
    """Hits of an app by the worker that gave them, as the audit trail tells."""
    return Counter(record["writer"] for record in house.product.records(cache="hit", app=app))


def _until_hit(house: House, app: str, text: str, deadline_s: float = 10.0) -> None:
    """Returns once every worker has given the answer from its cache: puts are batched behind it."""
    before = _writers(house, app)
    until_s = time.monotonic() + deadline_s
    while len(_writers(house, app) - before) < WORKERS:
        _ask(house, app, text)
        assert time.monotonic() < until_s, "no hit on every worker"


def test_plain_hit_miss_and_age(house: House) -> None:
    text = f"plain {time.time()}"
    first = _ask(house, "cached", text)
    assert first == (f"You said: {text}", "miss", None)
    _until_hit(house, "cached", text)
    again, cached, age = _ask(house, "cached", text)
    assert (again, cached) == (first[0], "hit")
    assert age is not None
    assert 0 <= int(age) < 10
    calls = len(house.lab.api.requests)
    _ask(house, "cached", text)
    assert len(house.lab.api.requests) == calls
    hit = house.product.wait_for_records(1, cache="hit", app="cached")[-1]
    assert hit["cost_usd_nanos"] == 0
    assert hit["saved_output_tokens"] > 0


def test_a_stream_is_replayed_as_a_stream(house: House) -> None:
    text = f"stream {time.time()}"
    assert _ask_stream(house, "cached", text) == (f"You said: {text}", "miss")
    until_s = time.monotonic() + 5
    while _ask_stream(house, "cached", text)[1] != "hit":
        assert time.monotonic() < until_s
    assert _ask_stream(house, "cached", text)[0] == f"You said: {text}"
    # A plain call of the same prompt is another request body, so another answer.
    assert _ask(house, "cached", text)[1] == "miss"


def test_what_is_stored_has_placeholders_and_each_hit_is_restored(house: House) -> None:
    text = f"to {EMAIL} {time.time()}"
    _ask(house, "cached", text)
    _until_hit(house, "cached", text)
    assert _ask(house, "cached", text)[0] == f"You said: {text}"
    for file in house.product.paths.state_dir.rglob("*"):
        if file.is_file() and "audit" not in file.parts:
            assert EMAIL.encode() not in file.read_bytes(), file


def test_answers_never_cross_apps_or_credentials(house: House) -> None:
    text = f"whose {time.time()}"
    _ask(house, "cached", text)
    _until_hit(house, "cached", text)
    assert _ask(house, "cached-too", text)[1] == "miss"
    client = house.openai("cached").with_options(api_key="sk-proj-" + "Zz9" * 14)
    assert client.chat.completions.with_raw_response.create(**say(text)).headers.get("x-cache") == "miss"


@pytest.mark.parametrize("kind", ["error", "tool call", "truncated", "no-store"])
def test_what_is_not_worth_keeping_is_not_stored(house: House, kind: str) -> None:
    text = f"{kind} {time.time()}"
    for _ in range(6):
        house.openai("cached")  # sets the answer back
        call = _BAD[kind]
        assert call(house, text) in ("miss", None)
    assert len(house.lab.api.requests) == 6


def _error(house: House, text: str) -> str | None:
    client = house.openai("cached")
    house.lab.api.answer = reply_json({"error": {"message": "busy"}}, status=503)
    with _Caught() as caught:
        client.chat.completions.create(**say(text))
    return caught.header


class _Caught:
    """Takes an API error and keeps its X-Cache."""

    header: str | None = None

    def __enter__(self) -> "_Caught":
        return self

    def __exit__(self, _kind: object, error: Any, _trace: object) -> bool:
        self.header = getattr(getattr(error, "response", None), "headers", {}).get("x-cache")
        return error is not None


def _tool(house: House, text: str) -> str | None:
    tool: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    made = house.openai("cached").chat.completions.with_raw_response.create(
        **say(text), tools=[tool], tool_choice="required"
    )
    return made.headers.get("x-cache")


def _truncated(house: House, text: str) -> str | None:
    client = house.openai("cached")

    def cut(received: Received) -> Any:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        part = (
            b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini",'
            b'"choices":[{"index":0,"delta":{"content":"half"},"finish_reason":null}]}\n\n'
        )
        return raw(head, b"%x\r\n%s\r\n" % (len(part), part))(received)

    house.lab.api.answer = cut
    made = client.chat.completions.with_raw_response.create(**say(text), stream=True)
    with _Caught():
        list(made.parse())
    return made.headers.get("x-cache")


def _no_store(house: House, text: str) -> str | None:
    return _ask(house, "cached", text, extra_headers={"Cache-Control": "no-store"})[1]


_BAD: dict[str, Callable[[House, str], str | None]] = {
    "error": _error, "tool call": _tool, "truncated": _truncated, "no-store": _no_store,
}  # fmt: skip


def test_the_ttl_ends_it(lab_factory: Callable[..., Any]) -> None:
    from tests.full_stack.kit import House, Llm, Talk

    def setup(lab: Any) -> None:
        entry = lab.policy.entry("openai", lab.api, host="openai.lab.test", credentials={"headers": ["authorization"]})
        lab.policy.app("cached", entry, cache={"ttl": "2s"}, dlp={"otherwise": "allow"})

    house = House(lab_factory(setup), Llm(), Talk())
    _ask(house, "cached", "ttl")
    until_s = time.monotonic() + 1.5
    while _ask(house, "cached", "ttl")[1] != "hit":
        assert time.monotonic() < until_s
    until_s = time.monotonic() + 4
    while _ask(house, "cached", "ttl")[1] == "hit":
        assert time.monotonic() < until_s, "older than its TTL and still given"
