"""Floods on an HTTP/2 connection: ended by GOAWAY with one record, before they cost exchanges; others go on."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from h2.errors import ErrorCodes
from hpack import Encoder

from proxy.dataplane import h2_connection
from proxy.dataplane import h2_pipes as module
from proxy.dataplane.channel import WRITE_STALL_S, Channel
from proxy.dataplane.h2_endpoints import MAX_TABLE_BYTES, BoundedEncoder
from proxy.dataplane.h2_frames import CLIENT_BUDGETS, PREFACE, TURN_FRAMES, Flood
from proxy.dataplane.h2_pipes import STALL_BYTES, ClientPipe, Patience, Use
from proxy.dataplane.lane_connection import HEAD_DEADLINE_S, IDLE_DEADLINE_S
from tests.dataplane.h2_kit import Lab, Peer, Seen
from tests.dataplane.test_h2 import echo, passing, run, with_lab
from tests.dataplane.test_h2_frames import CHEAP, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, WINDOW_UPDATE, frame

RESETS = int(CLIENT_BUDGETS["reset"].burst)


def heads(lab: Lab, count: int, flags: int = END_STREAM | END_HEADERS, then: str = "") -> bytes:
    """Requests on streams of their own, none of which the client's own state knows."""
    encoder, out = Encoder(), bytearray()
    for at in range(count):
        stream = 2 * at + 1001
        out += frame(HEADERS, encoder.encode(lab.request(b"/flood")), flags, stream)
        if then:
            out += CHEAP[then][:5] + stream.to_bytes(4) + CHEAP[then][9:]
    return bytes(out)


async def never(head: Any, carrier: Any) -> None:
    """An exchange that waits for what does not come."""
    await carrier.read_body(100)
    await asyncio.Event().wait()


@pytest.mark.parametrize("kind", ["settings", "ping", "window", "empty", "other"])
def test_a_flood_of_frames_ends_in_goaway_and_one_record(kind: str) -> None:
    async def check(lab: Lab) -> None:
        stream, _ = lab.client.open(lab.request(), end=False)
        await lab.runtime.until(lambda: bool(lab.runtime.heads))
        one = CHEAP[kind]
        if int.from_bytes(one[5:9]):
            one = one[:5] + stream.to_bytes(4) + one[9:]
        lab.client.writer.write(one * 5000)
        await lab.client.over.wait()
        assert lab.client.terminated == ErrorCodes.ENHANCE_YOUR_CALM
        await lab.runtime.until(lambda: len(lab.runtime.ends) == 2)
        assert lab.runtime.ends.count("rate_limited") == 1
        assert lab.arrived == []

    with_lab(never, echo, check)


def test_rapid_reset_begins_no_more_exchanges_than_the_budget_holds() -> None:
    async def check(lab: Lab) -> None:
        lab.client.writer.write(heads(lab, 5000, then="reset"))
        await lab.client.over.wait()
        assert lab.client.terminated == ErrorCodes.ENHANCE_YOUR_CALM
        await lab.runtime.until(lambda: "rate_limited" in lab.runtime.ends)
        assert RESETS - TURN_FRAMES <= len(lab.runtime.heads) <= RESETS
        assert lab.runtime.ends.count("rate_limited") == 1
        assert lab.arrived == []

    with_lab(never, echo, check)


def test_resets_that_the_client_provokes_are_a_flood_too() -> None:
    async def check(lab: Lab) -> None:
        """CVE-2025-8671: a window opened beyond 2^31-1 is an error of the stream, so it is we who reset it."""
        while lab.client.terminated is None:
            opened = [lab.client.open(lab.request(), end=False) for _ in range(50)]
            for stream, _ in opened:
                lab.client.writer.write(frame(WINDOW_UPDATE, b"\x7f\xff\xff\xff", stream=stream))
            for _, seen in opened:
                await seen.done()
        assert lab.client.terminated == ErrorCodes.ENHANCE_YOUR_CALM
        assert len(lab.runtime.heads) <= RESETS + 50

    with_lab(never, echo, check)


