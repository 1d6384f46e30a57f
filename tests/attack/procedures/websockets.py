"""Floods on WebSockets: big messages, messages without end, compressed bombs, control frames."""

import socket
import zlib
from collections.abc import Iterator

from tests.attack.frames import frame
from tests.attack.measures import MIB, ended, memory, unhurt
from tests.attack.net import GW_EXPLICIT
from tests.attack.procedures import Bench, procedure
from tests.attack.upstreams import Accepted, accept_key
from tests.attack.world import EXPLICIT, wait_until

_HANDSHAKE = (
    b"GET http://allowed.test/ws HTTP/1.1\r\nHost: allowed.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
_DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
_TEXT = b"the quick brown fox jumps over " * 32_258


class Swallower:
    """An upstream that accepts, reads for ever and counts."""

    def __init__(self, greeting: bytes = b"") -> None:
        self.received = 0
        self._greeting = greeting

    def __call__(self, _: Accepted, handshake: bytes, stream: socket.socket) -> None:
        stream.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept_key(handshake) + b"\r\n\r\n" + self._greeting
        )  # fmt: skip
        while data := stream.recv(1 << 18):
            self.received += len(data)


def open_websocket(bench: Bench, more: bytes = b"") -> socket.socket:
    """A WebSocket to the allowed host, its handshake done."""
    sock = bench.world.dial((GW_EXPLICIT, EXPLICIT))
    sock.settimeout(30)
    sock.sendall(_HANDSHAKE + more + b"\r\n")
    answer = sock.recv(4096)
    bench.check(b" 101 " in answer[:20], f"no WebSocket: {answer[:60]!r}")
    return sock


def _pour(sock: socket.socket, frames: Iterator[bytes]) -> bool:
    """Sends all; False when the connection ended under it."""
    try:
        for one in frames:
            sock.sendall(one)
    except OSError:
        return False
    return True


@procedure("TUN-10", fresh=True)
def websocket_memory(bench: Bench) -> None:
    """100 messages of 1 MB arrive; one of 100 MB that never ends does not. Memory stays, and is given back."""
    upstream = bench.world.upstreams.script = Swallower()
    message = frame(1, _TEXT)
    with open_websocket(bench) as sock:
        sock.sendall(frame(1, b"hello"))
    with memory(bench, "100 messages", 16 * MIB) as seen:
        with open_websocket(bench) as sock:
            for at in range(100):
                # Some are new to the inspector, the others it knows.
                sock.sendall(frame(1, b"%d " % at + _TEXT) if at % 10 == 0 else message)
            arrived = wait_until(lambda: upstream.received > 100 * len(_TEXT), 60)
            bench.check(arrived, f"{upstream.received / MIB:.0f} MiB of 100 messages arrived")
        with open_websocket(bench) as sock:
            piece = frame(0, b"a" * 60_000, fin=False)
            passed = _pour(sock, iter([frame(1, b"a", fin=False), *[piece] * 1700]))
            bench.check(not passed or wait_until(lambda: ended(sock), 5), "a message of 100 MB is not refused")
    bench.world.upstreams.plain()
    given_back = wait_until(lambda: seen.now() - seen.before <= 16 * MIB, 5)
    bench.check(given_back, f"{(seen.now() - seen.before) / MIB:.1f} MiB are kept after the close")


def _bomb() -> bytes:
    packed = zlib.compressobj(9, wbits=-15)
    return b"".join(packed.compress(bytes(MIB)) for _ in range(256)) + packed.flush(zlib.Z_SYNC_FLUSH)


@procedure("TUN-10", fresh=True)
def websocket_floods(bench: Bench) -> None:
    """Bombs both ways (permessage-deflate is never agreed to), pings, empty fragments, frames that claim 2^62 bytes."""
    bench.world.upstreams.script = Swallower()
    with open_websocket(bench) as sock:
        sock.sendall(frame(1, b"hello"))
    bomb = frame(2, _bomb(), rsv=4)
    floods: dict[str, list[bytes]] = {
        "bomb": [bomb],
        "length of 2^62": [frame(2, b"a" * 1000, claim=1 << 62), *[b"a" * 60_000] * 100],
    }
    for name, frames in floods.items():
        with (
            unhurt(bench, name, 16 * MIB),
            open_websocket(bench, b"Sec-WebSocket-Extensions: permessage-deflate\r\n") as sock,
        ):
            passed = _pour(sock, iter(frames))
            bench.check(not passed or wait_until(lambda: ended(sock), 5), f"{name}: the connection stays")
    for name, one in {"pings": frame(9, b"p" * 125), "empty fragments": frame(0, b"", fin=False)}.items():
        with unhurt(bench, name, 16 * MIB), open_websocket(bench) as sock:
            _pour(sock, iter([frame(1, b"a", fin=False), *[one * 500] * 200]))
    bench.world.upstreams.script = Swallower(frame(2, _bomb(), rsv=4, masked=False))
    with unhurt(bench, "bomb from upstream", 16 * MIB), open_websocket(bench) as sock:
        bench.check(wait_until(lambda: ended(sock), 5), "bomb from upstream: the connection stays")
    bench.world.upstreams.plain()
