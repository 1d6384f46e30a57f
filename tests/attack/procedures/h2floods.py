"""Floods and slowness on HTTP/2 connections."""

import contextlib
import select
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hpack import Encoder

from tests.attack.h2peer import frame_bytes
from tests.attack.measures import heart, memory, tunnel, unhurt
from tests.attack.procedures import Bench, procedure
from tests.attack.world import wait_until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
CALM = 11
MOST_BEGUN = 250
_PLAIN_SETTINGS = frame_bytes(SETTINGS, 0, 0, b"")


def head(path: str = "/flood", method: str = "GET") -> bytes:
    """A request's fields, compressed without the table, so that it may come any number of times."""
    fields = [(":method", method), (":scheme", "https"), (":authority", "allowed.test"), (":path", path)]
    return bytes(Encoder().encode([(name, value, True) for name, value in fields], huffman=False))


def streams(flags: int, *then: tuple[int, bytes]) -> Iterator[bytes]:
    """HEADERS on one stream after the other, each followed by frames of the same stream."""
    block = head(method="POST")
    for stream in range(1, 10_001, 2):
        yield frame_bytes(HEADERS, flags, stream, block)
        for kind, payload in then:
            yield frame_bytes(kind, 0, stream, payload)


def _more_fields(count: int) -> bytes:
    return frame_bytes(CONTINUATION, 0, 1, b"\0\1a\1b" * count)


@dataclass(frozen=True)
class Flood:
    """`frames`: what is sent after the preface. `records`: terminal records with this code, exactly one."""

    frames: Callable[[], Iterator[bytes]]
    code: str = "rate_limited"


