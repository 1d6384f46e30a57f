"""A client's end while its request is under way: found out before the answer, a leave amid it."""

import asyncio
import socket

import pytest

from proxy.dataplane import departure
from proxy.dataplane.channel import Channel

WHOLE = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("waits", "version", "answering", "outcome"),
    [
        (b"", "1.1", False, "asked"),
        (b"x", "1.1", False, "asked"),
        (WHOLE, "1.1", False, "asked"),
        (b"", "1.1", True, "ended"),
        (b"x", "1.1", True, "ended"),
        (WHOLE[:-1], "1.1", True, "ended"),
        (b"x\n\n", "1.1", True, "ended"),
        (WHOLE, "1.1", True, "kept"),
        (b"", "1.0", False, "ended"),
        (b"x", "1.0", False, "ended"),
        (WHOLE, "1.0", False, "kept"),
    ],
)
def test_what_a_clients_end_means(waits: bytes, version: str, answering: bool, outcome: str) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_connection(lambda: Channel("client"), sock=ours)
        channel.buffer += waits
        departure.ended(channel, version, answering=answering)
        assert channel.closing == (outcome == "ended")
        if outcome != "ended":
            channel.close()
        try:
            told = await asyncio.wait_for(loop.sock_recv(theirs, 1000), 10)
        except ConnectionResetError:
            told = b""
        assert told == (departure.CONTINUE if outcome == "asked" else b"")
        theirs.close()

    asyncio.run(run())
