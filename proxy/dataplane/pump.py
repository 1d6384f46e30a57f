"""Connections that outlive a request: WebSockets (every message inspected) and pass-through tunnels (bytes counted)."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from proxy.context import Context
from proxy.dataplane import h1
from proxy.dataplane.channel import Channel
from proxy.dataplane.websocket import Output, WebSocketPump, restore_text
from proxy.effects import Aborted, Upgrade
from proxy.errors import Denied
from proxy.model import Inspection, Traffic

if TYPE_CHECKING:
    from proxy.dataplane.lane_carrier import LaneCarrier
    from proxy.dataplane.lane_server import LaneServer

# A revoked policy, an expired entry or a kill ends a live connection within this time.
RECHECK_S: Final = 0.4
# Frames of nothing take six bytes: as many as this holds are worked off between two looks at other connections.
READ_BYTES: Final = 4 << 10


async def run_websocket(
    server: "LaneServer",
    client: Channel,
    upstream: Channel,
    effect: Upgrade,
    context: Context,
    carrier: "LaneCarrier",
) -> Traffic:
    """Answers 101 and pumps until both sides are closed. Raises the Denied or Aborted that ended it early."""

    async def inspect(payload: bytes, _is_text: bool) -> Inspection:
        job = replace(effect.job, body=payload, direction="message")
        verdict: Inspection = await server.runtime.services.inspector.inspect(job)
        return verdict

    pump = WebSocketPump(inspect, restore=restore_text)
    carrier.started = True
    carrier.reusable = False
    client.on_lost = client.on_eof = None
    client.deadline_s = upstream.deadline_s = None
    client.write(h1.encode_response_head(effect.head))

    def send(output: Output) -> None:
        if output.to_client and not client.lost:
            client.write(output.to_client)
        if output.to_upstream and not upstream.lost:
            upstream.write(output.to_upstream)

    async def read(channel: Channel, feed: Callable[[bytes], Coroutine[Any, Any, Output]], other: Channel) -> None:
        while not pump.finished:
            if not channel.buffer and not await channel.more():
                send(pump.eof("client" if channel is client else "upstream"))
                return
            output = await feed(channel.take(READ_BYTES))
            send(output)
            await asyncio.sleep(0)
            await other.drain()
            if output.to_client if channel is client else output.to_upstream:
                # Our own answers (pongs) to one that sends without reading; to wait for more could stall both.
                await channel.drain()

    def deny(denied: Denied) -> None:
        send(pump.deny(denied))

    pairs = (read(client, pump.feed_client, upstream), read(upstream, pump.feed_upstream, client))
    try:
        await _until_first(pairs, lambda: _recheck(server, context, deny), lambda: pump.finished)
    except (Aborted, TimeoutError):
        send(pump.eof("client" if client.lost else "upstream"))
    context.trail.traffic(pump.traffic)
    if pump.denied is not None:
        raise pump.denied
    return pump.traffic


async def copy_both_ways(
    server: "LaneServer", client: Channel, upstream: Channel, first: bytes, context: Context
) -> Traffic:
    """Bytes both ways, uninspected by the entry's own choice, until both sides are done or policy changes its mind.
    Denied: what policy says by then; the bytes so far are in the trail."""
    counts = {"sent": len(first), "received": 0}
    client.deadline_s = upstream.deadline_s = None
    if first:
        upstream.write(first)

    async def copy(source: Channel, sink: Channel, name: str) -> None:
        while source.buffer or await source.more():
            data = source.take()
            counts[name] += len(data)
            sink.write(data)
            await sink.drain()
        sink.end_writing()

    client.on_lost = lambda: upstream.fail(Aborted("client", "went away", sent=True))
    running = {asyncio.ensure_future(copy(client, upstream, "sent"))}
    running.add(asyncio.ensure_future(copy(upstream, client, "received")))
    try:
        while running:
            done, running = await asyncio.wait(running, timeout=RECHECK_S, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            server.still_allowed(context)
    except (Aborted, TimeoutError, asyncio.CancelledError):
        pass
    finally:
        client.on_lost = None
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        context.trail.traffic(Traffic(counts["sent"], counts["received"]))
    return Traffic(counts["sent"], counts["received"])


def _recheck(server: "LaneServer", context: Context, deny: Callable[[Denied], None]) -> bool:
    """True while policy still allows the connection; else `deny` has been called."""
    try:
        server.still_allowed(context)
    except Denied as denied:
        deny(denied)
        return False
    return True


async def _until_first(
    coroutines: tuple[Coroutine[Any, Any, None], ...], allowed: Callable[[], bool], finished: Callable[[], bool]
) -> None:
    """Runs all until one ends (or policy changes its mind), then ends the others; re-raises the first error."""
    running = {asyncio.ensure_future(coroutine) for coroutine in coroutines}
    try:
        while running and not finished() and allowed():
            done, running = await asyncio.wait(running, timeout=RECHECK_S, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
