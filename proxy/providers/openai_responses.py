"""OpenAI Responses. Its `.done` events and `response.completed` repeat the whole text, so both are restored."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, override

from proxy.model import RequestHead
from proxy.providers import _openai
from proxy.providers._base import Provider
from proxy.providers._call import Call, CallFacts, Delta, Group, Reading, Tally, items, member, read_cap, word

_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
# Members that tell one channel of a stream from another.
_PLACES = ("output_index", "content_index", "summary_index")
_TEXT_ITEMS = frozenset({"message", "reasoning"})


@dataclass(frozen=True)
class OpenAIResponses(Provider):
    """`POST …/responses` below `/v1`, `/openai` or `/openai/v1`."""

    dialect = "openai_responses"
    compatible = _openai.COMPATIBLE
    paths = re.compile(r"/(?:[^/]+/)*(?:v\d[^/]*|openai)/responses")
    hosts = _openai.HOSTS
    credential_headers = _openai.CREDENTIALS
    image_tokens = _openai.IMAGE_TOKENS
    deciding = frozenset({"model", "stream", "max_output_tokens", "previous_response_id", "conversation", "background"})
    opaque_keys = frozenset({"encrypted_content"})
    natural_ends = frozenset({"completed"})

    @override
    def is_stateful(self, fields: Mapping[str, Any]) -> bool:
        return any(fields.get(name) for name in ("previous_response_id", "conversation", "background", "prompt"))

    @override
    def call_facts(self, head: RequestHead, fields: Mapping[str, Any]) -> CallFacts:
        text_format = word(member(member(fields, "text"), "format"), "type")
        return CallFacts(
            output_cap=read_cap(fields, "max_output_tokens"),
            structured=text_format in {"json_object", "json_schema"},
            wants_usage=True,
            cap_field="max_output_tokens",
        )

    @override
    def error_body(self, problem: Mapping[str, Any]) -> bytes:
        return _openai.error_body(problem)

    @override
    def nested_keys(self, call: Call) -> frozenset[str]:
        return frozenset({"arguments", "text"} if call.structured else {"arguments"})

    @override
    def read_usage(self, usage: Mapping[str, Any], tally: Tally) -> None:
        _openai.read_usage(usage, tally)

    @override
    def read_answer(self, answer: Mapping[str, Any], call: Call, tally: Tally) -> None:
        status = word(answer, "status")
        tally.model = word(answer, "model") or tally.model
        self.read_usage(member(answer, "usage"), tally)
        seen = 0
        for item in items(answer, "output"):
            seen += _text_bytes(item)
            tally.tool_calls |= _is_tool(item)
        tally.text_bytes = max(tally.text_bytes, seen)
        if status:
            tally.finishes[0] = status
        tally.failed |= answer.get("error") is not None or status == "failed"
        tally.ended = True

    @override
    def read_event(self, event: Mapping[str, Any], call: Call, tally: Tally) -> Reading:
        kind = word(event, "type")
        if kind.endswith(".delta"):
            return _delta(event, kind, call, tally)
        if kind in _ENDS:
            self.read_answer(member(event, "response"), call, tally)
            return Reading(closes_all=True)
        if kind == "error":
            tally.failed = True
            return Reading(closes_all=True)
        if kind == "response.output_item.added":
            tally.tool_calls |= _is_tool(member(event, "item"))
        tally.model = word(member(event, "response"), "model") or tally.model
        return Reading(closes=(_group(event, kind),)) if kind.endswith(".done") else Reading()

    @override
    def delta_event(self, event: Mapping[str, Any], delta: Delta, text: str) -> dict[str, Any]:
        return {**{name: value for name, value in event.items() if name != "obfuscation"}, "delta": text}


def _delta(event: Mapping[str, Any], kind: str, call: Call, tally: Tally) -> Reading:
    text = event.get("delta")
    if not isinstance(text, str) or ".audio." in kind:
        return Reading()
    tally.text_bytes += len(text.encode("utf-8", "surrogatepass"))
    nested = "arguments" in kind or (call.structured and kind == "response.output_text.delta")
    return Reading((Delta(("delta",), _group(event, kind), "delta", text, nested),))


def _group(event: Mapping[str, Any], kind: str) -> Group:
    places = (event.get(name) for name in _PLACES)
    return (kind.rpartition(".")[0], *(place if isinstance(place, int) else -1 for place in places))


def _is_tool(item: Any) -> bool:
    return word(item, "type") not in {*_TEXT_ITEMS, ""}


def _text_bytes(item: Any) -> int:
    texts = [part.get("text") for part in items(item, "content") if isinstance(part, dict)]
    if isinstance(item, dict):
        texts.append(item.get("arguments"))
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts if isinstance(text, str))


PROVIDER = OpenAIResponses()
