"""Money and tokens: what is booked when calls end in every way that they can end."""

import asyncio
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import brotli

from proxy.config.compile import compile_snapshot, load_content
from proxy.dataplane.ledger import Ledger
from proxy.dataplane.settlement import MODELS_PER_APP
from proxy.model import Usage
from proxy.paths import Paths
from proxy.pricing import PriceBook
from proxy.stores.open import open_store
from tests.attack.answers import (
    DONE,
    IN_NANOS,
    JSON,
    OUT_NANOS,
    STREAM_HEAD,
    WAIT_S,
    answer_body,
    counted,
    event,
    open_call,
    sends,
    usage_chunk,
)  # fmt: skip
from tests.attack.client import Answer
from tests.attack.llm import Books, Model, ask, call_text
from tests.attack.procedures import Bench, procedure
from tests.attack.upstreams import Accepted, http_ok
from tests.attack.world import wait_until

_LEAVE_S = 2.0
"""How long a client may be gone before its upstream is let go; the proxy looks twice a second."""


def _let_go(sock: socket.socket, told: threading.Event) -> None:
    """Says nothing more, and tells when the proxy closes the connection."""
    sock.settimeout(WAIT_S)
    try:
        gone = not sock.recv(1)
    except ConnectionError:
        gone = True
    if gone:
        told.set()


def _one_leave(bench: Bench, books: Books) -> dict[str, int]:
    """What was booked of the one call whose client left: once, estimated, and at the price of its tokens."""
    records = books.records(1)
    told = [(one["outcome"], one.get("aborted_by"), one.get("estimated")) for one in records]
    bench.check(told == [("aborted", "client", True)], f"records (outcome, by, estimated): {told}")
    grown = books.booked(1)
    bench.check((grown["requests"], grown["estimated"]) == (1, 1), f"not one estimated call: {grown}")
    bench.check(grown["input_tokens"] > 0, f"no prompt charged: {grown}")
    cost = grown["input_tokens"] * IN_NANOS + grown["output_tokens"] * OUT_NANOS
    bench.check(grown["cost_usd_nanos"] == cost, f"{grown['cost_usd_nanos']} nano-dollars, expected {cost}")
    return grown


@procedure("MTR-01")
def stream_left(bench: Bench) -> None:
    """The client goes after 15 of 20 tokens, and the upstream is silent from then on: it is let go all the same; prompt
    and what was delivered are charged, as estimated."""
    let_go = threading.Event()

    def stream(_: Accepted, __: bytes, sock: socket.socket) -> None:
        sock.sendall(STREAM_HEAD + b"".join(event(f"word{at} ") for at in range(15)))
        _let_go(sock, let_go)

    Model(bench, stream)
    books = Books(bench)
    with open_call(bench, call_text(f"stream {bench.world.token()}", stream=True)) as sock:
        received = b""
        while b"word14" not in received and (data := sock.recv(1 << 16)):
            received += data
    bench.check(let_go.wait(_LEAVE_S), f"the upstream's connection is open {_LEAVE_S} s after the client left")
    grown = _one_leave(bench, books)
    # A word of the stream is one to three tokens.
    bench.check(15 <= grown["output_tokens"] <= 45, f"{grown['output_tokens']} tokens charged of 15 words delivered")


@procedure("MTR-02")
def left_before_answer(bench: Bench) -> None:
    """The client goes before a plain answer: the upstream is let go, and charged, since it may bill the call."""
    asked, let_go = threading.Event(), threading.Event()

    def silent(_: Accepted, __: bytes, sock: socket.socket) -> None:
        asked.set()
        _let_go(sock, let_go)

    Model(bench, silent)
    books = Books(bench)
    with open_call(bench, call_text(f"early {bench.world.token()}")):
        bench.check(asked.wait(WAIT_S), "the call never went upstream")
    bench.check(let_go.wait(_LEAVE_S), f"the upstream's connection is open {_LEAVE_S} s after the client left")
    grown = _one_leave(bench, books)
    bench.check(grown["output_tokens"] == 0, f"{grown['output_tokens']} tokens charged of no answer")


@procedure("MTR-03")
def stream_without_usage(bench: Bench) -> None:
    """Usage is asked for where the client did not, and its chunk kept from it; where the upstream gives none the
    proxy counts."""
    model, books = Model(bench), Books(bench)
    answer = ask(bench, f"one two {bench.world.token()}", stream=True)
    bench.check(b'"include_usage"' in model.requests[0], "usage was not asked for")
    bench.check(b'"usage"' not in answer.body and b"[DONE]" in answer.body, "the client sees the usage chunk")
    grown = books.booked(1)
    told = grown["input_tokens"], grown["output_tokens"], grown["estimated"]
    bench.check(told == (10, 5, 0), f"booked (input, output, estimated) {told}, the upstream said (10, 5)")
    Model(bench, sends(STREAM_HEAD + b"".join(event(f"word{at} ") for at in range(9)) + DONE))
    books = Books(bench)
    ask(bench, f"silent {bench.world.token()}", stream=True)
    grown = books.booked(1)
    bench.check(grown["estimated"] == 1 and grown["output_tokens"] >= 9, f"not counted by the proxy: {grown}")


