"""The loopback forwarder behind `egress connect`: adds Proxy-Authorization to each request's head, then only copies."""

import asyncio
import base64
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from proxy.cli._issue import issue
from proxy.paths import Paths

_HEAD_LIMIT_BYTES: Final = 1 << 16
_HEAD_DEADLINE_S: Final = 30.0
_CONNECT_DEADLINE_S: Final = 10.0
_CHUNK_BYTES: Final = 1 << 16


class TokenSource:
    """Hands out a Basic credential whose token is good for at least a third of its lifetime."""

    def __init__(
        self, paths: Paths, store_url: str | None, app: str, ttl_s: int, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._paths, self._store_url, self._app, self._ttl_s, self._clock = paths, store_url, app, ttl_s, clock
        self._value = b""
        self._issued_at_s = 0.0
        self._lock = asyncio.Lock()

    async def authorization(self) -> bytes:
        """The value of Proxy-Authorization. Raises CliError when no token can be made."""
        async with self._lock:
            age_s = self._clock() - self._issued_at_s
            # Also when the clock was set back: such a token would lie in the future for the proxy.
            if not self._value or not 0 <= age_s < self._ttl_s * 2 / 3:
                made = await issue(
                    self._paths, self._store_url, self._app, self._ttl_s, "egress connect", must_record=False
                )
                self._issued_at_s = self._clock()
                self._value = b"Basic " + base64.b64encode(f"{self._app}:{made.token}".encode())
            return self._value


class Forwarder:
    """Serves one client connection at a time per call of `serve`; one upstream connection for each."""

    def __init__(self, upstream: tuple[str, int], authorization: Callable[[], Awaitable[bytes]]) -> None:
        self._upstream = upstream
        self._authorization = authorization

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Callback of asyncio.start_server."""
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # One side went away or never spoke; there is nobody left to tell.
        finally:
            await _close(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not same_user(writer.get_extra_info("peername"), writer.get_extra_info("sockname")):
            await _refuse(writer, 403, "this forwarder serves only processes of the user who started it")
            return
        async with asyncio.timeout(_HEAD_DEADLINE_S):
            head = await reader.readuntil(b"\r\n\r\n")
        try:
            authorization = await self._authorization()
        except Exception as error:  # noqa: BLE001 - whatever the reason: nothing is sent without a token
            await _refuse(writer, 503, f"no proxy token could be issued: {type(error).__name__}")
            return
        try:
            async with asyncio.timeout(_CONNECT_DEADLINE_S):
                up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except (OSError, TimeoutError):
            host, port = self._upstream
            await _refuse(writer, 502, f"the egress proxy at {host}:{port} does not answer; is it running?")
            return
        try:
            up_writer.write(rewrite_head(head, authorization))
            await _splice((reader, up_writer), (up_reader, writer))
        finally:
            await _close(up_writer)


def rewrite_head(head: bytes, authorization: bytes) -> bytes:
    """A request head with our credential in place of any other.

    A plain (absolute-form) request also loses its keep-alive: the next one on that connection would pass unseen,
    without a credential. CONNECT and upgrades own their connection anyway.
    """
    lines = head[:-4].split(b"\r\n")
    fields: list[bytes] = []
    dropping = False
    for line in lines[1:]:
        folded = line[:1] in (b" ", b"\t")
        name = line.partition(b":")[0].strip().lower()
        dropping = dropping if folded else name == b"proxy-authorization"
        if not dropping:
            fields.append(line)
    names = {field.partition(b":")[0].strip().lower() for field in fields}
    if not lines[0].startswith(b"CONNECT ") and b"upgrade" not in names:
        fields = [f for f in fields if f.partition(b":")[0].strip().lower() not in (b"connection", b"proxy-connection")]
        fields.append(b"Connection: close")
    fields.append(b"Proxy-Authorization: " + authorization)
    return b"\r\n".join([lines[0], *fields]) + b"\r\n\r\n"


async def _splice(*ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Copies both ways until both have ended; an end is passed on as a half-close, an error ends both."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_copy(reader, writer)) for reader, writer in ways]
        # The proxy's end is the end: a client that keeps its side open must not keep the connection.
        tasks[-1].add_done_callback(lambda _: tasks[0].cancel())


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _refuse(writer: asyncio.StreamWriter, status: int, why: str) -> None:
    body = f"egress connect: {why}\n".encode()
    # The reason phrase too: clients drop the body of a failed CONNECT.
    head = f"HTTP/1.1 {status} egress connect: {why}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
    with contextlib.suppress(OSError):
        await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def same_user(peer: tuple[str, int], own: tuple[str, int]) -> bool:
    """Whether a loopback peer's socket belongs to this user, by /proc/net/tcp (proc(5)); elsewhere than on Linux the
    kernel does not tell, and loopback is trusted."""
    if not sys.platform.startswith("linux"):
        return True
    ends = [(ip_address(host), port) for host, port in (peer[:2], own[:2])]
    # A dual-stack socket (every JVM's) that talks IPv4 stands in the table of IPv6, by its mapped addresses.
    mapped = [(IPv6Address(f"::ffff:{host}") if host.version == 4 else host, port) for host, port in ends]
    owner = _owner("tcp", ends) if ends[0][0].version == 4 else None
    if owner is None:
        owner = _owner("tcp6", mapped)
    return owner in (os.geteuid(), 0)


def _owner(table: str, ends: Sequence[tuple[IPv4Address | IPv6Address, int]]) -> int | None:
    """User id of the socket with these local and remote ends."""
    wanted = [_proc_address(host.packed, port) for host, port in ends]
    try:
        lines = Path("/proc/self/net", table).read_text().splitlines()[1:]
    except OSError:
        return None
    return next((int(columns[7]) for columns in map(str.split, lines) if columns[1:3] == wanted), None)


def _proc_address(packed: bytes, port: int) -> str:
    words = (int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4))
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
