"""A provider that streams: `python -m loadtests.dataplane.streams LEAF.pem PACED_PORT BURST_PORT`.

Paced: EVENTS chat chunks, one every PAUSE_S, as a model writes. Burst: BURST of them at once, as fast as they are read.
"""

import asyncio
import json
import ssl
import sys
from typing import Final

EVENTS: Final = 50
PAUSE_S: Final = 0.02
BURST: Final = 2000
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def _event(value: object) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def _chunk(**more: object) -> bytes:
    return _event(
        {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1790000000, "model": "gpt-4o-mini"}
        | more
    )


_WORD: Final = _chunk(choices=[{"index": 0, "delta": {"content": "receipt "}, "finish_reason": None}])
_LAST: Final = (
    _chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + _chunk(choices=[], usage={"prompt_tokens": 180, "completion_tokens": EVENTS, "total_tokens": 180 + EVENTS})
    + _event("[DONE]")
    + b"0\r\n\r\n"
)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, paced: bool) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"), 0
            )
            await reader.readexactly(length)
            writer.write(_HEAD)
            for _ in range(EVENTS if paced else BURST):
                writer.write(_WORD)
                await (asyncio.sleep(PAUSE_S) if paced else writer.drain())
            writer.write(_LAST)
            await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        pass
    finally:
        writer.close()


async def _main(leaf: str, paced_port: int, burst_port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf)
    context.set_alpn_protocols(["http/1.1"])
    for port, paced in ((paced_port, True), (burst_port, False)):
        await asyncio.start_server(
            lambda reader, writer, paced=paced: _serve(reader, writer, paced=paced),  # type: ignore[misc]
            "127.0.0.1", port, ssl=context, backlog=4096,
        )  # fmt: skip
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