def _told_last(*events: tuple[str, Mapping[str, object]]) -> bytes:
    """A whole stream of named events, in one chunk."""
    data = b"".join(
        (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(content).encode() + b"\n\n"
        for name, content in events
    )
    return STREAM_HEAD + b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)


def _responses(kind: str) -> bytes:
    """A stream of the Responses API that ends with `kind`, and tells its usage there only."""
    response = {"id": "r1", "object": "response", "model": "gpt-4o-mini", "status": kind.partition(".")[2]}
    usage = {"input_tokens": 10, "output_tokens": 7, "total_tokens": 17}
    delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "one two"}
    end: dict[str, object] = {"type": kind, "response": {**response, "output": [], "usage": usage}}
    return _told_last(("response.output_text.delta", delta), (kind, end))


def _messages() -> bytes:
    """A stream of the Messages API: the prompt's tokens at its start, those of the answer so far at its end."""
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "claude-lab", "content": []}
    start = {"type": "message_start", "message": {**message, "usage": {"input_tokens": 10, "output_tokens": 1}}}
    text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one two"}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}
    return _told_last(
        ("message_start", start), ("content_block_delta", text), ("message_delta", end),
        ("message_stop", {"type": "message_stop"}),
    )  # fmt: skip


@procedure("MTR-04")
def usage_at_the_end(bench: Bench) -> None:
    """Usage that stands in another last event, or twice, is one call with the right total."""
    for name, stream, call in (
        ("two chunks", STREAM_HEAD + event("a ") + usage_chunk(10, 3) + event("b ") + usage_chunk(10, 7) + DONE, {}),
        ("incomplete", _responses("response.incomplete"), _RESPONSES_CALL),
        ("failed", _responses("response.failed"), _RESPONSES_CALL),
        ("start and delta", _messages(), _MESSAGES_CALL),
    ):
        Model(bench, sends(stream))
        books = Books(bench)
        answer = ask(bench, f"twice {bench.world.token()}", **{"stream": True, **call})
        bench.check(answer.status == 200, f"{name}: {answer.status} {answer.body[:200]!r}")
        grown = books.booked(1)
        told = grown["requests"], grown["input_tokens"], grown["output_tokens"], grown["estimated"]
        bench.check(told == (1, 10, 7, 0), f"{name}: booked (calls, input, output, estimated) {told}")
        nanos = 10 * 3000 + 7 * 15_000 if call is _MESSAGES_CALL else 10 * IN_NANOS + 7 * OUT_NANOS
        bench.check(grown["cost_usd_nanos"] == nanos, f"{name}: {grown['cost_usd_nanos']} nano-dollars, not {nanos}")


_RESPONSES_CALL: dict[str, Any] = {"target": "/v1/responses", "input": "hello"}
_MESSAGES_CALL: dict[str, Any] = {
    "target": "/v1/messages", "model": "claude-lab", "max_tokens": 20,
    "key": "sk-ant-api03-" + "Ab1" * 31 + "-AAA", "fields": "Anthropic-Version: 2023-06-01\r\n",
}  # fmt: skip


@procedure("MTR-05")
def lying_model(bench: Bench) -> None:
    """A dearer model answers than was asked for: its price counts. A model without a price does not pass; where policy
    lets it, the budget holds the dearest known price of its provider, and it is counted as unpriced."""
    Model(bench, sends(http_ok(answer_body(counted(1000, 1000), "gpt-4o"), JSON)))
    books = Books(bench)
    ask(bench, f"lying {bench.world.token()}")
    records = books.records(1)
    named = [one.get("gen_ai.response.model") for one in records]
    bench.check(named == ["gpt-4o"], f"the record names {named} as the model that answered")
    cost = sum(one.get("cost_usd_nanos", 0) for one in records)
    bench.check(cost == 12_500_000, f"{cost} nano-dollars, expected 12500000 by the price of gpt-4o")
    model = Model(bench)
    answer = ask(bench, f"unknown {bench.world.token()}", model="no-such-model")
    bench.check(answer.status in {402, 403} and b"unpriced" in answer.head, f"an unknown model gets {answer.status}")
    bench.check(not model.requests, "a call of unknown price went upstream")
    apps = bench.world.apps
    strict = apps["caller"]["budget"]
    apps["caller"]["budget"] = {**strict, "unpriced": "allow"}
    bench.world.push()
    try:
        _unpriced(bench)
    finally:
        apps["caller"]["budget"] = strict
        bench.world.push()


