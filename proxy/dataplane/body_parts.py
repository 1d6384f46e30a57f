"""How a body arrives: at what pace a request's must, and in which pieces an answer's does."""

import asyncio
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


class AnswerBody:
    """An answer's body, in the pieces that it comes in. `ended`: no piece will come."""

    __slots__ = ("_channel", "_chunks", "_left", "_yields", "ended")

    def __init__(self, channel: Channel, framing: h1.Framing) -> None:
        self._channel = channel
        self._left = framing.length
        self._chunks = h1.ChunkedReader() if framing.chunked else None
        self.ended = framing.length == 0
        self._yields = False

    async def next(self) -> bytes:
        """The next piece, b"" after the last. Aborted when the upstream ends it too early or wrongly."""
        if self._chunks is not None:
            return await self._next_chunk(self._chunks)
        return await (self._next_to_end() if self._left is None else self._next_sized(self._left))

    async def _next_sized(self, left: int) -> bytes:
        channel = self._channel
        if not channel.buffer and not await channel.more():
            raise Aborted("upstream", "closed before the answer's end", sent=True)
        data = channel.take(min(left, _READ_BYTES))
        self._left = left - len(data)
        self.ended = not self._left
        return data

    async def _next_chunk(self, reader: h1.ChunkedReader) -> bytes:
        channel = self._channel
        if self._yields:
            self._yields = False
            await asyncio.sleep(0)
        while not self.ended:
            try:
                data = reader.feed(channel.buffer)
            except Denied as denied:
                raise Aborted("upstream", denied.detail, sent=True) from None
            self.ended = reader.done
            if data:
                self._yields = reader.busy
                return data
            if self.ended:
                break
            if reader.busy:
                await asyncio.sleep(0)
            elif not await channel.more():
                raise Aborted("upstream", "closed before the answer's end", sent=True)
        return b""

    async def _next_to_end(self) -> bytes:
        channel = self._channel
        if self._yields:
            self._yields = False
            await asyncio.sleep(0)
        if not channel.buffer and not await channel.more():
            self.ended = True
            return b""
        self._yields = True
        return channel.take(_READ_BYTES)
