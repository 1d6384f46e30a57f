"""OpenAI chat completions, and the many servers that speak them: Azure OpenAI, Mistral, Ollama `/v1`, vLLM, Groq …"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, override

from proxy.model import RequestHead
from proxy.providers import _openai
from proxy.providers._base import Provider
from proxy.providers._call import Call, CallFacts, Delta, Reading, Tally, items, member, read_cap, read_choices, word

# `max_tokens` is deprecated at OpenAI and refused by its reasoning models (also on Azure), which all take
# `max_completion_tokens`. Elsewhere it is the other way round: Mistral refuses the new member (422 "Extra inputs are
# not permitted"), Ollama ignores it (ollama/ollama#7125), vLLM and llama.cpp take both.
_NEW_CAP = frozenset({"openai", "azure.ai.openai", "groq", "x_ai"})
# These tell usage unasked on the last chunk, and refuse or ignore `stream_options`.
_USAGE_UNASKED = frozenset({"mistral_ai", "perplexity"})
# Kind of tool call -> the member that carries its text: JSON for functions, free text for custom tools.
_TOOL_TEXTS = {"function": "arguments", "custom": "input"}
_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")


@dataclass(frozen=True)
class OpenAIChat(Provider):
    """`POST …/chat/completions`."""

    dialect = "openai_chat"
    compatible = _openai.COMPATIBLE
    paths = re.compile(r"/(?:[^/]+/)*chat/completions")
    hosts = _openai.HOSTS
    credential_headers = _openai.CREDENTIALS
    image_tokens = _openai.IMAGE_TOKENS
    deciding = frozenset({"model", "stream", "max_tokens", "max_completion_tokens", "n", "stream_options"})

    @override
    def model_of(self, head: RequestHead, fields: Mapping[str, Any]) -> str:
        return _openai.deployment(head.path) or super().model_of(head, fields)

    @override
    def call_facts(self, head: RequestHead, fields: Mapping[str, Any]) -> CallFacts:
        old = _openai.is_old_azure(head)
        return CallFacts(
            output_cap=read_cap(fields, "max_tokens", "max_completion_tokens"),
            choices=read_choices(fields),
            structured=word(member(fields, "response_format"), "type") in {"json_object", "json_schema"},
            wants_usage=member(fields, "stream_options").get("include_usage") is True,
            cap_field="max_completion_tokens" if self.name in _NEW_CAP and not old else "max_tokens",
            can_ask_usage=self.name not in _USAGE_UNASKED and not old,
        )

    @override
    def ask_usage(self, body: bytes, fields: Mapping[str, Any]) -> bytes:
        return _openai.ask_usage(body, fields)

    @override
    def error_body(self, problem: Mapping[str, Any]) -> bytes:
        return _openai.error_body(problem)

    @override
    def nested_keys(self, call: Call) -> frozenset[str]:
        return frozenset({"arguments", "content"} if call.structured else {"arguments"})

    @override
    def read_usage(self, usage: Mapping[str, Any], tally: Tally) -> None:
        _openai.read_usage(usage, tally)

    @override
    def read_answer(self, answer: Mapping[str, Any], call: Call, tally: Tally) -> None:
        self._read_common(answer, tally)
        for position, choice in enumerate(items(answer, "choices")):
            message = member(choice, "message")
            # Where usage is told, nobody asks how long the texts are.
            _saw(message, [] if tally.output_tokens else _message_deltas(message, position, "message", call), tally)
            _finish(choice, position, tally)
        tally.ended = True

    @override
    def read_event(self, event: Mapping[str, Any], call: Call, tally: Tally) -> Reading:
        self._read_common(event, tally)
        deltas: list[Delta] = []
        closes = []
        for position, choice in enumerate(items(event, "choices")):
            message = member(choice, "delta")
            found = _message_deltas(message, position, "delta", call, _index(choice, position))
            _saw(message, found, tally)
            deltas += found
            if _finish(choice, position, tally):
                closes.append((_index(choice, position),))
        return Reading(tuple(deltas), tuple(closes))

    @override
    def is_usage_only(self, event: Mapping[str, Any]) -> bool:
        """The extra chunk: no choices, but usage (Azure's first chunk has no choices and no usage)."""
        return event.get("choices") == [] and isinstance(event.get("usage"), dict)

    @override
    def delta_event(self, event: Mapping[str, Any], delta: Delta, text: str) -> dict[str, Any]:
        kept = {name: event[name] for name in ("id", "object", "created", "model") if name in event}
        content: dict[str, Any] = {delta.name: text}
        kind, _, slot = delta.name.partition(":")
        if slot:
            content = {"tool_calls": [{"index": int(slot), kind: {_TOOL_TEXTS[kind]: text}}]}
        elif delta.name == "function_call":
            content = {"function_call": {"arguments": text}}
        return {**kept, "choices": [{"index": delta.group[0], "delta": content, "finish_reason": None}]}

    def _read_common(self, message: Mapping[str, Any], tally: Tally) -> None:
        tally.model = word(message, "model") or tally.model
        usage = message.get("usage")
        if isinstance(usage, dict):
            self.read_usage(usage, tally)
        if message.get("error") is not None:
            tally.failed = True


def _index(choice: Any, position: int) -> int:
    index = choice.get("index") if isinstance(choice, dict) else None
    return index if isinstance(index, int) else position


def _finish(choice: Any, position: int, tally: Tally) -> bool:
    reason = choice.get("finish_reason") if isinstance(choice, dict) else None
    if not isinstance(reason, str):
        return False
    tally.finishes[_index(choice, position)] = reason
    return True


def _saw(message: Mapping[str, Any], deltas: list[Delta], tally: Tally) -> None:
    tally.text_bytes += sum(len(delta.text.encode("utf-8", "surrogatepass")) for delta in deltas)
    tally.tool_calls |= bool(message.get("tool_calls") or message.get("function_call"))


def _message_deltas(
    message: Mapping[str, Any], position: int, key: str, call: Call, index: int | None = None
) -> list[Delta]:
    """The texts of a message or delta, with their place in the event."""
    if not message:
        return []
    group = (position if index is None else index,)
    base = ("choices", position, key)
    found = []
    for name in _TEXTS:
        text = message.get(name)
        if isinstance(text, str) and text:
            found.append(Delta((*base, name), group, name, text, call.structured and name == "content"))
        elif isinstance(text, list):
            # Mistral streams content as a list of parts.
            for number, part in enumerate(text):
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    found.append(Delta((*base, name, number, "text"), group, name, part["text"], call.structured))
    for number, tool in enumerate(items(message, "tool_calls")):
        slot = _index(tool, number)
        for kind, name in _TOOL_TEXTS.items():
            text = member(tool, kind).get(name)
            if isinstance(text, str):
                path = (*base, "tool_calls", number, kind, name)
                found.append(Delta(path, group, f"{kind}:{slot}", text, nested=kind == "function"))
    arguments = member(message, "function_call").get("arguments")
    if isinstance(arguments, str):
        found.append(Delta((*base, "function_call", "arguments"), group, "function_call", arguments, nested=True))
    return found


PROVIDER = OpenAIChat()
