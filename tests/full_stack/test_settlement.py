"""What a call costs however it ends, on every path: whole, refused, reset by the upstream, left by its client."""

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dataplane.h2_kit import Peer, Seen
from tests.full_stack.leavers import PATHS, Bare, Http2, Tls
from tests.full_stack.plane import CALL, Bench
from tests.lab.product import eventually
from tests.lab.upstream import Answer, Connection, Piece, Received, reply_json

# gpt-4o-mini: 0.15 USD per million tokens in, 0.60 out.
IN_NANOS, OUT_NANOS = 150, 600
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
WORDS = 5
ONE_PER_PATH = {"plain": Bare, "tls": Tls, "h2": Http2}


def _event(word: str) -> bytes:
    choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
    return b"data: " + json.dumps({"id": "c", "model": CALL["model"], "choices": [choice]}).encode() + b"\n\n"


EVENTS = b"".join(_event(f"word{at} ") for at in range(WORDS))
_SSE = (b"content-type", b"text/event-stream")
_LEFT_S = 10.0


class Silent:
    """Upstreams that take a call, answer with `EVENTS` or nothing, say no more, and note when they are let go."""

    def __init__(self, bench: Bench, *, begins: bool) -> None:
        self.asked, self.let_go = threading.Event(), threading.Event()
        self._begins = begins
        bench.api.answer = bench.plain.answer = self._h1
        bench.h2.serve = self._h2

    def _h1(self, received: Received) -> Iterator[Piece]:
        if self._begins:
            yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            yield b"%x\r\n%s\r\n" % (len(EVENTS), EVENTS)
        self.asked.set()
        yield lambda: self._listen(received.connection)

    def _listen(self, connection: Connection) -> None:
        stream = connection.stream
        assert stream is not None
        stream.settimeout(_LEFT_S)
        with contextlib.suppress(ConnectionError):
            if stream.recv(1):
                return
        self.let_go.set()

    async def _h2(self, peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.until(lambda one: one.ended)
        if self._begins:
            peer.send(stream_id, [(b":status", b"200"), _SSE], EVENTS)
        self.asked.set()
        await seen.until(lambda one: one.reset is not None)
        self.let_go.set()


def _books(bench: Bench) -> tuple[dict[str, Any], tuple[int, bool]]:
    """The one record and the one settlement."""
    eventually(lambda: bench.terminal and bench.ledger.settled, "the books")
    (record,), (settled,) = bench.terminal, bench.ledger.settled
    assert bench.ledger.open == 0
    return record, settled


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("moment", ["before the answer", "amid the answer"])
def test_a_client_that_leaves_lets_the_silent_upstream_go_and_is_charged(bench: Bench, path: str, moment: str) -> None:
    """Nothing comes from the upstream any more, so that no failed write tells of the leave."""
    amid = moment == "amid the answer"
    upstream = Silent(bench, begins=amid)
    client = PATHS[path](bench, stream=amid)
    assert upstream.asked.wait(_LEFT_S)
    if amid:
        client.read_until(b"word4")
    client.leave()
    assert upstream.let_go.wait(_LEFT_S), "the upstream's connection or stream stays open"
    record, (usd_nanos, estimated) = _books(bench)
    assert (record["outcome"], record["aborted_by"]) == ("aborted", "client")
    (usage,) = bench.ledger.usage
    assert usage.input_tokens > 0
    assert (usage.output_tokens >= WORDS) == amid
    assert estimated
    assert usd_nanos == record["cost_usd_nanos"] == IN_NANOS * usage.input_tokens + OUT_NANOS * usage.output_tokens


@pytest.mark.parametrize("path", ONE_PER_PATH)
def test_a_whole_answer_costs_what_the_upstream_says(bench: Bench, path: str) -> None:
    answer = {"choices": [], "usage": USAGE}
    bench.api.answer = bench.plain.answer = reply_json(answer)

    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.send(stream_id, [(b":status", b"200"), (b"content-type", b"application/json")])
        peer.send(stream_id, None, json.dumps(answer).encode(), end=True)

    bench.h2.serve = serve
    client = ONE_PER_PATH[path](bench)
    assert b"prompt_tokens" in client.read_until(b"prompt_tokens")
    record, settled = _books(bench)
    assert settled == (10 * IN_NANOS + 4 * OUT_NANOS, False)
    assert (record["outcome"], record["cost_usd_nanos"]) == ("allowed", settled[0])
    client.leave()


@pytest.mark.parametrize("path", ONE_PER_PATH)
def test_a_refusal_of_the_upstream_costs_nothing(bench: Bench, path: str) -> None:
    bench.api.answer = bench.plain.answer = reply_json({"error": {"message": "no"}}, status=500)

    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.send(stream_id, [(b":status", b"500"), (b"content-type", b"application/json")])
        peer.send(stream_id, None, b'{"error":{"message":"no"}}', end=True)

    bench.h2.serve = serve
    client = ONE_PER_PATH[path](bench)
    client.read_until(b"message")
    assert _books(bench)[1] == (0, False)
    client.leave()


@pytest.mark.parametrize("path", ONE_PER_PATH)
def test_an_upstream_that_takes_the_call_and_ends_is_charged_as_estimated(bench: Bench, path: str) -> None:
    bench.api.answer = bench.plain.answer = _ends

    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.until(lambda one: one.ended)
        peer.reset(stream_id)

    bench.h2.serve = serve
    client = ONE_PER_PATH[path](bench)
    assert b"502" in client.read_until(b"502")
    record, (usd_nanos, estimated) = _books(bench)
    assert (record["code"], estimated) == ("upstream_unreachable", True)
    assert usd_nanos == bench.ledger.usage[0].input_tokens * IN_NANOS > 0
    client.leave()


def _ends(_: Received) -> Iterator[Piece]:
    yield lambda: (_ for _ in ()).throw(ConnectionAbortedError)


def _after(event: threading.Event) -> Answer:
    def answer(received: Received) -> Iterator[Piece]:
        yield lambda: event.wait(_LEFT_S)
        yield from reply_json({"choices": [], "usage": USAGE})(received)

    return answer


@pytest.mark.parametrize("times", [1, 3], ids=["one", "pipelined"])
def test_a_client_that_half_closes_gets_its_answers(bench: Bench, times: int) -> None:
    """RFC 9110 allows it: it has nothing more to say. The interim answer that asks whether it is there is ignored."""
    go = threading.Event()
    bench.plain.answer = _after(go)
    client = Bare(bench, times=times)
    client.half_close()
    bench.plain.wait_for_requests(1)
    go.set()
    received = client.read_until(b"no such thing")
    assert received.count(b"HTTP/1.1 200") == times
    assert received.count(b"prompt_tokens") == times
    eventually(lambda: len(bench.terminal) == times, "the records")
    assert set(bench.ledger.settled) == {(10 * IN_NANOS + 4 * OUT_NANOS, False)}
    assert [record["outcome"] for record in bench.terminal] == ["allowed"] * times
    client.leave()


def test_a_client_that_half_closes_waits_as_long_as_the_upstream_does(bench: Bench) -> None:
    upstream = Silent(bench, begins=False)
    client = Bare(bench)
    client.half_close()
    assert b"100 Continue" in client.read_until(b"100 Continue\r\n\r\n")
    assert upstream.asked.wait(_LEFT_S)
    assert bench.ledger.settled == []
    assert not upstream.let_go.is_set()
    bench.plain.drop_connections()
    assert b"502" in client.read_until(b"502")
    assert _books(bench)[0]["code"] == "upstream_unreachable"
    client.leave()


def test_the_end_of_an_old_client_ends_its_request(bench: Bench) -> None:
    """HTTP/1.0 knows no interim answers, and RFC 1945 section 1.3 says so."""
    upstream = Silent(bench, begins=False)
    client = Bare(bench, version="1.0")
    assert upstream.asked.wait(_LEFT_S)
    client.leave()
    assert upstream.let_go.wait(_LEFT_S)
    assert _books(bench)[0]["aborted_by"] == "client"
