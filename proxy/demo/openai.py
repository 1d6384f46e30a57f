"""The OpenAI look-alike: chat completions (plain and streamed), embeddings, the list of models."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.demo import echo
from proxy.demo.http1 import Answer

MODELS = ("gpt-4o-mini", "gpt-4o", "text-embedding-3-small")
_DIMENSIONS = 8
_numbers = itertools.count(1)


def error(message: str, status: int) -> Answer:
    """OpenAI's error envelope."""
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    return Answer(json.dumps(body).encode(), status=status)


def models() -> Answer:
    """`GET /v1/models`."""
    data = [{"id": name, "object": "model", "created": 1, "owned_by": "demo"} for name in MODELS]
    return Answer(json.dumps({"object": "list", "data": data}).encode())


def embeddings(fields: Mapping[str, Any]) -> Answer:
    """`POST /v1/embeddings`: vectors that depend on the text alone."""
    model, given = echo.model_of(fields), fields.get("input")
    listed = given if isinstance(given, list) else [given]
    texts = [text for text in listed if isinstance(text, str)]
    if not texts or len(texts) < len(listed):
        raise echo.Refused("`input` must be a string or a list of strings")
    data = [{"object": "embedding", "index": index, "embedding": _vector(text)} for index, text in enumerate(texts)]
    tokens = sum(len(echo.pieces(text)) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Answer(json.dumps({"object": "list", "data": data, "model": model, "usage": usage}).encode())


def _vector(text: str) -> list[float]:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return [round(byte / 127.5 - 1, 6) for byte in digest[:_DIMENSIONS]]


def chat(fields: Mapping[str, Any]) -> Answer:
    """`POST /v1/chat/completions`: echoes the last user message, as a tool call when `tool_choice` asks for one."""
    model, text = echo.model_of(fields), echo.reply(fields)
    cap = fields.get("max_completion_tokens") or fields.get("max_tokens")
    parts, cut = echo.capped(text, cap)
    tool = _tool(fields)
    if tool is not None:
        parts, cut = echo.pieces(json.dumps({"text": text})), False
    finish = "tool_calls" if tool else "length" if cut else "stop"
    choices = fields.get("n") or 1
    given = echo.prompt_tokens(fields)
    taken = len(parts) * choices
    usage = {
        "prompt_tokens": given,
        "completion_tokens": taken,
        "total_tokens": given + taken,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    base = {"id": f"chatcmpl-demo{next(_numbers)}", "created": 1, "model": model}
    if fields.get("stream"):
        options = fields.get("stream_options")
        wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        events = _events(base, parts, choices, tool, finish, usage if wants_usage else None)
        return Answer(media_type="text/event-stream; charset=utf-8", parts=events)
    message = _message("".join(parts), tool)
    answers = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": finish} for index in range(choices)
    ]
    body = {**base, "object": "chat.completion", "choices": answers, "usage": usage}
    return Answer(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))


def _tool(fields: Mapping[str, Any]) -> str | None:
    """The name of the tool to call, when the request insists on one."""
    tools = fields.get("tools")
    if not tools or fields.get("tool_choice") in (None, "auto", "none"):
        return None
    name = tools[0].get("function", {}).get("name")
    return name if isinstance(name, str) else None


def _message(text: str, tool: str | None) -> dict[str, Any]:
    if tool is None:
        return {"role": "assistant", "content": text, "refusal": None}
    function = {"name": tool, "arguments": text}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_demo", "type": "function", "function": function}],
    }


def _events(
    base: Mapping[str, Any], parts: list[str], choices: int, tool: str | None, finish: str, usage: Any
) -> Iterator[bytes]:
    for index in range(choices):
        yield _chunk(base, index, _opening(tool), None, usage)
        for part in parts:
            delta = {"content": part} if tool is None else _arguments(part)
            yield _chunk(base, index, delta, None, usage)
        yield _chunk(base, index, {}, finish, usage)
    if usage is not None:
        yield _event({**base, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _opening(tool: str | None) -> dict[str, Any]:
    if tool is None:
        return {"role": "assistant", "content": "", "refusal": None}
    call = {"index": 0, "id": "call_demo", "type": "function", "function": {"name": tool, "arguments": ""}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _arguments(part: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}


def _chunk(base: Mapping[str, Any], index: int, delta: Any, finish: str | None, usage: Any) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    event = {**base, "object": "chat.completion.chunk", "choices": [choice]}
    return _event({**event, "usage": None} if usage is not None else event)


def _event(event: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"
