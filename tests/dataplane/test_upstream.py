"""The upstream pool: whoever waits on a connection is woken at its deadline, also when the upstream stays silent."""

import asyncio
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.dataplane.upstream import UpstreamPool
from proxy.model import Authority
from proxy.net.dial import OwnAddresses
from proxy.net.resolver import Resolver

ENTRY: Any = SimpleNamespace(addresses=(ip_network("127.0.0.0/8"),), upstream_ca=None)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def test_a_silent_upstream_is_given_up_at_its_deadline() -> None:
    async def check() -> None:
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        authority = Authority("http", "up.test", server.sockets[0].getsockname()[1])
        pool = UpstreamPool(Resolver(static={"up.test": ["127.0.0.1"]}), OwnAddresses())
        channel = (await pool.take("app", ENTRY, authority)).channel
        waiting = asyncio.ensure_future(channel.more())
        await asyncio.sleep(0)
        channel.deadline_s = channel.loop.time() + 600
        pool.sweep(channel.deadline_s - 1)
        assert not waiting.done()
        pool.sweep(channel.deadline_s)
        with pytest.raises(TimeoutError):
            await waiting
        channel.abort()
        server.close()

    asyncio.run(check())
