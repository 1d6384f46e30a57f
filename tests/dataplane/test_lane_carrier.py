"""Whether a request has left: what could not be written was not sent, and costs nothing."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.dataplane import h1
from proxy.dataplane.channel import Channel
from proxy.dataplane.counters import Counters
from proxy.dataplane.lane_carrier import LaneCarrier
from proxy.dataplane.upstream import PoolKey, Upstream
from proxy.effects import Aborted, Forward
from proxy.errors import Denied
from proxy.model import Request, RequestHead
from tests.exchange import kit

RAW = h1.RawHead("POST", "/v1/chat/completions", "1.1", ())

type Break = Callable[[Channel, socket.socket], Awaitable[None]]


async def _ends(side: str) -> tuple[Channel, socket.socket]:
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
    _, channel = await asyncio.get_running_loop().create_connection(lambda: Channel(side), sock=ours)
    return channel, theirs


def forwarded(tmp_path: Any, break_it: Break) -> Exception:
    """What forwarding to an upstream that `break_it` spoils raises."""

    async def run() -> Exception:
        (client, app), (channel, service) = await _ends("client"), await _ends("upstream")
        context = kit.context(kit.snapshot(tmp_path))
        head: RequestHead = kit.head()
        key = PoolKey("shop", head.authority, None, None)

        async def take(*_: object, **__: object) -> Upstream:
            await break_it(channel, service)
            return Upstream(key, channel)

        server: Any = SimpleNamespace(
            pool=SimpleNamespace(take=take), services=SimpleNamespace(counters=Counters()),
            bodies=SimpleNamespace(release=lambda *_: None),
        )  # fmt: skip
        carrier = LaneCarrier(server, client, RAW, h1.Framing(0), context)
        entry: Any = None
        try:
            await asyncio.wait_for(carrier.forward(Forward(entry, "shop", Request(head, b"{}"))), 10)
        except (Denied, Aborted) as error:
            assert carrier.sent == error.sent
            return error
        finally:
            carrier.close()
            app.close()
            service.close()
            client.abort()
            channel.abort()
        raise AssertionError("answered")

    return asyncio.run(run())


async def _closed_under_us(channel: Channel, _: socket.socket) -> None:
    """As of a pooled connection whose end is not known here yet."""
    channel.close()


async def _ends_without_answer(_: Channel, service: socket.socket) -> None:
    async def read_then_end() -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_recv(service, 1 << 16)
        service.close()

    _RUNNING.add(asyncio.ensure_future(read_then_end()))


_RUNNING: set[asyncio.Future[None]] = set()


@pytest.mark.parametrize(("break_it", "sent"), [(_closed_under_us, False), (_ends_without_answer, True)])
def test_what_could_not_be_written_was_not_sent(tmp_path: Any, break_it: Break, sent: bool) -> None:
    error = forwarded(tmp_path, break_it)
    assert isinstance(error, Denied)
    assert (error.code, error.sent) == ("upstream_unreachable", sent)
