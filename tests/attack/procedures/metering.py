"""Money and tokens: what is booked when calls end in every way that they can end."""

import asyncio
import contextlib
import gzip
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import brotli

from proxy.stores.open import open_store
from tests.attack.client import Answer
from tests.attack.llm import CALLER, Books, Model, ask, call_text
from tests.attack.net import GW_EXPLICIT
from tests.attack.procedures import Bench, procedure
from tests.attack.procedures.faults import children, status
from tests.attack.upstreams import Accepted, Script, http_ok
from tests.attack.world import EXPLICIT, send_signal, wait_until

_JSON = b"Content-Type: application/json\r\n"
_WAIT_S = 10.0


def _open(bench: Bench, text: str) -> socket.socket:
    """A call that was sent, and whose answer nobody reads yet."""
    sock = bench.world.dial((GW_EXPLICIT, EXPLICIT), CALLER)
    sock.settimeout(_WAIT_S)
    sock.sendall(text.encode())
    return sock


def _event(content: str) -> bytes:
    delta = {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini", **delta}
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _answer(usage: dict[str, object] | None, model: str = "gpt-4o-mini") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
    body: dict[str, object] = {"id": "c1", "object": "chat.completion", "created": 1, "model": model}
    return json.dumps({**body, "choices": [choice], **({"usage": usage} if usage else {})}).encode()


def _counted(tokens_in: int, tokens_out: int) -> dict[str, object]:
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}


def _sends(whole: bytes) -> Script:
    return lambda _, __, stream: stream.sendall(whole)


@procedure("MTR-01")
def stream_left(bench: Bench) -> None:
    """The client goes after 15 of 20 tokens: what was delivered is charged, as estimated; upstream is let go."""
    left, let_go = threading.Event(), threading.Event()

    def stream(_: Accepted, __: bytes, sock: socket.socket) -> None:
        sock.sendall(_STREAM_HEAD + b"".join(_event(f"word{at} ") for at in range(15)))
        left.wait(_WAIT_S)
        sock.settimeout(0.1)
        try:
            while True:
                sock.sendall(_event("more "))
                with contextlib.suppress(TimeoutError):
                    if not sock.recv(1):
                        return
        finally:
            let_go.set()

    Model(bench, stream)
    books = Books(bench)
    with _open(bench, call_text(f"stream {bench.world.token()}", stream=True)) as sock:
        received = b""
        while b"word14" not in received and (data := sock.recv(1 << 16)):
            received += data
    left.set()
    bench.check(let_go.wait(_WAIT_S), "the upstream's connection stays open")
    records = books.records(1)
    bench.check([one["outcome"] for one in records] == ["aborted"], f"records: {[one['outcome'] for one in records]}")
    grown = books.booked(1)
    bench.check(grown["requests"] == 1 and grown["estimated"] == 1, f"not one estimated call: {grown}")
    bench.check(grown["output_tokens"] >= 15, f"{grown['output_tokens']} tokens charged, at least 15 delivered")
    bench.check(grown["input_tokens"] > 0 and grown["cost_usd_nanos"] > 0, f"no charge: {grown}")


@procedure("MTR-02")
def left_before_answer(bench: Bench) -> None:
    """The client goes before a plain answer, which comes then: charged once, since the upstream bills it."""
    asked, left = threading.Event(), threading.Event()

    def late(_: Accepted, __: bytes, sock: socket.socket) -> None:
        asked.set()
        left.wait(_WAIT_S)
        sock.sendall(http_ok(_answer(_counted(10, 5)), _JSON))

    Model(bench, late)
    books = Books(bench)
    with _open(bench, call_text(f"early {bench.world.token()}")):
        bench.check(asked.wait(_WAIT_S), "the call never went upstream")
    left.set()
    bench.check(len(books.records(1)) == 1, "not one record")
    grown = books.booked(1)
    bench.check(grown["requests"] == 1, f"not one call: {grown}")
    bench.check(grown["input_tokens"] > 0 and grown["cost_usd_nanos"] > 0, f"no charge: {grown}")


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
    done = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    Model(bench, _sends(_STREAM_HEAD + b"".join(_event(f"word{at} ") for at in range(9)) + done))
    books = Books(bench)
    ask(bench, f"silent {bench.world.token()}", stream=True)
    grown = books.booked(1)
    bench.check(grown["estimated"] == 1 and grown["output_tokens"] >= 9, f"not counted by the proxy: {grown}")


