"""The tap between upstream and client: what it relays, reads, restores, captures, and says when cut."""

import gzip
import json
import zlib
from dataclasses import replace
from typing import Any

import brotli
import pytest
import zstandard

from proxy.errors import Denied
from proxy.model import Headers
from tests.providers.kit import JSON, SSE, call_of, pour, response_head, tap_for

PERSON = "<PERSON_abcd2345>"
RESTORE = {PERSON: 'Ann "Q"', "<EMAIL_ADDRESS_zzzzzz77>": "ann@example.com"}
ASK = b'{"model":"gpt-4o-mini","messages":[]}'
STREAM_ASK = b'{"model":"gpt-4o-mini","stream":true,"messages":[]}'
PLAIN = json.dumps(
    {
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": {"content": f"Hi {PERSON}"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4},
    }
).encode()
STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hi <PERSON_abcd2345>"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n'
    b"data: [DONE]\n\n"
)
RESTORED_STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hi Ann \\"Q\\""}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)
CODERS: dict[str, Any] = {
    "gzip": gzip.compress,
    "x-gzip": lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:]),
    "deflate": zlib.compress,
    "Deflate": lambda data: zlib.compress(data)[2:-4],
    "br": brotli.compress,
    "zstd": lambda data: zstandard.compress(data[:20]) + zstandard.compress(data[20:]),
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
    "identity": bytes,
}


def coded(coding: str) -> tuple[bytes, bytes]:
    return (b"Content-Encoding", coding.encode())


def names(headers: Headers) -> list[bytes]:
    return [name.lower() for name, _ in headers]


def test_nothing_to_do_is_no_copy() -> None:
    """Without provider and restore map the very same bytes go through."""
    data = b"x" * 1000
    tap = tap_for(None)
    assert tap.feed(data) is data
    assert tap.finish() == b""
    assert (tap.keeps_length, tap.usage, tap.complete, tap.cacheable, tap.captured) == (True, None, True, False, None)


def test_metering_only_is_no_copy_either() -> None:
    """An answer that is only read keeps its bytes, length and fields."""
    head = response_head(JSON, 200, (b"Content-Length", b"9"), (b"ETag", b"x"))
    tap = tap_for(call_of(ASK), {}, head)
    assert tap.feed(PLAIN) is PLAIN
    tap.finish()
    assert tap.headers(head) == head.headers
    assert tap.usage is not None
    assert (tap.usage.input_tokens, tap.usage.output_tokens) == (9, 4)
    assert tap.captured == PLAIN


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_coded_answers(coding: str, size: int) -> None:
    """Coded answers are metered on the side, or decoded for good when they must change."""
    raw = CODERS[coding](PLAIN)
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    head = response_head(JSON, 200, coded(coding), (b"Content-Length", b"9"))
    metered = tap_for(call_of(ASK), {}, head)
    assert pour(metered, pieces) == raw
    assert metered.headers(head) == head.headers
    restored = tap_for(call_of(ASK), RESTORE, head)
    assert json.loads(pour(restored, pieces))["choices"][0]["message"]["content"] == 'Hi Ann "Q"'
    assert b"content-length" not in names(restored.headers(head))
    for tap in (metered, restored):
        assert tap.usage is not None
        assert (tap.usage.output_tokens, tap.usage.estimated, tap.captured) == (4, False, PLAIN)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate"])
def test_coded_streams(coding: str) -> None:
    """A coded stream is decoded as it comes when an event of it must be hidden or restored."""
    raw = CODERS[coding](STREAM)
    head = response_head(SSE, 200, coded(coding))
    tap = tap_for(call_of(STREAM_ASK), RESTORE, head)
    assert pour(tap, [raw[at : at + 5] for at in range(0, len(raw), 5)]) == RESTORED_STREAM
    assert (tap.complete, tap.cacheable, tap.captured) == (True, True, STREAM)


def test_damaged_codings() -> None:
    """What must be read and cannot be is refused; what is only metered passes and is estimated."""
    head = response_head(JSON, 200, coded("gzip"))
    with pytest.raises(Denied, match="upstream_malformed"):
        tap_for(call_of(ASK), RESTORE, head).feed(b"not gzip at all")
    tap = tap_for(call_of(ASK), {}, head)
    assert pour(tap, [b"not gzip ", b"at all"]) == b"not gzip at all"
    assert tap.usage is not None
    assert tap.usage.estimated
    assert (tap.cacheable, tap.captured) == (False, None)


