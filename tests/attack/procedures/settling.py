"""What is booked when workers or the store go away amid calls: nothing lost, nothing twice."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

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
from tests.attack.llm import Books, Model, ask, call_text
from tests.attack.procedures import Bench, procedure
from tests.attack.procedures.faults import children, status
from tests.attack.procedures.reload import fault_of, product_of
from tests.attack.upstreams import Accepted, http_ok
from tests.attack.world import send_signal, wait_until

_CALL_NANOS = 10 * IN_NANOS + 5 * OUT_NANOS
_ANSWER = http_ok(answer_body(counted(10, 5)), JSON)
_LATE_S = 2.0
"""Eight flushes of a ledger: what comes twice has come by then."""


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


@contextmanager
def _no_store(bench: Bench, *, ends: bool) -> Iterator[None]:
    """The store hangs; or `ends`, and is started again by the product. Until it answers again."""
    pids = children(bench, "valkey")
    bench.check(pids, "no store process found")
    for pid in pids:
        send_signal(pid, signal.SIGSTOP)
    try:
        bench.check(wait_until(lambda: fault_of(bench) != "", 15), "nobody says that the store is away")
        yield
    finally:
        for pid in pids:
            if ends:
                send_signal(pid, signal.SIGTERM)
            send_signal(pid, signal.SIGCONT)
    bench.check(wait_until(lambda: fault_of(bench) == "", 30), "does not find the store again")


async def _budget_spent(bench: Bench) -> int:
    store = open_store(None, product_of(bench).paths)
    try:
        return await store.budget.spend("caller", period=_today())
    finally:
        await store.aclose()


def _equal_books(bench: Bench, books: Books, count: int, within_s: float) -> None:
    """Usage and budget both say what the upstream says, and still do some flushes later."""

    def wrong() -> str:
        grown = books.booked(count)
        told = grown["requests"], grown["input_tokens"], grown["output_tokens"], grown["cost_usd_nanos"]
        wanted = count, 10 * count, 5 * count, _CALL_NANOS * count
        spent = asyncio.run(_budget_spent(bench))
        return "" if (told, spent) == (wanted, wanted[3]) else f"usage {told}, budget {spent}, upstream {wanted}"

    wait_until(lambda: not wrong(), within_s)
    time.sleep(_LATE_S)
    bench.check(not wrong(), wrong())


@procedure("MTR-06", fresh=True)
def sent_again(bench: Bench) -> None:
    """Calls that end while the store hangs: their entries time out, are sent again, and the store then applies the
    first sending too. Each counts once."""
    model, books = Model(bench, sends(_ANSWER)), Books(bench)
    ask(bench, f"before {bench.world.token()}")
    books.booked(1)
    with _no_store(bench, ends=False):
        for _ in range(5):
            ask(bench, f"meanwhile {bench.world.token()}")
        bench.check(len(model.requests) == 6, f"{len(model.requests) - 1} of 5 calls went upstream without the store")
        # Long enough for each sending to have timed out at least once.
        time.sleep(8)
    _equal_books(bench, books, len(model.requests), 15)


@procedure("MTR-07", fresh=True)
def store_away_under_load(bench: Bench) -> None:
    """The store hangs, then ends and is started again, under load (scaled to some 20 s): usage and budget are exactly
    what the upstream counted, at most 30 s later."""
    model, books = Model(bench, sends(_ANSWER)), Books(bench)
    ask(bench, f"before {bench.world.token()}")
    over, codes = threading.Event(), []

    def load() -> None:
        while not over.is_set():
            codes.append(ask(bench, f"load {bench.world.token()}").status)
            over.wait(0.05)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for one in threads:
        one.start()
    try:
        for ends in (False, True):
            with _no_store(bench, ends=ends):
                over.wait(5)
            over.wait(2)
    finally:
        over.set()
        for one in threads:
            one.join(WAIT_S)
    bench.check(set(codes) <= {200, 503}, f"answers: {sorted(set(codes))}")
    bench.check(
        codes.count(200) + 1 == len(model.requests), f"{codes.count(200)} answers of {len(model.requests)} calls"
    )
    bench.check(codes.count(200) > 50, f"only {codes.count(200)} calls passed: nothing is shown")
    _equal_books(bench, books, len(model.requests), 30)


class _Streams:
    """So many calls whose answers have begun and wait. `rest`: what ends them, "" cuts them."""

    def __init__(self, bench: Bench, count: int, rest: bytes = b"") -> None:
        self._begun, self.release, self._rest = threading.Semaphore(0), threading.Event(), rest
        self.model, self.books = Model(bench, self._stream), Books(bench)
        texts = [call_text(f"stream {bench.world.token()}", stream=True) for _ in range(count)]
        self.sockets = [open_call(bench, text) for text in texts]
        begun = all(self._begun.acquire(timeout=WAIT_S) for _ in self.sockets)
        bench.check(begun, "not all calls went upstream")

    def _stream(self, _: Accepted, __: bytes, sock: socket.socket) -> None:
        sock.sendall(STREAM_HEAD + event("one ") + event("two "))
        self._begun.release()
        self.release.wait(30)
        sock.sendall(self._rest)

    def read(self) -> list[bytes]:
        """All of each, to its end."""
        whole = []
        for sock in self.sockets:
            sock.settimeout(30)
            with sock:
                try:
                    whole.append(b"".join(iter(partial(sock.recv, 1 << 16), b"")))
                except ConnectionError:
                    whole.append(b"")
        return whole


def _estimated(bench: Bench, streams: _Streams) -> None:
    """Each call is booked once, as estimated and with a price, and has one record."""
    count = len(streams.sockets)
    for when in ("", "later "):
        grown = streams.books.booked(count)
        told = len(streams.model.requests), grown["requests"], grown["estimated"]
        bench.check(
            told == (count, count, count), f"{when}(upstream, booked, estimated) {told}, expected {count} of each"
        )
        bench.check(grown["cost_usd_nanos"] > 0, f"{when}no charge")
        time.sleep(_LATE_S)
    # Those of a worker that was killed are written by the supervisor, which knows the app and no host.
    streams.books.records(0)
    ids = [one["id"] for one, _ in streams.books.lines if one["kind"] == "terminal" and one.get("app") == "caller"]
    bench.check(len(set(ids)) == len(ids) == count, f"{len(ids)} records of {count} calls")


@procedure("MTR-08", fresh=True)
def killed_streams(bench: Bench) -> None:
    """SIGKILL of the worker amid 20 streams: each has its intent by then, and is booked once, as estimated."""
    count = 20
    streams = _Streams(bench, count)
    lines = [line for file in product_of(bench).paths.journal_dir.glob("*.jsonl") for line in file.open("rb")]
    intents = sum(b'"intent"' in line for line in lines)
    bench.check(intents >= count, f"{intents} intents in the journal of {count} calls under way")
    for pid in children(bench, "proxy.dataplane.worker"):
        send_signal(pid, signal.SIGKILL)
    streams.release.set()
    streams.read()
    bench.check(wait_until(lambda: status(bench) == 200, 15), "no new worker")
    _estimated(bench, streams)


@procedure("MTR-09", fresh=True)
def drained_streams(bench: Bench) -> None:
    """SIGTERM amid 20 streams. Those that end within the drain are whole, and booked as the upstream says; those that
    do not are cut at its end, and booked as estimated. Exit 0 both times, since all is settled; and 1 where the store
    is away and money waits for the next start, which settles it."""
    world, product, count = bench.world, product_of(bench), 20
    gw = world.wires.gw if world.wires else None
    process = product.process
    if gw is None or process is None:
        return
    streams = _Streams(bench, count, usage_chunk(10, 5) + DONE)
    send_signal(process.pid, signal.SIGTERM)
    streams.release.set()
    bench.check(all(b"[DONE]" in whole for whole in streams.read()), "a stream was cut")
    bench.check(product.stop() == 0, "the exit code is not 0")
    gw.call(product.start)
    grown = streams.books.booked(count)
    told = grown["requests"], grown["input_tokens"], grown["output_tokens"], grown["estimated"]
    bench.check(told == (count, 10 * count, 5 * count, 0), f"booked (calls, input, output, estimated) {told}")

    streams = _Streams(bench, count)
    started_s = time.monotonic()
    code = product.stop()
    took_s = time.monotonic() - started_s
    bench.check(code == 0 and took_s < 30, f"cut: exit code {code} after {took_s:.1f} s")
    streams.release.set()
    streams.read()
    gw.call(product.start)
    _estimated(bench, streams)

    model, books = Model(bench, sends(_ANSWER)), Books(bench)
    ask(bench, f"before {world.token()}")
    books.booked(1)
    for pid in children(bench, "valkey"):
        send_signal(pid, signal.SIGSTOP)
    ask(bench, f"unsettled {world.token()}")
    bench.check(len(model.requests) == 2, "the call did not go upstream without the store")
    bench.check(product.stop() == 1, "the exit code does not tell of money that is not settled")
    gw.call(product.start)
    grown = books.booked(2)
    both = grown["requests"], grown["cost_usd_nanos"]
    bench.check(both == (2, 2 * _CALL_NANOS), f"booked (calls, nano-dollars) {both} after the next start")