@procedure("MTR-04")
def usage_twice(bench: Bench) -> None:
    """Two usage chunks in one stream are one call with the last total."""

    def usage(tokens_in: int, tokens_out: int) -> bytes:
        chunk = {"id": "c1", "model": "gpt-4o-mini", "choices": [], "usage": _counted(tokens_in, tokens_out)}
        data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
        return b"%x\r\n%s\r\n" % (len(data), data)

    done = b"data: [DONE]\n\n"
    end = b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done)
    Model(bench, _sends(_STREAM_HEAD + _event("a ") + usage(10, 3) + _event("b ") + usage(10, 7) + end))
    books = Books(bench)
    ask(bench, f"twice {bench.world.token()}", stream=True)
    grown = books.booked(1)
    told = grown["requests"], grown["input_tokens"], grown["output_tokens"]
    bench.check(told == (1, 10, 7), f"booked (calls, input, output) {told}, expected (1, 10, 7)")


@procedure("MTR-05")
def lying_model(bench: Bench) -> None:
    """A dearer model answers than was asked for: its price counts. A model without a price does not pass."""
    Model(bench, _sends(http_ok(_answer(_counted(1000, 1000), "gpt-4o"), _JSON)))
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


@procedure("MTR-06")
def same_event(bench: Bench) -> None:
    """The same usage event delivered five times, over two connections to the running store, counts once."""
    product = bench.world.product
    if product is None:
        return
    Model(bench)
    books = Books(bench)
    ask(bench, f"event {bench.world.token()}")
    once = books.booked(1)

    async def deliver() -> None:
        links = [open_store(None, product.paths) for _ in range(2)]
        row = {
            "id": "attack-" + bench.world.token(), "day": _today(), "app": "caller", "owner": "lab@example.com",
            "cost_center": "CC-0001", "provider": "openai_compatible", "model": "gpt-4o-mini", "requests": 1,
            "input_tokens": 10, "output_tokens": 5, "cost_usd_nanos": once["cost_usd_nanos"],
        }  # fmt: skip
        for at in range(5):
            await links[at % 2].budget.add_usage([row])
        for link in links:
            await link.aclose()

    asyncio.run(deliver())
    grown = books.booked(2)
    bench.check(grown["requests"] == 2, f"{grown['requests'] - 1} calls booked of one event")
    bench.check(grown["cost_usd_nanos"] == 2 * once["cost_usd_nanos"], f"{grown['cost_usd_nanos']} booked")


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


@procedure("MTR-10", fresh=True)
def budget_race(bench: Bench) -> None:
    """50 calls at once with money for ten of them: at most ten reach the upstream, and at least one."""
    # The worst case of a call is 1000 tokens out at 0.60 a million: 0.0006, and its prompt some millionths.
    bench.world.apps["caller"]["budget"] = {"daily_usd": 0.0065}
    bench.world.push()
    model = Model(bench, _sends(http_ok(_answer(_counted(10, 1000)), _JSON)))
    texts = [call_text(f"race {bench.world.token()}", max_tokens=1000) for _ in range(50)]

    def one(text: str) -> int:
        with _open(bench, text) as sock:
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
    """Many calls of one token each way cost exactly as many times one of them (scaled to 100 here)."""
    Model(bench, _sends(http_ok(_answer(_counted(1, 1)), _JSON)))
    books = Books(bench)
    for _ in range(100):
        ask(bench, f"small {bench.world.token()}")
    grown = books.booked(100)
    bench.check(grown["input_tokens"] == 100, f"{grown['input_tokens']} tokens")
    bench.check(grown["cost_usd_nanos"] == 100 * 750, f"{grown['cost_usd_nanos']} nano-dollars, expected 75000")


@procedure("MTR-12")
def compressed(bench: Bench) -> None:
    """Usage in compressed answers counts as in plain ones."""
    codecs: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "br": brotli.compress}
    done = b"data: [DONE]\n\n"
    usage = {"id": "c1", "model": "gpt-4o-mini", "choices": [], "usage": _counted(10, 5)}
    stream = b"data: " + json.dumps(usage).encode() + b"\n\n" + done
    for name, codec in codecs.items():
        for kind, body, media in (
            ("plain", _answer(_counted(10, 5)), b"application/json"),
            ("stream", stream, b"text/event-stream"),
        ):
            fields = b"Content-Type: %s\r\nContent-Encoding: %s\r\n" % (media, name.encode())
            Model(bench, _sends(http_ok(codec(body), fields)))
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
        body = b'{"error":{"message":"no"}}' if code != 200 else _answer(_counted(10, 5))
        head = b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n%s\r\n" % (code, len(body), _JSON)
        Model(bench, _sends(head + body))
        answer: Answer = ask(bench, text)
        bench.check(answer.status == code, f"{code}: the client gets {answer.status}")
    records = books.records(len(statuses))
    recorded = [one.get("status") for one in records]
    bench.check(recorded == statuses, f"records of {recorded}")
    charged = [one.get("status") for one in records if one.get("cost_usd_nanos")]
    bench.check(charged == [200], f"charged: {charged}")
    grown = books.booked(1)
    bench.check(grown["cost_usd_nanos"] == 4500, f"{grown['cost_usd_nanos']} nano-dollars booked, expected 4500")