def _unpriced(bench: Bench) -> None:
    Model(bench, sends(http_ok(answer_body(counted(10, 5), "no-such-model"), JSON)))
    books, before = Books(bench), bench.world.page("/metrics").count("egress_unpriced_total{")
    answer = ask(bench, f"unpriced {bench.world.token()}", model="no-such-model", max_tokens=1000)
    bench.check(answer.status == 200, f"let through, it gets {answer.status}")
    records = books.records(1)
    told = [(one.get("price_source"), one.get("cost_usd_nanos")) for one in records]
    bench.check(told == [("unpriced", None)], f"records (price source, cost): {told}")
    # gpt-4o is the dearest of the laboratory: 10,000 nano-dollars a token out.
    held = [one.get("reserved_usd_nanos", 0) for one in records]
    bench.check(held and held[0] > 1000 * 10_000, f"held {held}, expected the dearest price of the provider")
    grown = books.booked(1)
    bench.check((grown["unpriced"], grown["cost_usd_nanos"]) == (1, 0), f"not one unpriced call: {grown}")
    seen = wait_until(lambda: bench.world.page("/metrics").count("egress_unpriced_total{") > before, 5)
    bench.check(seen, "no metric tells of an unpriced call")


@procedure("MTR-10", fresh=True)
def budget_race(bench: Bench) -> None:
    """50 calls at once with money for ten of them: at most ten reach the upstream, and at least one."""
    # The worst case of a call is 1000 tokens out at 0.60 a million: 0.0006, and its prompt some millionths.
    bench.world.apps["caller"]["budget"] = {"daily_usd": 0.0065}
    bench.world.push()
    model = Model(bench, sends(http_ok(answer_body(counted(10, 1000)), JSON)))
    texts = [call_text(f"race {bench.world.token()}", max_tokens=1000) for _ in range(50)]

    def one(text: str) -> int:
        with open_call(bench, text) as sock:
            found = re.match(rb"HTTP/1\.1 (\d+)", sock.recv(1 << 16))
            return int(found[1]) if found else 0

    with ThreadPoolExecutor(50) as pool:
        codes = list(pool.map(one, texts))
    if len(model.requests) > 10:
        bench.leak(f"{len(model.requests)} calls reached the upstream")
    bench.check(model.requests, "no call reached the upstream")
    bench.check(codes.count(200) == len(model.requests), f"{codes.count(200)} answers of {len(model.requests)} calls")


@procedure("MTR-11")
def arithmetic(bench: Bench) -> None:
    """Calls of one token cost exactly as many times one token (scaled to 100), and so do a million usage events that a
    worker's ledger counts and the running store adds up."""
    Model(bench, sends(http_ok(answer_body(counted(1, 0), text=""), JSON)))
    books = Books(bench)
    for _ in range(100):
        ask(bench, f"small {bench.world.token()}")
    grown = books.booked(100)
    told = grown["requests"], grown["input_tokens"], grown["output_tokens"], grown["estimated"]
    bench.check(told == (100, 100, 0, 0), f"booked (calls, input, output, estimated) {told}")
    bench.check(grown["cost_usd_nanos"] == 100 * IN_NANOS, f"{grown['cost_usd_nanos']} nano-dollars, not 15000")
    count = 1_000_000
    books = Books(bench)
    asyncio.run(_many_events(bench, count))
    grown = books.booked(count)
    bench.check(grown["input_tokens"] == count, f"{grown['input_tokens']} tokens of {count}")
    bench.check(
        grown["cost_usd_nanos"] == count * IN_NANOS, f"{grown['cost_usd_nanos']} nano-dollars of {count} tokens"
    )


async def _many_events(bench: Bench, count: int) -> None:
    product = bench.world.product
    if product is None:
        return
    snapshot = compile_snapshot(load_content(bench.world.policy_dir).canonical, seq=1)
    app, prices = snapshot.apps["caller"], PriceBook.of(snapshot.platform)
    model = "gpt-4o-mini"
    usage = Usage("openai_compatible", "chat", model, model, input_tokens=1)
    store = open_store(None, product.paths)
    own = bench.world.directory / "ledger"
    own.mkdir(mode=0o700, exist_ok=True)
    ledger = Ledger(store.budget, Paths(own), "attack")
    now_s = time.time()
    for at in range(count):
        ledger.record_usage(app, "x", usage, prices.cost(usage, now_s), saved=False, now_s=now_s)
        if at % 10_000 == 0:
            await ledger.flush(now_s)
    await ledger.aclose()
    await store.aclose()