def test_an_unknown_coding_passes_unread() -> None:
    """Nobody can restore in it; the client gets what the upstream sent, and usage is an estimate."""
    head = response_head(JSON, 200, coded("compress"))
    tap = tap_for(call_of(ASK), RESTORE, head)
    assert pour(tap, [b"\x1f\x9d..."]) == b"\x1f\x9d..."
    assert tap.headers(head) == head.headers
    assert tap.usage is not None
    assert (tap.usage.estimated, tap.cacheable) == (True, False)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "deflate"])
def test_bombs_are_refused(coding: str) -> None:
    """A small answer cannot inflate without bound."""
    from proxy.decoding import StreamDecoder

    bomb = CODERS[coding](bytes(8 << 20))
    decoder = StreamDecoder([coding], max_decoded_bytes=1 << 20)
    with pytest.raises(Denied, match="inflates"):
        b"".join(decoder.feed(bomb[at : at + 1000]) for at in range(0, len(bomb), 1000))


def test_fields_of_the_bytes_go_when_the_bytes_may_change() -> None:
    """Length, digests and validators of the upstream's bytes would be wrong."""
    fields = [
        b"Content-Length",
        b"Transfer-Encoding",
        b"Content-MD5",
        b"Digest",
        b"Repr-Digest",
        b"ETag",
        b"X-Request-Id",
    ]
    head = response_head(JSON, 200, *((name, b"v") for name in fields))
    assert names(tap_for(call_of(ASK), RESTORE, head).headers(head)) == [b"content-type", b"x-request-id"]


def test_captured_is_bounded() -> None:
    """An answer larger than the limit is relayed and not kept."""
    tap = tap_for(call_of(ASK), {}, capture_limit_bytes=len(PLAIN) - 1)
    assert pour(tap, [PLAIN[:50], PLAIN[50:]]) == PLAIN
    assert tap.captured is None
    assert tap_for(call_of(ASK), {}, capture_limit_bytes=0).captured is None


@pytest.mark.parametrize(
    ("change", "head"),
    [
        ({}, response_head(JSON, 201)),
        ({}, response_head(JSON, 200, (b"Set-Cookie", b"a=b"))),
        ({"error": {"message": "x"}}, response_head()),
        ({"choices": []}, response_head()),
        ({"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "length"}]}, response_head()),
        ({"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": None}]}, response_head()),
        ({"choices": [{"index": 0, "message": {"tool_calls": [{}]}, "finish_reason": "stop"}]}, response_head()),
        ({"choices": [{"index": 0, "message": {"function_call": {"a": 1}}, "finish_reason": "stop"}]}, response_head()),
    ],
)
def test_what_is_not_cached(change: dict[str, Any], head: Any) -> None:
    """Errors, cookies, cut and tool-calling answers."""
    tap = tap_for(call_of(ASK), {}, head)
    pour(tap, [json.dumps({**json.loads(PLAIN), **change}).encode()])
    assert not tap.cacheable


def test_more_that_is_not_cached() -> None:
    """Requests with no-store, answers that are no JSON, streams without their end."""
    call = call_of(ASK, "api.openai.com", "/v1/chat/completions", (b"Cache-Control", b"no-store"))
    tap = tap_for(call)
    pour(tap, [PLAIN])
    assert not tap.cacheable
    head = response_head()
    forbidden = replace(head, headers=(*head.headers, (b"cache-control", b"private, No-Store")))
    tap = tap_for(call_of(ASK), {}, forbidden)
    pour(tap, [PLAIN])
    assert not tap.cacheable
    tap = tap_for(call_of(ASK))
    pour(tap, [b"<html>"])
    assert not tap.cacheable
    tap = tap_for(call_of(STREAM_ASK), {}, response_head(SSE))
    pour(tap, [STREAM.removesuffix(b"data: [DONE]\n\n")])
    assert (tap.complete, tap.cacheable) == (False, False)
    assert tap.usage is not None
    assert not tap.usage.estimated


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_errors_are_restored_and_cost_nothing(status: int) -> None:
    """An error may quote the prompt; it is not billed."""
    tap = tap_for(call_of(ASK), RESTORE, response_head(JSON, status))
    assert pour(tap, [b'{"error":{"message":"no <PERSON_abcd2345>"}}']) == b'{"error":{"message":"no Ann \\"Q\\""}}'
    assert (tap.usage, tap.cacheable, tap.abort()) == (None, False, None)


