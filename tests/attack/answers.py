"""Calls that stay in a procedure's hands, and what a scripted upstream answers them, in the form of the chat API."""

import json
import socket

from tests.attack.llm import CALLER
from tests.attack.net import GW_EXPLICIT
from tests.attack.procedures import Bench
from tests.attack.upstreams import Script
from tests.attack.world import EXPLICIT

JSON = b"Content-Type: application/json\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
WAIT_S = 10.0
# gpt-4o-mini, as the policy of the laboratory has it.
IN_NANOS, OUT_NANOS = 150, 600


def open_call(bench: Bench, text: str) -> socket.socket:
    """A call that was sent, and whose answer nobody reads yet."""
    sock = bench.world.dial((GW_EXPLICIT, EXPLICIT), CALLER)
    sock.settimeout(WAIT_S)
    sock.sendall(text.encode())
    return sock


def event(content: str) -> bytes:
    """One chunk of a stream with these words."""
    delta = {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini", **delta}
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def usage_chunk(tokens_in: int, tokens_out: int) -> bytes:
    """One chunk of a stream that tells what was used."""
    chunk = {"id": "c1", "model": "gpt-4o-mini", "choices": [], "usage": counted(tokens_in, tokens_out)}
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def answer_body(usage: dict[str, object] | None, model: str = "gpt-4o-mini", text: str = "fine") -> bytes:
    """A whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body: dict[str, object] = {"id": "c1", "object": "chat.completion", "created": 1, "model": model}
    return json.dumps({**body, "choices": [choice], **({"usage": usage} if usage else {})}).encode()


def counted(tokens_in: int, tokens_out: int) -> dict[str, object]:
    """The usage member of an answer."""
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}


def sends(whole: bytes) -> Script:
    """A script that answers every call with these bytes."""
    return lambda _, __, stream: stream.sendall(whole)