@procedure("MTR-12")
def compressed(bench: Bench) -> None:
    """Usage in compressed answers counts as in plain ones."""
    codecs: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "br": brotli.compress}
    done = b"data: [DONE]\n\n"
    usage = {"id": "c1", "model": "gpt-4o-mini", "choices": [], "usage": counted(10, 5)}
    stream = b"data: " + json.dumps(usage).encode() + b"\n\n" + done
    for name, codec in codecs.items():
        for kind, body, media in (
            ("plain", answer_body(counted(10, 5)), b"application/json"),
            ("stream", stream, b"text/event-stream"),
        ):
            fields = b"Content-Type: %s\r\nContent-Encoding: %s\r\n" % (media, name.encode())
            Model(bench, sends(http_ok(codec(body), fields)))
            books = Books(bench)
            ask(bench, f"coded {bench.world.token()}", stream=kind == "stream", fields=f"Accept-Encoding: {name}\r\n")
            grown = books.booked(1)
            told = grown["input_tokens"], grown["output_tokens"], grown["estimated"]
            bench.check(told == (10, 5, 0), f"{name} {kind}: booked (input, output, estimated) {told}")


@procedure("MTR-13")
def upstream_errors(bench: Bench) -> None:
    """Errors without usage cost nothing, and each attempt has its record."""
    books, statuses = Books(bench), [429, 500, 503, 200]
    text = f"retry {bench.world.token()}"
    for code in statuses:
        body = b'{"error":{"message":"no"}}' if code != 200 else answer_body(counted(10, 5))
        head = b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n%s\r\n" % (code, len(body), JSON)
        Model(bench, sends(head + body))
        answer: Answer = ask(bench, text)
        bench.check(answer.status == code, f"{code}: the client gets {answer.status}")
    records = books.records(len(statuses))
    recorded = [one.get("status") for one in records]
    bench.check(recorded == statuses, f"records of {recorded}")
    charged = [one.get("status") for one in records if one.get("cost_usd_nanos")]
    bench.check(charged == [200], f"charged: {charged}")
    grown = books.booked(1)
    bench.check(grown["cost_usd_nanos"] == 4500, f"{grown['cost_usd_nanos']} nano-dollars booked, expected 4500")


def _names(bench: Bench, count: int, texts: Iterator[str]) -> None:
    """So many calls over one connection, one after the other."""
    with open_call(bench, "") as sock:
        for _ in range(count):
            sock.sendall(next(texts).replace("Connection: close\r\n", "").encode())
            received = b""
            while b"completion_tokens" not in received and (data := sock.recv(1 << 16)):
                received += data
            if not received:
                return


@procedure("MTR-14", fresh=True)
def many_models(bench: Bench) -> None:
    """A hostile upstream names a new model in each of 10,000 answers, and a hostile app one in each of 1,000 calls:
    series and usage rows stay bounded, and what has no name of its own is `other`."""
    names = iter(range(10**6))
    unpriced = {"daily_usd": 100, "unpriced": "allow"}
    bench.world.apps["caller"]["budget"] = unpriced
    bench.world.push()

    def answer(_: Accepted, __: bytes, sock: socket.socket) -> None:
        sock.sendall(http_ok(answer_body(counted(1, 1), f"gpt-4o-mini-{next(names)}"), JSON))

    model = Model(bench, answer)
    _names(bench, 10_000, iter(lambda: call_text(f"label {bench.world.token()}"), ""))
    bench.check(len(model.requests) == 10_000, f"{len(model.requests)} of 10000 calls went upstream")
    _names(bench, 1000, iter(lambda: call_text("asked", model=f"asked-{next(names)}", max_tokens=1), ""))
    bench.check(len(model.requests) == 11_000, f"{len(model.requests) - 10_000} of 1000 more went upstream")
    bench.check(wait_until(lambda: 'model="other"' in bench.world.page("/metrics"), 5), "no series is called other")
    page = bench.world.page("/metrics")
    for name in ("egress_tokens_total", "egress_cost_usd_nanos_total", "egress_unpriced_total"):
        series = page.count(f"\n{name}{{")
        bench.check(series <= 8, f"{name} has {series} series")
    rows: list[dict[str, Any]] = []

    def told() -> bool:
        rows[:] = json.loads(bench.world.cli("usage", "--by", "model", "--format", "json").stdout)["rows"]
        return bool(sum(row["requests"] for row in rows) >= 10_900)

    # The books of so many calls are written behind the answers.
    bench.check(wait_until(told, 40), "calls are missing in the usage report")
    bench.check(len(rows) <= MODELS_PER_APP + 2, f"{len(rows)} models in the usage report")
