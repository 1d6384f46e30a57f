"""How a body arrives: at what pace a request's must, and in which pieces an answer's does."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from proxy.dataplane import h1
from proxy.dataplane.channel import Channel
from proxy.effects import Aborted
from proxy.errors import Denied

# A body must make this much progress in each window: one byte a second would hold memory and a slot for hours.
BODY_WINDOW_S: Final = 10.0
BODY_WINDOW_BYTES: Final = 1 << 10
_READ_BYTES: Final = 64 << 10


class Progress:
    """Moves the client's deadline while the body keeps coming."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._mark_bytes = 0
        self._set()

    def check(self, received_bytes: int) -> None:
        """Tells how much there is by now."""
        if received_bytes - self._mark_bytes >= BODY_WINDOW_BYTES:
            self._mark_bytes = received_bytes
            self._set()

    def _set(self) -> None:
        self._channel.deadline_s = self._channel.loop.time() + BODY_WINDOW_S


def answer_parts(channel: Channel, framing: h1.Framing) -> AsyncIterator[bytes]:
    """An answer's body, in the pieces that it comes in. Aborted when the upstream ends it too early or wrongly."""
    if framing.chunked:
        return _chunked_parts(channel)
    return _parts_to_end(channel) if framing.length is None else _sized_parts(channel, framing.length)


async def _sized_parts(channel: Channel, length: int) -> AsyncIterator[bytes]:
    left = length
    while left:
        if not channel.buffer and not await channel.more():
            raise Aborted("upstream", "closed before the answer's end", sent=True)
        data = channel.take(min(left, _READ_BYTES))
        left -= len(data)
        yield data


async def _chunked_parts(channel: Channel) -> AsyncIterator[bytes]:
    reader = h1.ChunkedReader()
    while True:
        try:
            data = reader.feed(channel.buffer)
        except Denied as denied:
            raise Aborted("upstream", denied.detail, sent=True) from None
        if data:
            yield data
        if reader.done:
            return
        if reader.busy:
            await asyncio.sleep(0)
        elif not data and not await channel.more():
            raise Aborted("upstream", "closed before the answer's end", sent=True)


async def _parts_to_end(channel: Channel) -> AsyncIterator[bytes]:
    while True:
        if channel.buffer:
            yield channel.take(_READ_BYTES)
        elif not await channel.more():
            return
        await asyncio.sleep(0)