def test_a_head_that_does_not_end_is_refused_by_its_size() -> None:
    async def check(lab: Lab) -> None:
        head = heads(lab, 1, END_STREAM)
        lab.client.writer.write(head + frame(CONTINUATION, b"\0\1a\1b" * 200, 0, 1001) * 4000)
        await lab.client.over.wait()
        assert lab.client.terminated == ErrorCodes.ENHANCE_YOUR_CALM
        assert lab.runtime.ends == ["header_too_large"]
        assert lab.runtime.heads == []

    with_lab(never, echo, check)


def test_a_client_that_cancels_now_and_then_is_served_on() -> None:
    async def check(lab: Lab) -> None:
        for at in range(3 * RESETS):
            stream, seen = lab.client.open(lab.request(), b"x")
            if at % 2:
                lab.client.reset(stream)
            else:
                assert (await seen.done()).status == 200
        assert lab.client.terminated is None

    with_lab(passing, echo, check)


def test_an_answer_in_many_pieces_lets_the_client_measure_and_open_its_windows() -> None:
    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.send(stream_id, [(b":status", b"200")])
        for _ in range(3000):
            peer.send(stream_id, None, b"x" * 500)
            await peer.writer.drain()
        peer.send(stream_id, None, b"", end=True)

    async def check(lab: Lab) -> None:
        answered, pings = 0, lab.client.h2.ping
        _, seen = lab.client.open(lab.request(), b"x")

        def has_all(seen: Seen) -> bool:
            nonlocal answered
            while answered < len(seen.body) // 500:
                answered += 1
                pings(b"12345678")
            lab.client.flush()
            return seen.ended

        await seen.until(has_all)
        assert len(seen.body) == 1_500_000
        assert lab.client.terminated is None

    with_lab(passing, serve, check)


def test_an_upstream_that_floods_loses_its_connection_and_the_stream_is_denied() -> None:
    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.writer.write(CHEAP["settings"] * 5000)

    async def check(lab: Lab) -> None:
        _, seen = lab.client.open(lab.request(), b"x")
        await seen.done()
        assert lab.runtime.ends == ["upstream_unreachable"]
        assert lab.client.terminated is None

    with_lab(passing, serve, check)


def test_a_peer_cannot_make_the_field_table_grow() -> None:
    encoder = BoundedEncoder()
    encoder.header_table_size = 1 << 30
    for at in range(1000):
        encoder.encode([(b"x-%d" % at, b"v" * 100)])
    assert sum(len(name) + len(value) + 32 for name, value in encoder.header_table.dynamic_entries) <= MAX_TABLE_BYTES
    encoder.header_table_size = 0
    assert encoder.encode([(b"x-new", b"v")]).startswith(b"\x20")
    assert not encoder.header_table.dynamic_entries


# -- slowness

LOOK = {"unfinished": False, "ended": 0, "busy": False, "worn": False, "backlog": False, "sent_bytes": 0}


@pytest.mark.parametrize(
    ("state", "after_s", "error", "code"),
    [
        ({"unfinished": True}, HEAD_DEADLINE_S, ErrorCodes.ENHANCE_YOUR_CALM, "timeout"),
        ({"unfinished": True, "busy": True}, HEAD_DEADLINE_S, ErrorCodes.ENHANCE_YOUR_CALM, "timeout"),
        ({"busy": True, "backlog": True}, WRITE_STALL_S, ErrorCodes.ENHANCE_YOUR_CALM, None),
        ({"backlog": True}, WRITE_STALL_S, ErrorCodes.ENHANCE_YOUR_CALM, None),
        ({}, IDLE_DEADLINE_S, ErrorCodes.NO_ERROR, None),
    ],
)
def test_each_kind_of_slowness_has_its_end(state: Any, after_s: float, error: ErrorCodes, code: str | None) -> None:
    patience = Patience()
    assert patience.look(100, **LOOK | state) == 100 + after_s
    assert patience.look(100 + after_s / 2, **LOOK | state) == 100 + after_s
    assert patience.verdict(100 + after_s - 0.1) is None
    verdict = patience.verdict(100 + after_s)
    assert verdict is not None
    assert verdict.error == error
    assert (verdict.denied.code if verdict.denied else None) == code


def test_a_busy_connection_whose_client_reads_may_last() -> None:
    assert Patience().look(100, **LOOK | {"busy": True}) is None


