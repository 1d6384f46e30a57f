"""Streams of every dialect: any text over any events and any chunks, and upstreams that send nonsense."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.providers.kit import JSON, SSE, call_of, pour, response_head, tap_for

PERSON = "<PERSON_abcd2345>"
RESTORE = {PERSON: 'Ann "Q"', "<EMAIL_ADDRESS_zzzzzz77>": "ann@example.com"}
STREAM_ASK = b'{"model":"gpt-4o-mini","stream":true,"messages":[]}'


def parsed(stream: bytes) -> Iterator[dict[str, Any]]:
    for event in stream.split(b"\n\n"):
        for line in event.split(b"\n"):
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])


def openai_events(texts: list[str], kind: str) -> list[dict[str, Any]]:
    def delta(text: str) -> dict[str, Any]:
        if kind == "text":
            return {"content": text}
        return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}

    events = [{"choices": [{"index": 0, "delta": delta(text), "finish_reason": None}]} for text in texts]
    return [*events, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]


def openai_text(events: list[dict[str, Any]], kind: str) -> str:
    out = ""
    for event in events:
        delta = event["choices"][0]["delta"]
        out += delta.get("content") or "" if kind == "text" else ""
        out += "".join(call["function"]["arguments"] for call in delta.get("tool_calls", ()))
    return out


def anthropic_events(texts: list[str], kind: str) -> list[dict[str, Any]]:
    name, member = ("text_delta", "text") if kind == "text" else ("input_json_delta", "partial_json")
    deltas = [{"type": "content_block_delta", "index": 0, "delta": {"type": name, member: text}} for text in texts]
    return [*deltas, {"type": "content_block_stop", "index": 0}, {"type": "message_stop"}]


def anthropic_text(events: list[dict[str, Any]], kind: str) -> str:
    member = "text" if kind == "text" else "partial_json"
    return "".join(event["delta"][member] for event in events if "delta" in event)


def responses_events(texts: list[str], kind: str) -> list[dict[str, Any]]:
    stem = "response.output_text" if kind == "text" else "response.function_call_arguments"
    deltas = [{"type": f"{stem}.delta", "output_index": 0, "content_index": 0, "delta": text} for text in texts]
    member = "text" if kind == "text" else "arguments"
    return [*deltas, {"type": f"{stem}.done", "output_index": 0, "content_index": 0, member: "".join(texts)}]


def responses_text(events: list[dict[str, Any]], kind: str) -> str:
    text = "".join(event["delta"] for event in events if "delta" in event)
    assert events[-1]["text" if kind == "text" else "arguments"] == text
    return text


DIALECTS: dict[str, Any] = {
    "/v1/chat/completions": (openai_events, openai_text),
    "/v1/messages": (anthropic_events, anthropic_text),
    "/v1/responses": (responses_events, responses_text),
}
fragments = st.sampled_from(
    [PERSON, "<PERSON_", "<EMAIL_ADDRESS_zzzzzz77>", "<", ">", "\\", '"', "abcd2345>", "é", "\n", "u003c"]
)
prose = st.lists(fragments | st.text(alphabet="ab <>_", max_size=4), max_size=8).map("".join)


@given(
    st.sampled_from(list(DIALECTS)),
    st.sampled_from(["text", "tool"]),
    prose,
    st.lists(st.integers(0, 10**6), max_size=8),
    st.lists(st.integers(0, 10**6), max_size=8),
)
def test_text_over_any_events_and_any_chunks(
    path: str, kind: str, text: str, events_at: list[int], bytes_at: list[int]
) -> None:
    """However a text is cut into events, and the events into chunks, the client reads it as if restored whole."""
    if kind == "text" and "\\u003c" in text:
        return
    value = text if kind == "text" else json.dumps({"a": text}, ensure_ascii=False)
    edges = [0, *sorted(at % (len(value) + 1) for at in events_at), len(value)]
    make, collect = DIALECTS[path]
    events = make([value[start:end] for start, end in pairwise(edges)], kind)
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    cuts = [0, *sorted(at % (len(stream) + 1) for at in bytes_at), len(stream)]
    call = call_of(b'{"model":"m","stream":true,"max_tokens":5}', "h.test", path)
    tap = tap_for(call, RESTORE, response_head(SSE))
    out = pour(tap, [stream[start:end] for start, end in pairwise(cuts)])
    restored = text
    for placeholder, original in RESTORE.items():
        restored = restored.replace(placeholder, original)
    got = collect(list(parsed(out)), kind)
    assert (got if kind == "text" else json.loads(got)) == (restored if kind == "text" else {"a": restored})


scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | prose | st.just(2**70)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(prose, inner, max_size=3),
    max_leaves=6,
)
OPENINGS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "input": {}}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
    {
        "type": "response.completed",
        "response": {"model": "m", "output": [{"type": "message", "content": [{"text": "x"}]}]},
    },
    {"choices": [{"index": 0, "message": {"content": "x", "tool_calls": [{"index": 0, "custom": {"input": "x"}}]}}]},
    {"choices": [], "usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}},
    {"output": [{"type": "function_call", "arguments": "{}"}], "usage": {"input_tokens": 1}, "status": "completed"},
    {"content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn", "usage": {"output_tokens_details": {}}},
]


def spoiled(value: Any, data: st.DataObject) -> Any:
    """`value` with something in it replaced by junk."""
    if data.draw(st.integers(0, 5)) == 0:
        return data.draw(junk)
    if isinstance(value, dict):
        return {name: spoiled(item, data) for name, item in value.items()}
    return [spoiled(item, data) for item in value] if isinstance(value, list) else value


@given(st.sampled_from(list(DIALECTS)), prose, st.data(), st.booleans(), st.booleans())
def test_nonsense_from_the_upstream_never_raises(
    path: str, text: str, data: st.DataObject, plain: bool, restores: bool
) -> None:
    """Whatever JSON an upstream sends, it comes through, and usage stays a plausible number."""
    kind = data.draw(st.sampled_from(["text", "tool"]))
    events = [
        *DIALECTS[path][0]([text[:5], text[5:]], kind),
        *data.draw(st.lists(st.sampled_from(OPENINGS), max_size=3)),
    ]
    texts = [json.dumps(spoiled(event, data)).encode() for event in data.draw(st.permutations(events))]
    call = call_of(b'{"model":"m","stream":true,"max_tokens":5}', "h.test", path)
    tap = tap_for(call, RESTORE if restores else {}, response_head(JSON if plain else SSE))
    pieces = [texts[0]] if plain else [b"event: x\ndata: " + text + b"\n\n" for text in texts]
    out = pour(tap, pieces)
    usage = tap.usage
    assert usage is not None
    assert isinstance(usage.response_model, str)
    assert 0 <= usage.output_tokens <= 1 << 32
    assert 0 < usage.input_tokens <= 3 << 32
    if plain and not restores:
        assert out == pieces[0]


def test_custom_tools_and_legacy_calls() -> None:
    """Free text of custom tools is not escaped once more; the older function_call is; ends flush both."""
    deltas = [
        {
            "tool_calls": [{"index": 0, "custom": {"input": "to <PERSON_"}}],
            "function_call": {"arguments": '{"a":"<PERS'},
        },
        {
            "tool_calls": [{"index": 0, "custom": {"input": "abcd2345> <PER"}}],
            "function_call": {"arguments": 'ON_abcd2345>"}<'},
        },
        {},
    ]
    ends = [None, None, "stop"]
    events = [
        {"choices": [{"index": 0, "delta": d, "finish_reason": end}]} for d, end in zip(deltas, ends, strict=True)
    ]
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    tap = tap_for(call_of(STREAM_ASK), RESTORE, response_head(SSE))
    got = [event["choices"][0]["delta"] for event in parsed(pour(tap, [stream]))]
    inputs = "".join(call["custom"]["input"] for delta in got for call in delta.get("tool_calls", ()))
    arguments = "".join(delta["function_call"]["arguments"] for delta in got if "function_call" in delta)
    assert inputs == 'to Ann "Q" <PER'
    assert arguments == '{"a":"Ann \\"Q\\""}<'
    assert got[-1] == {}


def test_structured_output_is_escaped_once_more() -> None:
    """JSON that the model was asked to write stays valid, plain and streamed."""
    ask = {"model": "m", "response_format": {"type": "json_object"}, "messages": []}
    inner = json.dumps({"name": PERSON})
    plain = {"choices": [{"index": 0, "message": {"content": inner}, "finish_reason": "stop"}]}
    out = pour(tap_for(call_of(json.dumps(ask)), RESTORE), [json.dumps(plain).encode()])
    assert json.loads(json.loads(out)["choices"][0]["message"]["content"]) == {"name": 'Ann "Q"'}
    events = b"".join(
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": char}}]}).encode() + b"\n\n"
        for char in inner
    )
    tap = tap_for(call_of(json.dumps({**ask, "stream": True})), RESTORE, response_head(SSE))
    texts = [event["choices"][0]["delta"]["content"] for event in parsed(pour(tap, [events]))]
    assert json.loads("".join(texts)) == {"name": 'Ann "Q"'}


@pytest.mark.parametrize("at", range(1, 40))
def test_escaped_brackets_cut_anywhere(at: int) -> None:
    """A model that writes its arguments with escaped brackets, cut within the escape."""
    arguments = '{"a":"\\u003cPERSON_abcd2345\\u003e"}'
    events = openai_events([arguments[:at], arguments[at:]], "tool")
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    tap = tap_for(call_of(STREAM_ASK), RESTORE, response_head(SSE))
    got = openai_text(list(parsed(pour(tap, [stream]))), "tool")
    assert json.loads(got) == {"a": 'Ann "Q"'}
