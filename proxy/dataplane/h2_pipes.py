"""The lane's channels as mitmproxy wants its readers and writers; floods and slowness, which it does not bound."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from h2.errors import ErrorCodes

from proxy.dataplane.channel import WRITE_STALL_S, Channel
from proxy.dataplane.h2_frames import (
    CLIENT_BUDGETS,
    CLIENT_FRAME_BYTES,
    UPSTREAM_BUDGETS,
    UPSTREAM_FRAME_BYTES,
    Flood,
    FrameGuard,
)
from proxy.dataplane.lane_connection import HEAD_DEADLINE_S, IDLE_DEADLINE_S
from proxy.effects import Aborted
from proxy.errors import Denied

# What a transport takes from its high to its low water: the lane's readers must take as much in the same time.
STALL_BYTES: Final = 48 << 10


class Pipe:
    """One end's reader and writer. Raises Flood from `read`."""

    def __init__(self, channel: Channel, guard: FrameGuard) -> None:
        self._channel = channel
        self._guard = guard

    async def read(self, most: int) -> bytes:  # noqa: ARG002 - the guard knows better how much is good at once
        """Whole frames, a turn of them; b"" at the end."""
        channel = self._channel
        while not (size := self._guard.turn(channel.buffer)):
            # Records without plaintext (session tickets) wake the reader too; an empty read would mean the end.
            if not await self._more():
                return b""
        data = channel.take(size)
        if channel.buffer:
            await asyncio.sleep(0)  # others have their turn
        return data

    async def _more(self) -> bool:
        return await self._channel.more()

    def write(self, data: bytes) -> None:
        """Queues whole frames."""
        self._guard.sent(data)
        try:
            self._channel.write(data)
        except Aborted:
            self._channel.abort()  # the reader sees the end and tells every stream

    async def drain(self) -> None:
        """Returns when the peer keeps up. OSError when it is gone or does not."""
        try:
            await self._channel.drain()
        except Aborted as aborted:
            raise OSError(aborted.detail) from None

    def is_closing(self) -> bool:
        """Nothing more can be written."""
        transport = self._channel.transport
        return self._channel.lost or transport is None or transport.is_closing()

    def write_eof(self) -> None:
        """Half-closes."""
        self._channel.end_writing()

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()


class UpstreamPipe(Pipe):
    """`room` is waited for before each read: the client takes what it is sent. A flood is the connection's end."""

    def __init__(self, channel: Channel, room: asyncio.Event) -> None:
        super().__init__(channel, FrameGuard(UPSTREAM_BUDGETS, UPSTREAM_FRAME_BYTES, channel.loop.time))
        self._room = room

    async def read(self, most: int) -> bytes:
        await self._room.wait()
        try:
            return await super().read(most)
        except Flood:
            return b""


class Patience:
    """How long a client connection may go on as it is, in loop seconds. Sans-io.

    A frame, a head or the preface that is begun ends within 10 s; a connection without a stream lasts 75 s, a worn one
    no longer; a client that leaves answers lying takes 48 KiB of them, or all, in each minute. What `look` saw last
    decides.
    """

    def __init__(self) -> None:
        self._unfinished_s: float | None = None
        self._idle_s: float | None = None
        self._stalled_s: float | None = None
        self._mark_bytes = 0
        self._ended = 0

    def look(
        self, now_s: float, *, unfinished: bool, ended: int, busy: bool, worn: bool, backlog: bool, sent_bytes: int
    ) -> float | None:
        """When to give up. `ended`: how many frames and heads have; `busy`: a stream is open; `worn`: as many as may be
        have been; `backlog`: answers lie here; `sent_bytes`: of answers, so far."""
        if not unfinished:
            self._unfinished_s = None
        elif self._unfinished_s is None or ended != self._ended:
            self._unfinished_s, self._ended = now_s + HEAD_DEADLINE_S, ended
        if busy or backlog:
            self._idle_s = None
        elif self._idle_s is None:
            self._idle_s = now_s if worn else now_s + IDLE_DEADLINE_S
        if not backlog:
            self._stalled_s = None
        elif self._stalled_s is None or sent_bytes - self._mark_bytes >= STALL_BYTES:
            self._stalled_s, self._mark_bytes = now_s + WRITE_STALL_S, sent_bytes
        times = [each for each in (self._unfinished_s, self._idle_s, self._stalled_s) if each is not None]
        return min(times, default=None)

    def verdict(self, now_s: float) -> Flood | None:
        """Why the connection ends now, or None when it need not."""
        if self._unfinished_s is not None and self._unfinished_s <= now_s:
            detail = f"No whole HTTP/2 frame or head within {HEAD_DEADLINE_S:g} s"
            return Flood(ErrorCodes.ENHANCE_YOUR_CALM, "too slow", Denied("timeout", detail))
        if self._stalled_s is not None and self._stalled_s <= now_s:
            return Flood(ErrorCodes.ENHANCE_YOUR_CALM, "answers are not read")
        if self._idle_s is not None and self._idle_s <= now_s:
            return Flood(ErrorCodes.NO_ERROR, "idle")
        return None


@dataclass(frozen=True, slots=True)
class Use:
    """What a connection is used for now: see `Patience.look`."""

    busy: bool = False
    worn: bool = False
    backlog: bool = False


class ClientPipe(Pipe):
    """`use` tells what the connection is used for; `give_up` says goodbye before the reader ends."""

    def __init__(self, channel: Channel, use: Callable[[], Use], give_up: Callable[[Flood], Awaitable[None]]) -> None:
        guard = FrameGuard(CLIENT_BUDGETS, CLIENT_FRAME_BYTES, channel.loop.time, preface=True)
        super().__init__(channel, guard)
        self._use = use
        self._give_up = give_up
        self._patience = Patience()

    async def read(self, most: int) -> bytes:
        try:
            return await super().read(most)
        except Flood as flood:
            await self._give_up(flood)
            return b""

    async def _more(self) -> bool:
        while True:
            self.look()
            try:
                return await self._channel.more()
            except TimeoutError:
                self.look()
                verdict = self._patience.verdict(self._channel.loop.time())
                if verdict is not None:
                    raise verdict from None

    def look(self) -> None:
        """Sets the channel's deadline by how things stand."""
        channel = self._channel
        use = self._use()
        channel.deadline_s = self._patience.look(
            channel.loop.time(),
            unfinished=self._guard.unfinished(channel.buffer),
            ended=self._guard.ended,
            busy=use.busy,
            worn=use.worn,
            backlog=use.backlog or channel.pressed,
            sent_bytes=self._guard.sent_bytes,
        )

    async def drain(self) -> None:
        await super().drain()
        self.look()

    def close(self) -> None:
        """Only our half: the client is to read the last words, which closing on its unread bytes would destroy."""
        self._channel.end_writing()
