"""Anthropic messages. Cached tokens stand beside `input_tokens`; a stream's usage is cumulative: the last counts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, override

import orjson

from proxy.model import RequestHead
from proxy.providers._base import Provider
from proxy.providers._call import Call, CallFacts, Delta, Reading, Tally, count, items, member, read_cap, word

# Delta type -> the member that carries its text. Thinking is signed, so it is never changed.
_TEXTS = {"text_delta": "text", "input_json_delta": "partial_json"}
_TOOLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


@dataclass(frozen=True)
class AnthropicMessages(Provider):
    """`POST /v1/messages`, also below a prefix (Azure's `/anthropic/v1/messages`). Counting tokens is free."""

    dialect = "anthropic_messages"
    compatible = "anthropic_compatible"
    paths = re.compile(r"/(?:[^/]+/)*v1/messages")
    hosts = {  # noqa: RUF012 - a ClassVar of the base, which the rule does not see
        "api.anthropic.com": "anthropic",
        "anthropic.demo.test": "anthropic",
        "*.services.ai.azure.com": "azure.ai.openai",
    }
    credential_headers = frozenset({"x-api-key", "authorization"})
    deciding = frozenset({"model", "stream", "max_tokens"})
    opaque_keys = frozenset({"thinking", "signature"})
    # At most 2576 pixels on the long edge at 750 pixels per token.
    image_tokens = 4784
    natural_ends = frozenset({"end_turn", "stop_sequence"})

    @override
    def is_stateful(self, fields: Mapping[str, Any]) -> bool:
        return bool(fields.get("container"))

    @override
    def call_facts(self, head: RequestHead, fields: Mapping[str, Any]) -> CallFacts:
        output_format = fields.get("output_format") or member(fields, "output_config").get("format")
        return CallFacts(
            output_cap=read_cap(fields, "max_tokens"),
            structured=isinstance(output_format, dict) and output_format.get("type") == "json_schema",
            wants_usage=True,
            cap_field="max_tokens",
        )

    @override
    def error_body(self, problem: Mapping[str, Any]) -> bytes:
        """`type` is the envelope's; the problem's own stands as `problem_type`."""
        status = problem.get("status")
        message = problem.get("message") or problem.get("detail") or problem.get("title")
        kind = _ERROR_TYPES.get(status if isinstance(status, int) else 0, "api_error")
        rest = {name: value for name, value in problem.items() if name != "type"}
        error = {"type": kind, "message": message}
        return orjson.dumps({"type": "error", "error": error, "problem_type": problem.get("type"), **rest})

    @override
    def nested_keys(self, call: Call) -> frozenset[str]:
        return frozenset({"partial_json", "text"} if call.structured else {"partial_json"})

    @override
    def read_usage(self, usage: Mapping[str, Any], tally: Tally) -> None:
        for name in _COUNTS:
            value = count(usage.get(name))
            if value is not None:
                tally.raw[name] = value
        raw = tally.raw
        tally.cache_read_input_tokens = raw.get("cache_read_input_tokens", 0)
        tally.cache_creation_input_tokens = raw.get("cache_creation_input_tokens", 0)
        if "input_tokens" in raw:
            cached = tally.cache_read_input_tokens + tally.cache_creation_input_tokens
            tally.input_tokens = raw["input_tokens"] + cached
        tally.output_tokens = raw.get("output_tokens")
        thinking = count(member(usage, "output_tokens_details").get("thinking_tokens"))
        tally.reasoning_tokens = tally.reasoning_tokens if thinking is None else thinking

    @override
    def read_answer(self, answer: Mapping[str, Any], call: Call, tally: Tally) -> None:
        self._start(answer, tally)
        for block in items(answer, "content"):
            self._block(block, tally)
        _stop(answer, tally)
        tally.failed = answer.get("type") == "error"
        tally.ended = True

    @override
    def read_event(self, event: Mapping[str, Any], call: Call, tally: Tally) -> Reading:
        kind = word(event, "type")
        if kind == "content_block_delta":
            return _delta(event, call, tally)
        if kind == "content_block_start":
            self._block(event.get("content_block"), tally)
        elif kind == "content_block_stop":
            return Reading(closes=((_index(event),),))
        elif kind == "message_start":
            self._start(member(event, "message"), tally)
        elif kind == "message_delta":
            self.read_usage(member(event, "usage"), tally)
            _stop(member(event, "delta"), tally)
            return Reading(closes_all=True)
        elif kind in {"message_stop", "error"}:
            tally.ended |= kind == "message_stop"
            tally.failed |= kind == "error"
            return Reading(closes_all=True)
        return Reading()

    @override
    def delta_event(self, event: Mapping[str, Any], delta: Delta, text: str) -> dict[str, Any]:
        kind = next(kind for kind, name in _TEXTS.items() if name == delta.name)
        return {
            "type": "content_block_delta",
            "index": delta.group[0],
            "delta": {"type": kind, delta.name: text},
        }

    def _start(self, message: Mapping[str, Any], tally: Tally) -> None:
        tally.model = word(message, "model") or tally.model
        self.read_usage(member(message, "usage"), tally)

    def _block(self, block: Any, tally: Tally) -> None:
        if word(block, "type") in _TOOLS:
            tally.tool_calls = True
            tally.text_bytes += len(orjson.dumps(block.get("input")))
        for name in ("text", "thinking"):
            text = block.get(name) if isinstance(block, dict) else None
            if isinstance(text, str):
                tally.text_bytes += len(text.encode("utf-8", "surrogatepass"))


def _index(event: Mapping[str, Any]) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else 0


def _delta(event: Mapping[str, Any], call: Call, tally: Tally) -> Reading:
    delta = member(event, "delta")
    name = _TEXTS.get(word(delta, "type"))
    text = delta.get(name or "thinking")
    if not isinstance(text, str):
        return Reading()
    tally.text_bytes += len(text.encode("utf-8", "surrogatepass"))
    if name is None:
        return Reading()
    nested = name == "partial_json" or call.structured
    return Reading((Delta(("delta", name), (_index(event),), name, text, nested),))


def _stop(message: Mapping[str, Any], tally: Tally) -> None:
    reason = message.get("stop_reason")
    if isinstance(reason, str):
        tally.finishes[0] = reason


PROVIDER = AnthropicMessages()