@procedure("MTR-14", fresh=True)
def many_models(bench: Bench) -> None:
    """A hostile upstream names a new model in each answer: series stay bounded (scaled to 2,300 names here)."""
    count, bound = 2300, 2000
    names = iter(range(10**6))

    def answer(_: Accepted, __: bytes, sock: socket.socket) -> None:
        sock.sendall(http_ok(_answer(_counted(1, 1), f"gpt-4o-mini-{next(names)}"), _JSON))

    model = Model(bench, answer)
    with _open(bench, "") as sock:
        for _ in range(count):
            sock.sendall(call_text(f"label {bench.world.token()}").replace("Connection: close\r\n", "").encode())
            received = b""
            while b"completion_tokens" not in received and (data := sock.recv(1 << 16)):
                received += data
            if not received:
                break
    bench.check(len(model.requests) == count, f"{len(model.requests)} of {count} calls went upstream")
    wait_until(lambda: "egress_tokens_total" in bench.world.page("/metrics"), 5)
    page = bench.world.page("/metrics")
    for name in ("egress_tokens_total", "egress_cost_usd_nanos_total", "egress_unpriced_total"):
        series = page.count(f"\n{name}{{")
        bench.check(series <= bound + 8, f"{name} has {series} series")


@procedure("MTR-08", fresh=True)
def killed_streams(bench: Bench) -> None:
    """SIGKILL of the worker amid streams (scaled to 5): each is booked once, as estimated."""
    count, begun, release = 5, threading.Semaphore(0), threading.Event()

    def stream(_: Accepted, __: bytes, sock: socket.socket) -> None:
        sock.sendall(_STREAM_HEAD + _event("one ") + _event("two "))
        begun.release()
        release.wait(_WAIT_S)

    model, books = Model(bench, stream), Books(bench)
    texts = [call_text(f"killed {bench.world.token()}", stream=True) for _ in range(count)]
    sockets = [_open(bench, text) for text in texts]
    bench.check(all(begun.acquire(timeout=_WAIT_S) for _ in sockets), "not all calls went upstream")
    for pid in children(bench, "proxy.dataplane.worker"):
        send_signal(pid, signal.SIGKILL)
    release.set()
    for sock in sockets:
        sock.close()
    bench.check(wait_until(lambda: status(bench) == 200, 15), "no new worker")
    grown = books.booked(count)
    told = len(model.requests), grown["requests"], grown["estimated"]
    bench.check(told == (count, count, count), f"(upstream, booked, estimated) {told}, expected {count} of each")
    bench.check(grown["cost_usd_nanos"] > 0, "no charge")


@procedure("MTR-09", fresh=True)
def drained_streams(bench: Bench) -> None:
    """SIGTERM amid streams (scaled to 5) that end within the drain: whole, exit 0, each booked as the upstream says."""
    world, product, count = bench.world, bench.world.product, 5
    if product is None or world.wires is None or product.process is None:
        return
    begun, release = threading.Semaphore(0), threading.Event()
    usage = {"id": "c1", "model": "gpt-4o-mini", "choices": [], "usage": _counted(10, 5)}
    rest = b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n"

    def stream(_: Accepted, __: bytes, sock: socket.socket) -> None:
        sock.sendall(_STREAM_HEAD + _event("one "))
        begun.release()
        release.wait(_WAIT_S)
        sock.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))

    Model(bench, stream)
    books = Books(bench)
    sockets = [_open(bench, call_text(f"drained {world.token()}", stream=True)) for _ in range(count)]
    bench.check(all(begun.acquire(timeout=_WAIT_S) for _ in sockets), "not all calls went upstream")
    send_signal(product.process.pid, signal.SIGTERM)
    release.set()
    for sock in sockets:
        received = b"".join(iter(partial(sock.recv, 1 << 16), b""))
        bench.check(b"[DONE]" in received, "a stream was cut")
        sock.close()
    bench.check(product.stop() == 0, "the exit code is not 0")
    world.wires.gw.call(product.start)
    grown = books.booked(count)
    told = grown["requests"], grown["input_tokens"], grown["output_tokens"], grown["estimated"]
    bench.check(told == (count, 10 * count, 5 * count, 0), f"booked (calls, input, output, estimated) {told}")
