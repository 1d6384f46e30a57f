"""HTTP/2 end to end through mitmproxy's layers, driven by an exchange: real sockets, TLS and peers on both sides."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from proxy.effects import Forward
from proxy.errors import Denied
from proxy.model import Principal, Request, RequestHead
from tests.dataplane.h2_kit import Lab, PassTap, Peer, Seen, answer, lab

GRPC = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]


async def echo(peer: Peer, stream_id: int, seen: Seen) -> None:
    await seen.done()
    peer.send(stream_id, [(b":status", b"200"), (b"content-type", b"text/plain")])
    peer.send(stream_id, None, b"echo:" + bytes(seen.body), end=True)


def forward(head: RequestHead, body: bytes, trailers: Any, entry: Any) -> Forward:
    return Forward(entry, "app", Request(head, body, trailers))


def passing(entry_of: Callable[[], Any]) -> Callable[[RequestHead, Any], Coroutine[Any, Any, None]]:
    """What the exchange does with a request that policy allows unchanged."""

    async def line(head: RequestHead, carrier: Any) -> None:
        body, trailers = await carrier.read_body(100_000)
        answered = await carrier.forward(forward(head, body, trailers, entry_of()))
        await carrier.relay(answered, PassTap())

    return line


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


class Holder:
    """The lab of the running test, for lines that need its entry."""

    lab: Lab

    def entry(self) -> Any:
        return self.lab.entry


def with_lab(line: Any, serve: Any, check: Callable[[Lab], Coroutine[Any, Any, None]], **options: Any) -> None:
    holder = Holder()
    made = line(holder.entry) if line is passing else line

    async def body() -> None:
        async with lab(made, serve, **options) as running:
            holder.lab = running
            await check(running)

    run(body)


def test_a_request_with_a_body_and_its_answer_pass() -> None:
    async def check(lab: Lab) -> None:
        headers = [*lab.request(b"/v1/x?q=1"), (b"x-a", b"1"), (b"content-length", b"5")]
        _, seen = lab.client.open(headers, b"hello")
        await seen.done()
        assert (seen.status, bytes(seen.body)) == (200, b"echo:hello")
        assert seen.get(b"content-type") == b"text/plain"
        arrived = lab.arrived[0]
        assert arrived.get(b":path") == b"/v1/x?q=1"
        assert arrived.get(b":authority") == lab.authority
        assert arrived.get(b"x-a") == b"1"
        assert arrived.get(b"content-length") == b"5"
        assert bytes(arrived.body) == b"hello"
        assert lab.runtime.ends == ["returned"]
        assert lab.runtime.heads[0].protocol == "h2"

    with_lab(passing, echo, check)


def test_concurrent_streams_share_one_upstream_connection_and_each_ends_once() -> None:
    async def check(lab: Lab) -> None:
        opened = [lab.client.open(lab.request(b"/%d" % n), b"b%d" % n)[1] for n in range(20)]
        for n, seen in enumerate(opened):
            await seen.done()
            assert bytes(seen.body) == b"echo:b%d" % n
        assert len(lab.upstream_peers) == 1
        assert lab.runtime.ends == ["returned"] * 20

    with_lab(passing, echo, check)


def test_grpc_trailers_pass_both_ways_and_te_is_kept() -> None:
    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.send(stream_id, [(b":status", b"200"), (b"content-type", b"application/grpc")], b"data")
        peer.send(stream_id, [(b"grpc-status", b"0")], end=True)

    async def check(lab: Lab) -> None:
        _, seen = lab.client.open([*lab.request(b"/svc/M"), *GRPC], b"msg", trailers=[(b"x-sum", b"9")])
        await seen.done()
        assert bytes(seen.body) == b"data"
        assert seen.trailers == [(b"grpc-status", b"0")]
        assert lab.arrived[0].get(b"te") == b"trailers"
        assert lab.arrived[0].trailers == [(b"x-sum", b"9")]

    with_lab(passing, serve, check)


def test_an_answer_without_body_passes() -> None:
    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.send(stream_id, [(b":status", b"204")], end=True)

    async def check(lab: Lab) -> None:
        _, seen = lab.client.open(lab.request())
        assert (await seen.done()).status == 204
        assert lab.runtime.ends == ["returned"]

    with_lab(passing, serve, check)


def test_pieces_of_a_stream_arrive_as_they_come_through_the_tap() -> None:
    go = asyncio.Event()

    class Upper(PassTap):
        def feed(self, data: bytes) -> bytes:
            return data.upper()

        def finish(self) -> bytes:
            return b"!"

    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.send(stream_id, [(b":status", b"200")], b"first ")
        await go.wait()
        peer.send(stream_id, None, b"second", end=True)

    holder = Holder()

    async def line(head: RequestHead, carrier: Any) -> None:
        body, trailers = await carrier.read_body(10)
        await carrier.relay(await carrier.forward(forward(head, body, trailers, holder.entry())), Upper())

    async def check(lab: Lab) -> None:
        holder.lab = lab
        _, seen = lab.client.open(lab.request())
        await seen.until(lambda s: bytes(s.body) == b"FIRST ")
        assert not seen.ended
        go.set()
        await seen.done()
        assert bytes(seen.body) == b"FIRST SECOND!"

    with_lab(line, serve, check)


def test_a_denial_at_the_head_answers_before_the_body_has_come() -> None:
    async def line(head: RequestHead, carrier: Any) -> None:
        await carrier.reply(answer(403, b"no"))

    async def check(lab: Lab) -> None:
        _, seen = lab.client.open(lab.request(), b"part", end=False)
        await seen.until(lambda s: s.ended)
        assert (seen.status, bytes(seen.body)) == (403, b"no")
        assert lab.upstream_peers == []

    with_lab(line, echo, check)


FAULTS = [
    ValueError("x"),
    TimeoutError(),
    KeyError(),
    RecursionError(),
    MemoryError(),
    Denied("pii"),
    UnicodeDecodeError("utf-8", b"", 0, 1, "x"),
]


@pytest.mark.parametrize("error", FAULTS)
@pytest.mark.parametrize("when", ["head", "body"])
def test_whatever_the_line_raises_the_standing_denial_answers_and_nothing_leaves(error: Exception, when: str) -> None:
    async def line(head: RequestHead, carrier: Any) -> None:
        if when == "body":
            await carrier.read_body(100)
        raise error

    async def check(lab: Lab) -> None:
        _, seen = lab.client.open(lab.request(), b"secret")
        await seen.done()
        assert seen.status == 503
        assert b"internal" in seen.body
        assert lab.upstream_peers == []
        _, good = lab.client.open(lab.request(), b"again")
        assert (await good.done()).status == 503
        assert len(lab.runtime.ends) == 2

    with_lab(line, echo, check)


def test_a_line_that_returns_without_deciding_lets_nothing_leave() -> None:
    async def line(head: RequestHead, carrier: Any) -> None:
        await carrier.read_body(100)

    async def check(lab: Lab) -> None:
        _, seen = lab.client.open(lab.request(), b"secret")
        assert (await seen.done()).status == 503
        assert lab.upstream_peers == []

    with_lab(line, echo, check)


def test_a_line_that_gives_up_after_the_answers_head_relays_nothing_of_it() -> None:
    holder = Holder()

    async def line(head: RequestHead, carrier: Any) -> None:
        body, trailers = await carrier.read_body(100)
        await carrier.forward(forward(head, body, trailers, holder.entry()))
        raise ValueError

    async def check(lab: Lab) -> None:
        holder.lab = lab
        _, seen = lab.client.open(lab.request(), b"x")
        await seen.done()
        assert seen.status == 503
        assert b"echo" not in seen.body

    with_lab(line, echo, check)


@pytest.mark.parametrize(
    ("change", "extra", "status", "code"),
    [
        ({"authority": b"evil.test"}, [], 421, "target_mismatch"),
        ({"authority": b"up.test"}, [], 421, "target_mismatch"),  # another port
        ({"authority": b"up.test.evil.test:1"}, [], 421, "target_mismatch"),
        ({"authority": b"a@up.test"}, [], 400, "malformed"),
        ({"scheme": b"http"}, [], 403, "target_mismatch"),
        ({}, [(b"host", b"evil.test")], 421, "target_mismatch"),
        ({"path": b"http://evil.test/"}, [], 400, "malformed"),
        ({"path": b"*"}, [], 400, "malformed"),
    ],
)
def test_a_stream_may_only_name_its_connections_authority(
    change: dict[str, bytes], extra: list[tuple[bytes, bytes]], status: int, code: str
) -> None:
    async def check(lab: Lab) -> None:
        _, bad = lab.client.open([*lab.request(**change), *extra], b"secret")
        await bad.done()
        if bad.reset is None:
            assert bad.status == status
            assert lab.runtime.ends == [code]
        assert lab.arrived == []

    with_lab(passing, echo, check)


def test_a_port_written_with_zeros_is_the_same_and_goes_on_as_it_is() -> None:
    async def check(lab: Lab) -> None:
        name, _, port = lab.authority.partition(b":")
        _, seen = lab.client.open(lab.request(authority=name + b":0" + port))
        await seen.done()
        assert seen.status == 200
        assert lab.arrived[0].get(b":authority") == lab.authority

    with_lab(passing, echo, check)


def test_a_refused_stream_leaves_its_neighbours_alone() -> None:
    async def check(lab: Lab) -> None:
        _, good = lab.client.open(lab.request(b"/1"), b"one", end=False)
        _, bad = lab.client.open(lab.request(authority=b"evil.test"), b"two")
        assert (await bad.done()).status == 421
        lab.client.send(1, None, b"!", end=True)
        assert bytes((await good.done()).body) == b"echo:one!"

    with_lab(passing, echo, check)


NO_AUTHORITY = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/")]
PLAIN = [*NO_AUTHORITY, (b":authority", b"x")]


@pytest.mark.parametrize(
    "headers",
    [
        [(b":method", b"CONNECT"), (b":authority", b"evil.test:443")],
        NO_AUTHORITY,
        [*PLAIN, (b":protocol", b"websocket")],
        [*PLAIN, (b"connection", b"upgrade")],
        [*PLAIN, (b"transfer-encoding", b"chunked")],
        [*PLAIN, (b"x y", b"1")],
        [*PLAIN, (b"x", b"1\r\nhost: evil.test")],
        [*PLAIN, (b"x", b"1\x00")],
        [*PLAIN, (b":path", b"/other")],
    ],
    ids=["connect", "no-authority", "extended-connect", "connection", "te", "name", "crlf", "nul", "two-paths"],
)
def test_malformed_heads_reach_nobody(headers: list[tuple[bytes, bytes]]) -> None:
    async def check(lab: Lab) -> None:
        _, seen = lab.client.open(headers)
        await seen.done()
        assert seen.status in {0, 400}
        assert lab.upstream_peers == []

    with_lab(passing, echo, check)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_refused_before_it_has_ended(declared: bool) -> None:
    async def line(head: RequestHead, carrier: Any) -> None:
        try:
            await carrier.read_body(1000)
        except Denied as denied:
            await carrier.reply(answer(413, denied.code.encode()))
            raise

    async def check(lab: Lab) -> None:
        length = [(b"content-length", b"5000")] if declared else []
        _, seen = lab.client.open([*lab.request(), *length], b"x" * 1001, end=False)
        await seen.until(lambda s: s.ended)
        assert (seen.status, bytes(seen.body)) == (413, b"too_large")
        assert lab.runtime.ends == ["too_large"]
        assert lab.upstream_peers == []

    with_lab(line, echo, check)


def test_bodies_count_against_the_workers_budget() -> None:
    async def line(head: RequestHead, carrier: Any) -> None:
        try:
            await carrier.read_body(100_000)
        except Denied as denied:
            await carrier.reply(answer(503, denied.code.encode()))
            raise

    async def check(lab: Lab) -> None:
        _, seen = lab.client.open(lab.request(), b"x" * 5000, end=False)
        await seen.until(lambda s: s.ended)
        assert bytes(seen.body) == b"overloaded"

    with_lab(line, echo, check, held_bytes=4096)


def _refusing(holder: Holder) -> Callable[[RequestHead, Any], Coroutine[Any, Any, None]]:
    async def line(head: RequestHead, carrier: Any) -> None:
        body, trailers = await carrier.read_body(1000)
        try:
            await carrier.forward(forward(head, body, trailers, holder.entry()))
        except Denied as denied:
            await carrier.reply(answer(denied.status, denied.code.encode()))
            raise

    return line


@pytest.mark.parametrize(
    ("options", "code"),
    [({"upstream_alpn": "http/1.1"}, b"proto_denied"), ({"trusted": False}, b"upstream_tls")],
)
def test_an_upstream_that_does_not_speak_h2_or_cannot_prove_itself_gets_nothing(options: Any, code: bytes) -> None:
    holder = Holder()

    async def check(lab: Lab) -> None:
        holder.lab = lab
        for _ in range(2):  # a failed connection is not remembered as broken
            _, seen = lab.client.open(lab.request(), b"secret")
            await seen.done()
            assert (seen.status, bytes(seen.body)) == (502, code)
        assert lab.arrived == []
        assert lab.runtime.ends == [code.decode()] * 2

    with_lab(_refusing(holder), echo, check, **options)


def test_an_address_that_policy_forbids_is_not_dialled() -> None:
    holder = Holder()

    async def check(lab: Lab) -> None:
        holder.lab = lab
        lab.entry = replace(lab.entry, addresses=None)
        _, seen = lab.client.open(lab.request(), b"secret")
        assert bytes((await seen.done()).body) == b"ip_denied"
        assert lab.upstream_peers == []

    with_lab(_refusing(holder), echo, check)


def test_another_dial_policy_does_not_reuse_the_connection() -> None:
    holder = Holder()

    async def check(lab: Lab) -> None:
        holder.lab = lab
        _, seen = lab.client.open(lab.request(), b"1")
        await seen.done()
        lab.entry = replace(lab.entry, addresses=(ip_network("127.0.0.1/32"),))
        _, seen = lab.client.open(lab.request(), b"2")
        assert bytes((await seen.done()).body) == b"echo:2"
        assert len(lab.upstream_peers) == 2

    with_lab(passing(holder.entry), echo, check)


def test_an_upstream_reset_before_the_answer_becomes_a_coded_denial() -> None:
    holder = Holder()

    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.reset(stream_id)

    async def check(lab: Lab) -> None:
        holder.lab = lab
        _, seen = lab.client.open(lab.request(), b"x")
        await seen.done()
        assert (seen.status, bytes(seen.body)) == (502, b"upstream_unreachable")

    with_lab(_refusing(holder), serve, check)


def test_an_upstream_that_dies_mid_answer_resets_the_client_and_aborts_once() -> None:
    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.send(stream_id, [(b":status", b"200")], b"half")
        peer.writer.transport.abort()

    async def check(lab: Lab) -> None:
        _, seen = lab.client.open(lab.request(), b"x")
        await seen.done()
        assert seen.reset is not None
        assert not seen.ended
        await lab.runtime.until(lambda: bool(lab.runtime.ends))
        assert lab.runtime.ends == ["Aborted:upstream"]

    with_lab(passing, serve, check)


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_leaves_mid_answer_aborts_once_and_cancels_upstream(how: str) -> None:
    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.send(stream_id, [(b":status", b"200")], b"half")

    async def check(lab: Lab) -> None:
        stream_id, seen = lab.client.open(lab.request(), b"x")
        await seen.until(lambda s: bytes(s.body) == b"half")
        if how == "reset":
            lab.client.reset(stream_id)
        else:
            lab.client.writer.transport.abort()
        await lab.runtime.until(lambda: bool(lab.runtime.ends))
        assert lab.runtime.ends[0].startswith(("Aborted:client", "CancelledError"))
        await lab.arrived[0].until(lambda s: s.reset is not None)
        assert len(lab.runtime.ends) == 1

    with_lab(passing, serve, check)


def test_a_client_that_leaves_during_inspection_gets_nothing_sent() -> None:
    inspecting, go, holder = asyncio.Event(), asyncio.Event(), Holder()

    async def line(head: RequestHead, carrier: Any) -> None:
        body, trailers = await carrier.read_body(1000)
        inspecting.set()
        await go.wait()
        await carrier.forward(forward(head, body, trailers, holder.entry()))

    async def check(lab: Lab) -> None:
        holder.lab = lab
        stream_id, _ = lab.client.open(lab.request(), b"x")
        await inspecting.wait()
        lab.client.reset(stream_id)
        lab.client.open(lab.request(), b"y")  # its arrival proves that the reset has been read
        await lab.runtime.until(lambda: len(lab.runtime.heads) == 2)
        go.set()
        await lab.runtime.until(lambda: len(lab.runtime.ends) >= 1)
        assert lab.runtime.ends[0] == "Aborted:client"
        await lab.runtime.until(lambda: len(lab.arrived) == 1)
        await lab.arrived[0].done()
        assert bytes(lab.arrived[0].body) == b"y"

    with_lab(line, echo, check)


def test_collected_answers_are_replaced_by_what_the_exchange_replies() -> None:
    holder = Holder()

    async def line(head: RequestHead, carrier: Any) -> None:
        body, trailers = await carrier.read_body(1000)
        await carrier.forward(forward(head, body, trailers, holder.entry()))
        raw = await carrier.collect(1000)
        await carrier.reply(answer(200, b"seen:" + raw))

    async def check(lab: Lab) -> None:
        holder.lab = lab
        _, seen = lab.client.open(lab.request(), b"x")
        assert bytes((await seen.done()).body) == b"seen:echo:x"

    with_lab(line, echo, check)


@pytest.mark.parametrize("fails", [True, False])
def test_collected_answers_never_pass_unseen(fails: bool) -> None:
    holder = Holder()

    async def line(head: RequestHead, carrier: Any) -> None:
        body, trailers = await carrier.read_body(1000)
        await carrier.forward(forward(head, body, trailers, holder.entry()))
        await carrier.collect(3 if fails else 1000)
        raise ValueError

    async def check(lab: Lab) -> None:
        holder.lab = lab
        _, seen = lab.client.open(lab.request(), b"x")
        await seen.done()
        assert b"echo" not in seen.body
        assert len(lab.runtime.ends) == 1

    with_lab(line, echo, check)


def test_a_tap_that_breaks_cuts_the_stream() -> None:
    holder = Holder()

    class Broken(PassTap):
        def feed(self, data: bytes) -> bytes:
            raise ValueError

    async def line(head: RequestHead, carrier: Any) -> None:
        body, trailers = await carrier.read_body(1000)
        await carrier.relay(await carrier.forward(forward(head, body, trailers, holder.entry())), Broken())

    async def check(lab: Lab) -> None:
        holder.lab = lab
        _, seen = lab.client.open(lab.request(), b"x")
        await seen.done()
        assert seen.reset is not None
        assert b"echo" not in seen.body

    with_lab(line, echo, check)


def test_a_denied_connection_context_is_refused_and_recorded_once() -> None:
    async def check(lab: Lab) -> None:
        lab.runtime.context_error = Denied("policy_unavailable")
        _, seen = lab.client.open(lab.request(), b"x")
        assert (await seen.done()).status == 503
        assert b"policy_unavailable" in seen.body
        assert lab.runtime.ends == ["policy_unavailable"]

    with_lab(passing, echo, check)


def test_a_slow_client_holds_the_upstream_back() -> None:
    total = 48 << 20
    sent = 0
    all_sent = asyncio.Event()

    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        nonlocal sent
        await seen.done()
        peer.send(stream_id, [(b":status", b"200")])
        while sent < total:
            size = min(16384, peer.h2.local_flow_control_window(stream_id))
            peer.h2.send_data(stream_id, b"x" * size)
            peer.flush()
            await peer.writer.drain()
            sent += size
        all_sent.set()

    async def check(lab: Lab) -> None:
        lab.client.acknowledge = False  # its window (64 KiB) fills and is never opened
        _, seen = lab.client.open(lab.request(), b"x")
        await seen.until(lambda s: len(s.body) >= 65535)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await all_sent.wait()
        assert sent < total, "the whole answer was taken into memory"

    with_lab(passing, serve, check)


class Meddler:
    """A foreign addon that changes whatever it is shown."""

    def requestheaders(self, flow: Any) -> None:
        flow.response = None

    def request(self, flow: Any) -> None:
        flow.response = None
        flow.request.content = b"card 4111 1111 1111 1111"


def test_a_foreign_addon_changes_no_request_after_its_inspection() -> None:
    async def check(lab: Lab) -> None:
        lab.master.addons.add(Meddler())
        _, seen = lab.client.open(lab.request(), b"hello")
        await seen.done()
        assert bytes(lab.arrived[0].body) == b"hello"

    with_lab(passing, echo, check)


def test_a_foreign_addon_lifts_no_denial() -> None:
    async def line(head: RequestHead, carrier: Any) -> None:
        await carrier.read_body(100_000)
        await carrier.reply(answer(403, b"pii"))

    async def check(lab: Lab) -> None:
        lab.master.addons.add(Meddler())
        _, seen = lab.client.open(lab.request(), b"hello")
        await seen.done()
        assert (seen.status, bytes(seen.body)) == (403, b"pii")
        assert lab.arrived == []

    with_lab(line, echo, check)


def test_who_calls_is_asked_again_for_each_stream() -> None:
    now = [Principal("app", "token", "127.0.0.1", "t1")]

    def identify() -> Principal:
        if not now:
            raise Denied("identity_unknown", "the token has expired", status=403)
        return now[0]

    async def check(lab: Lab) -> None:
        _, first = lab.client.open(lab.request(), b"1")
        assert (await first.done()).status == 200
        now[0] = Principal("other", "token", "127.0.0.1", "t2")
        _, second = lab.client.open(lab.request(), b"2")
        assert (await second.done()).status == 403
        now.clear()
        _, third = lab.client.open(lab.request(), b"3")
        assert (await third.done()).status == 403
        assert b"expired" in third.body
        assert len(lab.arrived) == 1

    with_lab(passing, echo, check, identify=identify)


def test_a_collected_answer_counts_against_the_workers_budget() -> None:
    async def line(head: RequestHead, carrier: Any) -> None:
        await carrier.read_body(100)
        await carrier.forward(forward(head, b"", (), holder.entry()))
        try:
            await carrier.collect(100_000)
        except Denied as denied:
            await carrier.reply(answer(503, denied.code.encode()))
            raise

    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.send(stream_id, [(b":status", b"200")], b"x" * 5000, end=True)

    async def check(lab: Lab) -> None:
        holder.lab = lab
        _, seen = lab.client.open(lab.request())
        await seen.until(lambda s: s.ended)
        assert bytes(seen.body) == b"overloaded"

    holder = Holder()
    with_lab(line, serve, check, held_bytes=8192)


def test_a_kill_cuts_an_answer_that_streams() -> None:
    go_on = asyncio.Event()

    async def serve(peer: Peer, stream_id: int, seen: Seen) -> None:
        await seen.done()
        peer.send(stream_id, [(b":status", b"200")], b"first")
        await go_on.wait()
        peer.send(stream_id, None, b"second", end=True)

    async def check(lab: Lab) -> None:
        _, seen = lab.client.open(lab.request(), b"x")
        await seen.until(lambda s: bytes(s.body) == b"first")
        lab.watcher.kills = {"app": {"reason": "incident"}}
        go_on.set()
        await seen.done()
        assert bytes(seen.body) == b"first"
        assert lab.runtime.ends == ["killed"]

    with_lab(passing, serve, check)