_REQUEST = END_STREAM | END_HEADERS
FLOODS = {
    "rapid reset": Flood(lambda: streams(_REQUEST, (RST_STREAM, b"\0\0\0\x08"))),
    # CVE-2025-8671: an error of the stream, so that the proxy resets it.
    "provoked reset": Flood(lambda: streams(END_HEADERS, (WINDOW_UPDATE, b"\x7f\xff\xff\xff"))),
    "continuation": Flood(
        lambda: iter(
            [frame_bytes(HEADERS, 1, 1, head()), *[frame_bytes(CONTINUATION, 0, 1, b"\0\1a\1b" * 200)] * 4000]
        ),
        "header_too_large",
    ),
    "trailers": Flood(
        lambda: iter(
            [
                frame_bytes(HEADERS, END_HEADERS, 1, head(method="POST")),
                frame_bytes(HEADERS, END_STREAM, 1, b""),
                *[_more_fields(3000)] * 4000,
            ]
        ),
        "header_too_large",
    ),
    "ping": Flood(lambda: iter([frame_bytes(PING, 0, 0, b"12345678")] * 50_000)),
    "settings": Flood(lambda: iter([frame_bytes(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff")] * 50_000)),
    "settings acknowledged": Flood(lambda: iter([frame_bytes(SETTINGS, 1, 0, b"")] * 50_000)),
    "priority": Flood(lambda: iter([frame_bytes(PRIORITY, 0, 1, b"\0\0\0\x03\x10")] * 50_000)),
    "window of a connection": Flood(lambda: iter([frame_bytes(WINDOW_UPDATE, 0, 0, b"\0\0\0\1")] * 50_000)),
    "unknown": Flood(lambda: iter([frame_bytes(0xF0, 0, 0, b"")] * 50_000)),
    "empty data": Flood(
        lambda: iter(
            [frame_bytes(HEADERS, END_HEADERS, 1, head(method="POST")), *[frame_bytes(DATA, 0, 1, b"")] * 50_000]
        )
    ),
    "padding alone": Flood(
        lambda: iter(
            [frame_bytes(HEADERS, END_HEADERS, 1, head(method="POST"))]
            + [frame_bytes(DATA, 8, 1, b"\xff" + bytes(255))] * 5000
        )
    ),
}


def flood(bench: Bench, frames: Iterator[bytes]) -> str:
    """Sends as fast as the proxy takes it and reads meanwhile: `goaway 11`, `close`, or `open` (still there then)."""
    with tunnel(bench, "allowed.test", alpn=("h2",)) as tls:
        bench.check(tls.selected_alpn_protocol() == "h2", "no h2")
        received = bytearray()
        ended = False
        with contextlib.suppress(OSError):
            pending = bytearray(PREFACE + _PLAIN_SETTINGS)
            for one in frames:
                pending += one
                if len(pending) > 16384:
                    tls.settimeout(5)
                    tls.sendall(pending)
                    pending.clear()
                    ended = ended or _take(tls, received, 0)
            tls.sendall(pending)
        with contextlib.suppress(OSError):
            ended = _take(tls, received, 5)
        code = goaway(received)
        return f"goaway {code}" if code is not None else "close" if ended else "open"


def _take(tls: ssl.SSLSocket, received: bytearray, wait_s: float) -> bool:
    """Reads what there is within `wait_s`; True at the end of the connection."""
    until_s = time.monotonic() + wait_s
    while tls.pending() or select.select([tls], [], [], max(until_s - time.monotonic(), 0))[0]:
        tls.settimeout(1)
        data = tls.recv(1 << 16)
        if not data:
            return True
        received += data
    return False


def goaway(data: bytearray) -> int | None:
    """The error code of the first GOAWAY in the frames of `data`."""
    at = 0
    while at + 9 <= len(data):
        size = int.from_bytes(data[at : at + 3])
        if data[at + 3] == GOAWAY:
            return int.from_bytes(data[at + 13 : at + 17])
        at += 9 + size
    return None


def _records(bench: Bench, code: str = "") -> list[dict[str, Any]]:
    """Terminal records of the flood since the last call; with `code`, once one of them has it."""
    trail = bench.world.trail
    found: list[dict[str, Any]] = []

    def look() -> bool:
        new = [record for record, _ in trail.more()] if trail else []
        found.extend(one for one in new if one["kind"] == "terminal" and one.get("path") != "/legal")
        return not code or any(one.get("code") == code for one in found)

    wait_until(look, 5)
    return found


@procedure("RES-07", fresh=True)
def h2_floods(bench: Bench) -> None:
    """Frames that cost nothing to send end in GOAWAY and one record; memory, others and the loop do not notice."""
    flood(bench, iter([]))  # What a first HTTP/2 connection loads is no part of the flood.
    for name, one in FLOODS.items():
        _records(bench)
        how = ""
        with unhurt(bench, name):
            how = flood(bench, one.frames())
        bench.check(how == f"goaway {CALM}", f"{name}: the connection is {how}")
        records = _records(bench, one.code)
        said = sum(record.get("code") == one.code for record in records)
        bench.check(said == 1, f"{name}: {said} records of {one.code}")
        bench.check(len(records) <= MOST_BEGUN, f"{name}: {len(records)} exchanges were begun")


@procedure("RES-07", fresh=True)
def h2_too_many_streams(bench: Bench) -> None:
    """Streams past the announced number end the connection; no more than that number became exchanges."""
    flood(bench, iter([]))
    _records(bench)
    how = ""
    with unhurt(bench, "streams without end"):
        how = flood(bench, streams(END_HEADERS))
    bench.check(how.startswith("goaway"), f"streams without end: the connection is {how}")
    begun = len(_records(bench))
    bench.check(begun <= MOST_BEGUN, f"streams without end: {begun} exchanges were begun")


@procedure("RES-07", fresh=True)
def h2_unread_answers(bench: Bench) -> None:
    """A window of nothing, or one opened octet by octet, holds answers back at the upstream, not here."""
    bench.world.upstreams.h2_body = b"A" * 65000
    flood(bench, iter([]))
    with unhurt(bench, "zero window"), tunnel(bench, "allowed.test", alpn=("h2",)) as tls:
        tls.sendall(PREFACE + frame_bytes(SETTINGS, 0, 0, b"\0\4\0\0\0\0"))
        for stream in range(1, 181, 2):
            tls.sendall(frame_bytes(HEADERS, _REQUEST, stream, head("/big")))
        time.sleep(2)
    begin = frame_bytes(SETTINGS, 0, 0, b"\0\4\0\0\0\0") + frame_bytes(HEADERS, _REQUEST, 1, head("/big"))
    with unhurt(bench, "window by octets"):
        how = flood(bench, iter([begin, *[frame_bytes(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")] * 60_000]))
    bench.check(how == f"goaway {CALM}", f"window by octets: the connection is {how}")
    bench.world.upstreams.plain()


@procedure("RES-07", fresh=True)
def h2_tiny_frames(bench: Bench) -> None:
    """A body in single octets is served or refused, and its frames take turns with others'."""
    flood(bench, iter([]))
    with unhurt(bench, "tiny frames"), tunnel(bench, "allowed.test", alpn=("h2",)) as tls:
        tls.settimeout(30)
        tls.sendall(PREFACE + _PLAIN_SETTINGS + frame_bytes(HEADERS, END_HEADERS, 1, head("/x", "POST")))
        tls.sendall(frame_bytes(DATA, 0, 1, b"a") * 60_000)
        tls.sendall(frame_bytes(DATA, END_STREAM, 1, b"a"))
        received = bytearray()
        while b"ok" not in received and goaway(received) is None:
            received += tls.recv(1 << 16)
    bench.check(goaway(received) is None, "tiny frames: the connection was ended")


@procedure("RES-03", fresh=True)
def h2_dribble(bench: Bench) -> None:
    """100 connections that begin a frame, a head or nothing at all after their preface: none outlives its deadline."""
    flood(bench, iter([]))
    begun = {
        "frame": frame_bytes(HEADERS, _REQUEST, 1, head())[:12],
        "head": frame_bytes(HEADERS, END_STREAM, 1, head()),
    }
    with memory(bench, "dribble"), heart(bench, "dribble"), contextlib.ExitStack() as stack:
        alive: list[tuple[str, ssl.SSLSocket]] = []
        for at in range(100):
            name = "frame" if at % 2 else "head"
            tls = stack.enter_context(tunnel(bench, "allowed.test", alpn=("h2",)))
            tls.sendall(PREFACE + _PLAIN_SETTINGS + begun[name])
            alive.append((name, tls))
        started_s = time.monotonic()
        while alive and time.monotonic() - started_s < 30:
            for name, tls in list(alive):
                if not _dribble(tls, name):
                    alive.remove((name, tls))
            time.sleep(1)
    bench.check(not alive, f"{len(alive)} of 100 are open after {time.monotonic() - started_s:.0f} s")


def _dribble(tls: ssl.SSLSocket, name: str) -> bool:
    """A little more of what was begun; False once the proxy has ended it."""
    more = b"\0" if name == "frame" else frame_bytes(CONTINUATION, 0, 1, b"\0\1a\1b")
    try:
        tls.sendall(more)
        return not _take(tls, bytearray(), 0)
    except OSError:
        return False
