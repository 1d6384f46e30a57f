"""One TCP connection as a byte channel, plain or TLS, for a single reader task.

TLS runs over memory BIOs, so that a ClientHello can be read and judged before anything answers it, and the same code
serves both ends. Reading pauses when nobody consumes; writing waits when the peer does not read.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

from proxy.effects import Aborted

# One TLS record is at most 16 KiB; a few of them in flight keep the pipe full without holding memory per connection.
READ_HIGH_WATER_BYTES = 256 << 10
# A reader slower than about 1 KB/s holds an upstream, a slot and buffers; transports keep 64 KiB before they pause.
WRITE_STALL_S = 60.0
_TLS_READ_BYTES = 16 << 10
_NO_LINGER = struct.pack("ii", 1, 0)


class Channel(asyncio.Protocol):
    """`buffer` holds received plaintext; consumers delete what they took through `take` or `consume`.

    `side` names this end in `Aborted`. `deadline_s` (loop time) is enforced by the worker's sweeper: past it, waiting
    readers and writers get TimeoutError. `on_lost` is called once the connection is gone, `on_eof` when the peer of a
    plain connection has ended its side. `blocked`: `drain` would wait, or raise.
    """

    __slots__ = (
        "_drain_waiter",
        "_held_bytes",
        "_incoming",
        "_outgoing",
        "_paused_reading",
        "_waiter",
        "blocked",
        "buffer",
        "deadline_s",
        "eof",
        "loop",
        "lost",
        "on_eof",
        "on_lost",
        "side",
        "tls",
        "transport",
    )

    def __init__(self, side: str) -> None:
        self.side = side
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.eof = False
        self.lost = False
        self.tls: ssl.SSLObject | None = None
        self.deadline_s: float | None = None
        self.on_eof: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self._incoming: ssl.MemoryBIO | None = None
        self._outgoing: ssl.MemoryBIO | None = None
        self._held_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._paused_reading = False
        self.blocked = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is up."""
        self.transport = transport  # type: ignore[assignment]  # a stream protocol is always given a Transport

    def data_received(self, data: bytes) -> None:
        """Bytes from the wire: decrypted when TLS is up, then handed to the reader."""
        if self.tls is None or self._incoming is None:
            self.buffer += data
        else:
            self._incoming.write(data)
            self._decrypt()
        if len(self.buffer) > READ_HIGH_WATER_BYTES and not self._paused_reading and self.transport is not None:
            self._paused_reading = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """The peer half-closed. Plain connections stay writable; TLS cannot be half-closed usefully."""
        self.eof = True
        self._wake()
        if self.tls is None and self.on_eof is not None:
            self.on_eof()
        return self.tls is None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol names it
        """The connection is gone; everybody who waits is told."""
        self.eof = True
        self.lost = self.blocked = True
        self._wake()
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.on_lost is not None:
            self.on_lost()

    def pause_writing(self) -> None:
        """The peer does not keep up."""
        self.blocked = True

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self.blocked = self.lost
        waiter, self._drain_waiter = self._drain_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- reading

    async def more(self) -> bool:
        """Waits until `buffer` has grown or the peer is done; False at the end of input."""
        had = len(self.buffer)
        # TLS session tickets and closed windows wake the reader without giving it a byte.
        while len(self.buffer) == had:
            if self.eof:
                return False
            # Whoever waits for more wants it, however much lies here already: a body is read whole.
            if self._paused_reading and self.transport is not None:
                self._paused_reading = False
                self.transport.resume_reading()
            waiter = self._waiter = self.loop.create_future()
            try:
                await waiter
            finally:
                self._waiter = None
        return True

    def take(self, most: int | None = None) -> bytes:
        """Removes and returns up to `most` buffered bytes."""
        if most is None or most >= len(self.buffer):
            data = bytes(self.buffer)
            self.buffer.clear()
        else:
            data = bytes(self.buffer[:most])
            del self.buffer[:most]
        return data

    # -- writing

    def write(self, data: bytes) -> None:
        """Queues `data`. Aborted when the connection is gone."""
        if self.lost or self.transport is None or self.transport.is_closing():  # `closing`, without its call
            raise Aborted(self.side, "connection closed", sent=False)
        if self.tls is None or self._outgoing is None:
            self.transport.write(data)
            return
        try:
            self.tls.write(data)
        except ssl.SSLError as error:
            raise Aborted(self.side, "TLS write failed", sent=False) from error
        self._held_bytes = 0
        self.transport.write(self._outgoing.read())

    async def drain(self) -> None:
        """Returns when the peer keeps up. Aborted when it is gone."""
        if self.blocked and not self.lost:
            waiter = self._drain_waiter
            if waiter is not None:
                await asyncio.shield(waiter)
            else:
                waiter = self._drain_waiter = self.loop.create_future()
                before_s, self.deadline_s = self.deadline_s, self.loop.time() + WRITE_STALL_S
                await asyncio.shield(waiter)  # others may wait for the same
                self.deadline_s = before_s
        if self.lost:
            raise Aborted(self.side, "connection closed", sent=False)

    def close(self) -> None:
        """Flushes what is queued and closes; TLS says goodbye first."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self.tls is not None and self._outgoing is not None:
            with contextlib.suppress(ssl.SSLError, ValueError):
                self.tls.unwrap()
            rest = self._outgoing.read()
            if rest:
                transport.write(rest)
        transport.close()

    @property
    def pressed(self) -> bool:
        """The peer does not take what it is sent."""
        return self.blocked and not self.lost

    async def linger(self, seconds: float, most_bytes: int) -> None:
        """Half-closes and swallows what the peer still sends: closing on unread bytes would reset the connection under
        our last words."""
        self.end_writing()
        self.deadline_s = self.loop.time() + seconds
        swallowed = len(self.take())
        with contextlib.suppress(TimeoutError):
            while swallowed < most_bytes and await self.more():
                swallowed += len(self.take())

    def end_writing(self) -> None:
        """Half-closes: the peer reads to our end and may still send. Under TLS our goodbye comes first, and what the
        peer still sends is buffered as it is, not decrypted: nobody will read it."""
        transport = self.transport
        if transport is None or transport.is_closing() or not transport.can_write_eof():
            return
        if self.tls is not None and self._outgoing is not None:
            with contextlib.suppress(ssl.SSLError, ValueError):
                self.tls.unwrap()
            self._flush(self._outgoing)
            self.tls = self._incoming = self._outgoing = None
        transport.write_eof()

    def abort(self) -> None:
        """Drops the connection and what is queued."""
        if self.transport is not None:
            self.transport.abort()

    def reset(self) -> None:
        """Drops the connection so that the peer cannot take it for an orderly end (RST; `abort` may send FIN)."""
        sock = self.info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.abort()

    # -- TLS

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
        tickets: int = 1,
    ) -> None:
        """Runs the handshake over what is buffered and what follows. ssl.SSLError, or Aborted at the peer's end.

        `tickets`: how many sessions a TLS 1.3 client is given.
        """
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        if server_side:
            context.num_tickets = tickets  # taken over by what is made next; contexts are shared
        tls = context.wrap_bio(
            incoming, outgoing, server_side=server_side, server_hostname=server_hostname, session=session
        )
        while True:
            incoming.write(self.buffer)
            self.buffer.clear()
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush(outgoing)
                if not await self.more():
                    raise Aborted(self.side, "closed during the TLS handshake", sent=False) from None
                continue
            except ssl.SSLError:
                self._flush(outgoing)
                raise
            break
        self.tls, self._incoming, self._outgoing = tls, incoming, outgoing
        if server_side and tls.version() == "TLSv1.3":
            # Only session tickets are left, for which no client waits: they travel with the first answer.
            self._held_bytes = outgoing.pending
        else:
            self._flush(outgoing)
        self._decrypt()

    def _flush(self, outgoing: ssl.MemoryBIO) -> None:
        data = outgoing.read()
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def _decrypt(self) -> None:
        tls, incoming, outgoing = self.tls, self._incoming, self._outgoing
        if tls is None or incoming is None or outgoing is None:
            return
        try:
            # To ask an empty BIO costs an exception; a record is read whole, so that nothing waits inside.
            while incoming.pending:
                data = tls.read(_TLS_READ_BYTES)
                if not data:
                    self.eof = True
                    break
                self.buffer += data
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            # A broken record or a failed renegotiation: nothing after it can be trusted.
            self.eof = True
        if outgoing.pending > self._held_bytes:
            self._held_bytes = 0
            self._flush(outgoing)

    # -- waiting

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """Whoever waits on this channel gets `error`."""
        for waiter in (self._waiter, self._drain_waiter):
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
        self._waiter = self._drain_waiter = None

    def expire(self) -> None:
        """Called by the sweeper once the deadline has passed."""
        self.deadline_s = None
        self.fail(TimeoutError())

    @property
    def closing(self) -> bool:
        """True when nothing can be written any more."""
        return self.lost or self.transport is None or self.transport.is_closing()

    @property
    def was_reset(self) -> bool:
        """The peer has answered with a reset after its end: nobody reads any more, so that no event tells of it."""
        if not self.eof or self.lost:
            return False
        sock = self.info("socket")
        with contextlib.suppress(OSError):
            return sock is not None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        return True

    @property
    def peer_ip(self) -> str:
        """The other side's address, "" when it is gone."""
        peer = self.info("peername")
        return str(peer[0]) if peer else ""

    def info(self, name: str) -> Any:
        """Transport information such as `peername` or `socket`."""
        return None if self.transport is None else self.transport.get_extra_info(name)