def test_a_worn_connection_ends_as_soon_as_it_is_idle() -> None:
    patience = Patience()
    assert patience.look(100, **LOOK | {"busy": True, "worn": True}) is None
    assert patience.look(101, **LOOK | {"backlog": True, "worn": True}) == 101 + WRITE_STALL_S
    assert patience.look(102, **LOOK | {"worn": True}) == 102
    verdict = patience.verdict(102)
    assert verdict is not None
    assert (verdict.error, verdict.denied) == (ErrorCodes.NO_ERROR, None)


def test_a_connection_is_worn_after_so_many_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h2_connection, "MAX_STREAMS", 3)

    async def check(lab: Lab) -> None:
        for at in range(1, 4):
            _, seen = lab.client.open(lab.request(), b"x")
            assert (await seen.done()).status == 200
            await lab.runtime.until(lambda at=at: len(lab.runtime.ends) == at)  # type: ignore[misc]  # bound now
        (channel,) = lab.channels
        await lab.runtime.until(lambda: channel.deadline_s is not None and channel.deadline_s <= channel.loop.time())
        channel.expire()
        await lab.client.over.wait()
        assert lab.client.terminated == ErrorCodes.NO_ERROR

    with_lab(passing, echo, check)


def test_frames_that_end_begin_the_time_anew_and_those_of_an_open_head_do_not() -> None:
    patience = Patience()
    busy = LOOK | {"unfinished": True, "busy": True}
    patience.look(100, **busy)
    assert patience.look(105, **busy | {"ended": 1}) == 105 + HEAD_DEADLINE_S
    assert patience.look(109, **busy | {"ended": 1}) == 105 + HEAD_DEADLINE_S


def test_a_reader_that_takes_enough_gets_another_minute() -> None:
    patience = Patience()
    lying = LOOK | {"busy": True, "backlog": True}
    patience.look(100, **lying)
    assert patience.look(130, **lying | {"sent_bytes": STALL_BYTES - 1}) == 100 + WRITE_STALL_S
    assert patience.look(150, **lying | {"sent_bytes": STALL_BYTES}) == 150 + WRITE_STALL_S
    assert patience.look(160, **LOOK | {"busy": True}) is None
    assert patience.look(170, **lying | {"sent_bytes": STALL_BYTES}) == 170 + WRITE_STALL_S


def with_pipe(check: Callable[[Channel, ClientPipe, list[Flood]], Coroutine[Any, Any, None]]) -> None:
    async def body() -> None:
        channel, ends = Channel("client"), []

        async def give_up(flood: Flood) -> None:
            ends.append(flood)

        await check(channel, ClientPipe(channel, Use, give_up), ends)

    run(body)


def test_a_dribble_ends_at_its_deadline_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(channel: Channel, pipe: ClientPipe, ends: list[Flood]) -> None:
        head = frame(HEADERS, b"x", END_HEADERS)
        channel.data_received(PREFACE + head[:5])
        assert await pipe.read(65535) == PREFACE
        reading = asyncio.ensure_future(pipe.read(65535))
        await asyncio.sleep(0)
        assert channel.deadline_s is not None
        channel.expire()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not reading.done()
        monkeypatch.setattr(module, "HEAD_DEADLINE_S", -1)
        channel.data_received(head[5:] + head[:5])
        assert await reading == head
        reading = asyncio.ensure_future(pipe.read(65535))
        await asyncio.sleep(0)
        channel.expire()
        assert await reading == b""
        assert [flood.denied.code for flood in ends if flood.denied] == ["timeout"]

    with_pipe(check)


def test_whole_frames_before_the_end_of_the_connection_are_read() -> None:
    async def check(channel: Channel, pipe: ClientPipe, ends: list[Flood]) -> None:
        channel.data_received(PREFACE + frame(HEADERS, b"x", END_HEADERS) + b"\0\0")
        channel.connection_lost(None)
        assert await pipe.read(65535) == PREFACE
        assert await pipe.read(65535) == frame(HEADERS, b"x", END_HEADERS)
        assert await pipe.read(65535) == b""
        assert ends == []

    with_pipe(check)
