"""Long connections: whoever sends without reading is held back, whatever the proxy itself has to answer."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

from wsproto.frame_protocol import FrameProtocol

from proxy.dataplane.channel import Channel
from proxy.dataplane.pump import READ_BYTES, run_websocket
from proxy.effects import Upgrade
from proxy.model import ResponseHead
from tests.exchange import kit

PING = bytes(FrameProtocol(client=True, extensions=[]).ping(b"x" * 100))


async def ends(side: str) -> tuple[Channel, socket.socket]:
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
    _, channel = await asyncio.get_running_loop().create_connection(lambda: Channel(side), sock=ours)
    return channel, theirs


def test_a_flood_of_pings_is_held_back(tmp_path: Any) -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        (client, app), (upstream, service) = await ends("client"), await ends("upstream")
        context = kit.context(kit.snapshot(tmp_path))
        server: Any = SimpleNamespace(still_allowed=lambda _: None)
        effect: Any = Upgrade(ResponseHead(101, "Switching Protocols", ()), None)  # type: ignore[arg-type]
        running = asyncio.ensure_future(
            run_websocket(server, client, upstream, effect, context, SimpleNamespace())  # type: ignore[arg-type]
        )
        flood = asyncio.ensure_future(loop.sock_sendall(app, PING * 200_000))
        done, _ = await asyncio.wait({flood}, timeout=2)
        transport: Any = client.transport
        assert not done
        assert transport.get_write_buffer_size() < 1 << 20
        flood.cancel()
        app.close()
        service.close()
        await asyncio.wait_for(asyncio.gather(running, return_exceptions=True), 5)
        for channel in (client, upstream):
            channel.abort()

    asyncio.run(check())


def test_tiny_frames_take_turns_with_others(tmp_path: Any) -> None:
    async def check() -> None:
        (client, app), (upstream, service) = await ends("client"), await ends("upstream")
        server: Any = SimpleNamespace(still_allowed=lambda _: None)
        effect: Any = Upgrade(ResponseHead(101, "Switching Protocols", ()), None)  # type: ignore[arg-type]
        context = kit.context(kit.snapshot(tmp_path))
        begin = bytes(FrameProtocol(client=True, extensions=[]).send_data("a", fin=False))
        empty = b"\x00\x80\x00\x00\x00\x00"
        client.data_received(begin + empty * (20 * READ_BYTES // len(empty)))
        running = asyncio.ensure_future(
            run_websocket(server, client, upstream, effect, context, SimpleNamespace())  # type: ignore[arg-type]
        )
        turns = 0
        while client.buffer:
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 20
        app.close()
        service.close()
        await asyncio.wait_for(asyncio.gather(running, return_exceptions=True), 5)
        for channel in (client, upstream):
            channel.abort()

    asyncio.run(check())


def test_two_may_wait_for_one_channel() -> None:
    async def check() -> None:
        channel, peer = await ends("client")
        channel.pause_writing()
        waiting = [asyncio.ensure_future(channel.drain()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.sleep(0)
        channel.resume_writing()
        await asyncio.wait_for(asyncio.gather(waiting[0], waiting[2]), 5)
        assert channel.deadline_s is None
        channel.abort()
        peer.close()

    asyncio.run(check())
