"""The Anthropic look-alike: messages, plain and streamed."""

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from proxy.demo import echo
from proxy.demo.http1 import Answer

_numbers = itertools.count(1)


def error(message: str, status: int) -> Answer:
    """Anthropic's error envelope."""
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    return Answer(json.dumps(body).encode(), status=status)


def messages(fields: Mapping[str, Any]) -> Answer:
    """`POST /v1/messages`: echoes the last user message, as a tool use when `tool_choice` asks for one."""
    model, text = echo.model_of(fields), echo.reply(fields)
    cap = fields.get("max_tokens")
    if not isinstance(cap, int):
        raise echo.Refused("max_tokens: Field required")
    tool = _tool(fields)
    parts, cut = echo.capped(text, cap)
    if tool is not None:
        parts, cut = echo.pieces(json.dumps({"text": text})), False
    stop = "tool_use" if tool else "max_tokens" if cut else "end_turn"
    usage = {
        "input_tokens": echo.prompt_tokens(fields),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": len(parts),
    }
    message: dict[str, Any] = {
        "id": f"msg_demo{next(_numbers)}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    if fields.get("stream"):
        return Answer(media_type="text/event-stream; charset=utf-8", parts=_events(message, parts, tool, stop))
    whole = "".join(parts)
    content = {"type": "text", "text": whole} if tool is None else _tool_use(tool, json.loads(whole))
    body = {**message, "content": [content], "stop_reason": stop}
    return Answer(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))


def _tool(fields: Mapping[str, Any]) -> str | None:
    choice, tools = fields.get("tool_choice"), fields.get("tools")
    if not tools or not isinstance(choice, dict) or choice.get("type") not in {"any", "tool"}:
        return None
    name = tools[0].get("name")
    return name if isinstance(name, str) else None


def _tool_use(tool: str, given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "toolu_demo", "name": tool, "input": given}


def _events(message: Mapping[str, Any], parts: list[str], tool: str | None, stop: str) -> Iterator[bytes]:
    usage = message["usage"]
    yield _event({"type": "message_start", "message": {**message, "usage": {**usage, "output_tokens": 1}}})
    block = {"type": "text", "text": ""} if tool is None else _tool_use(tool, {})
    yield _event({"type": "content_block_start", "index": 0, "content_block": block})
    yield _event({"type": "ping"})
    for part in parts:
        text = {"type": "text_delta", "text": part}
        delta = text if tool is None else {"type": "input_json_delta", "partial_json": part}
        yield _event({"type": "content_block_delta", "index": 0, "delta": delta})
    yield _event({"type": "content_block_stop", "index": 0})
    end = {"stop_reason": stop, "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": end, "usage": {"output_tokens": usage["output_tokens"]}})
    yield _event({"type": "message_stop"})


def _event(event: Mapping[str, Any]) -> bytes:
    data = json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data)
