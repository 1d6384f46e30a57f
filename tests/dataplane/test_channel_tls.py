"""TLS on a channel: what is written when, and that a client can resume."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from proxy.dataplane.channel import Channel
from proxy.keys.ca import CertificateAuthority
from proxy.keys.leaf import LeafStore
from proxy.keys.root import RootKey

HOST = "api.example.com"


class Client:
    """The other end, byte by byte in our hands."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket, session: ssl.SSLSession | None = None) -> None:
        self._in, self._out, self._sock = ssl.MemoryBIO(), ssl.MemoryBIO(), sock
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=HOST, session=session)

    async def send(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, self._out.read())

    async def receive(self) -> int:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._sock, 1 << 16), 10)
        self._in.write(data)
        return len(data)

    async def until[T](self, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                await self.send()
                await self.receive()
            finally:
                await self.send()

    def waiting_bytes(self) -> int:
        try:
            return len(self._sock.recv(1 << 16, socket.MSG_PEEK))
        except BlockingIOError:
            return 0


@pytest.fixture
def store(state_dir: Path) -> LeafStore:
    import time

    root = RootKey.load_or_create(state_dir / "root.key")
    return LeafStore(CertificateAuthority.load_or_create(state_dir / "live", root, time.time()))


def _trusting(store: LeafStore) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=store._ca.pem.decode())


def _served(
    store: LeafStore,
    context: ssl.SSLContext,
    check: Callable[[Channel, Client], Coroutine[Any, Any, None]],
    session: ssl.SSLSession | None = None,
    tickets: int = 1,
) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        _, channel = await asyncio.get_running_loop().create_connection(lambda: Channel("client"), sock=ours)
        client = Client(context, theirs, session)
        answering = asyncio.ensure_future(channel.start_tls(store.context(HOST), server_side=True, tickets=tickets))
        await client.until(client.tls.do_handshake)
        await answering
        await check(channel, client)
        channel.close()
        theirs.close()

    asyncio.run(run())


def test_tickets_travel_with_the_first_answer(store: LeafStore) -> None:
    context = _trusting(store)
    sessions: list[ssl.SSLSession | None] = []

    async def first(channel: Channel, client: Client) -> None:
        assert client.tls.version() == "TLSv1.3"
        assert client.waiting_bytes() == 0
        client.tls.write(b"ping")
        await client.send()
        assert await channel.more()
        assert channel.take() == b"ping"
        assert client.waiting_bytes() == 0
        channel.write(b"pong")
        assert await client.until(lambda: client.tls.read(10)) == b"pong"
        sessions.append(client.tls.session)

    async def again(channel: Channel, client: Client) -> None:
        assert client.tls.session_reused
        channel.write(b"pong")
        assert await client.until(lambda: client.tls.read(10)) == b"pong"

    _served(store, context, first)
    assert sessions[0] is not None
    assert sessions[0].has_ticket
    _served(store, context, again, sessions[0])


def test_a_client_is_given_as_many_as_were_asked_for(store: LeafStore) -> None:
    """One context serves all of them."""
    given: list[bool] = []

    async def check(channel: Channel, client: Client) -> None:
        channel.write(b"pong")
        assert await client.until(lambda: client.tls.read(10)) == b"pong"
        given.append(client.tls.session is not None and client.tls.session.has_ticket)

    for tickets in (1, 0, 1):
        _served(store, _trusting(store), check, tickets=tickets)
    assert given == [True, False, True]


def test_what_answers_the_client_is_not_held_back_with_them(store: LeafStore) -> None:
    """A broken record is told at once, not with an answer that never comes."""

    async def check(channel: Channel, client: Client) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client._sock, b"\x17\x03\x03\x00\x20" + bytes(32))
        assert not await channel.more()
        with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
            await client.until(lambda: client.tls.read(10))

    _served(store, _trusting(store), check)


def test_a_goodbye_carries_them(store: LeafStore) -> None:
    async def check(channel: Channel, client: Client) -> None:
        channel.close()
        assert await client.until(lambda: client.tls.read(10)) == b""

    _served(store, _trusting(store), check)


def test_the_last_flight_of_tls_1_2_is_not_held_back(store: LeafStore) -> None:
    """There the client waits for it: the handshake of `_served` would not end."""
    context = _trusting(store)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def check(channel: Channel, client: Client) -> None:
        channel.write(b"pong")
        assert await client.until(lambda: client.tls.read(10)) == b"pong"

    _served(store, context, check)


@pytest.mark.parametrize("size", [1, 1 << 14, (1 << 14) + 1, 100_000])
def test_all_that_came_is_read(store: LeafStore, size: int) -> None:
    """Whatever the number of records: none stays inside until the next one comes."""

    async def check(channel: Channel, client: Client) -> None:
        client.tls.write(bytes(size))
        sending = asyncio.ensure_future(client.send())
        while len(channel.buffer) < size:
            assert await channel.more()
        await sending
        assert channel.take() == bytes(size)

    _served(store, _trusting(store), check)