@pytest.mark.parametrize(
    ("media_type", "body", "out"),
    [
        (b"application/json", b'{"a":"<PERSON_abcd2345>"}', b'{"a":"Ann \\"Q\\""}'),
        (b"application/vnd.api+json; charset=utf-8", b'["<PERSON_abcd2345>"]', b'["Ann \\"Q\\""]'),
        (
            b"application/x-ndjson",
            b'"<PERSON_abcd2345>"\n{"a":"<PERSON_abcd2345>"}\n',
            b'"Ann \\"Q\\""\n{"a":"Ann \\"Q\\""}\n',
        ),
        (b"text/plain", b"Hi <PERSON_abcd2345>", b'Hi Ann "Q"'),
        (b"", b"Hi <PERSON_abcd2345>", b'Hi Ann "Q"'),
        (b"text/event-stream", b'data: {"a":"<PERSON_abcd2345>"}\n\n', b'data: {"a":"Ann \\"Q\\""}\n\n'),
    ],
)
def test_answers_of_other_apis_are_restored(media_type: bytes, body: bytes, out: bytes) -> None:
    """Without a provider the media type decides how; usage is none."""
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        tap = tap_for(None, RESTORE, response_head(media_type))
        assert pour(tap, pieces) == out
        assert (tap.usage, tap.keeps_length) == (None, False)


def test_large_answers_are_metered_from_their_ends() -> None:
    """A batch of embeddings is not parsed; its usage stands at the end."""
    call = call_of(b'{"model":"e","input":"x"}', "api.openai.com", "/v1/embeddings")
    data = [{"object": "embedding", "index": i, "embedding": [0.123456789] * 512} for i in range(400)]
    body = json.dumps(
        {"object": "list", "data": data, "model": "e-2", "usage": {"prompt_tokens": 77, "total_tokens": 77}}
    )
    raw = body.encode()
    assert len(raw) > 2 << 20
    tap = tap_for(call)
    assert pour(tap, [raw[at : at + 65536] for at in range(0, len(raw), 65536)]) == raw
    usage = tap.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.response_model, usage.estimated) == (77, 0, "e-2", False)


def test_text_cannot_forge_usage_of_a_large_answer() -> None:
    """Quotes within a string are escaped, so the model's text is never taken for the usage member."""
    text = 'x"usage": {"prompt_tokens": 1, "completion_tokens": 1}' * 30_000
    body = {**json.loads(PLAIN), "usage": {"prompt_tokens": 9, "completion_tokens": 400_000}}
    body["choices"][0]["message"]["content"] = text
    for forged in (body, {name: body[name] for name in ("usage", "model", "choices")}):
        tap = tap_for(call_of(ASK))
        pour(tap, [json.dumps(forged).encode()])
        assert tap.usage is not None
        assert tap.usage.output_tokens == 400_000


def test_abort_of_a_plain_answer() -> None:
    """Cut off: what was seen is estimated and marked."""
    tap = tap_for(call_of(ASK))
    tap.feed(PLAIN[:90])
    usage = tap.abort()
    assert usage is not None
    assert (usage.output_tokens, usage.estimated, tap.complete, tap.cacheable) == (30, True, False, False)
    assert tap.abort() == usage


def test_abort_of_a_stream() -> None:
    """Before its usage came: text seen over three, never less than what was reported so far."""
    tap = tap_for(call_of(STREAM_ASK), RESTORE, response_head(SSE))
    tap.feed(b'data: {"choices":[{"index":0,"delta":{"content":"123456789 <PER"}}]}\n\ndata: {"cho')
    assert tap.output_tokens_seen == 5
    usage = tap.abort()
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (-(-len(STREAM_ASK) // 2), 5, True)


def test_abort_after_the_usage_came_is_exact() -> None:
    """A client that hangs up at the very end changes nothing about the bill."""
    tap = tap_for(call_of(STREAM_ASK), {}, response_head(SSE))
    tap.feed(STREAM)
    usage = tap.abort()
    assert usage is not None
    assert (usage.output_tokens, usage.estimated, tap.cacheable) == (4, False, False)


def test_an_endless_event_is_refused() -> None:
    """A stream that never ends its event cannot fill memory."""
    tap = tap_for(call_of(STREAM_ASK), RESTORE, response_head(SSE))
    with pytest.raises(Denied, match="upstream_malformed"):
        pour(tap, [b"x" * (1 << 20)] * 20)
