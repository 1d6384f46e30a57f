"""The cache of answers: what the key covers, what tampering does, how answers are replayed."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.caching import cache_key, decode, encode, replay
from proxy.model import CachedAnswer
from tests.providers.kit import SSE, call_of

PARTS: dict[str, Any] = {
    "app": "a",
    "provider": "openai",
    "endpoint": "POST api.openai.com:443 /v1/chat/completions",
    "credential": b"Bearer sk-1",
    "body": b'{"model":"m"}',
    "app_digest": "d",
}
KEY = bytes(32)
ANSWER = CachedAnswer(
    status=200,
    headers=((b"Content-Type", b"application/json"), (b"X-Request-Id", b"\xff"), (b"Content-Length", b"999")),
    body=b'{"choices":[{"index":0,"message":{"content":"<PERSON_abcd2345>"},"finish_reason":"stop"}]}',
    stored_at_s=1000.5,
    model="m",
    input_tokens=3,
    output_tokens=4,
    usd_nanos=5,
)


@pytest.mark.parametrize("part", PARTS)
def test_the_key_covers_every_part(part: str) -> None:
    """Another app, provider, endpoint, credential, body or policy is another entry."""
    other = {**PARTS, part: PARTS[part] + PARTS[part][:1]}
    assert cache_key(KEY, **PARTS) != cache_key(KEY, **other)
    assert cache_key(KEY, **PARTS) == cache_key(KEY, **dict(PARTS))
    assert cache_key(b"x" * 32, **PARTS) != cache_key(KEY, **PARTS)
    assert len(cache_key(KEY, **PARTS)) == 32


def test_parts_cannot_run_into_each_other() -> None:
    """The end of one part is not the start of the next."""
    first = cache_key(KEY, **{**PARTS, "app": "ab", "provider": "c"})
    assert first != cache_key(KEY, **{**PARTS, "app": "a", "provider": "bc"})


@given(st.binary(max_size=300), st.binary(max_size=40), st.floats(0, 2e9))
def test_round_trip(body: bytes, value: bytes, stored_at_s: float) -> None:
    """What is stored comes back, whatever bytes it holds."""
    answer = replace(ANSWER, body=body, headers=((b"X", value),), stored_at_s=stored_at_s)
    assert decode(encode(answer, KEY, bind=b"k"), KEY, bind=b"k") == answer


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_is_a_miss(place: int, change: int) -> None:
    """Nobody who can merely write to the store can put an answer there."""
    value = bytearray(encode(ANSWER, KEY))
    value[place % len(value)] ^= change
    assert decode(bytes(value), KEY) is None


@pytest.mark.parametrize("cut", [0, 3, 4, 20, 36, 38, 40, 100])
def test_cut_or_foreign_values_are_misses(cut: int) -> None:
    """Too short, another key, another entry's value, other formats."""
    value = encode(ANSWER, KEY, bind=b"one")
    assert decode(value[:cut], KEY, bind=b"one") is None
    assert decode(value, b"x" * 32, bind=b"one") is None
    assert decode(value, KEY, bind=b"two") is None
    assert decode(b"egc0" + value[4:], KEY, bind=b"one") is None


def test_replay_of_a_plain_answer() -> None:
    """Restored for this client, marked, aged; fields of the first exchange stay behind."""
    call = call_of(b'{"model":"m"}')
    response = replay(ANSWER, call, {"<PERSON_abcd2345>": 'A"'}, 1061.4)
    assert response.head.headers == ((b"Content-Type", b"application/json"), (b"X-Cache", b"hit"), (b"Age", b"60"))
    assert response.body == ANSWER.body.replace(b"<PERSON_abcd2345>", b'A\\"')
    assert replay(ANSWER, call, {}, 0).head.headers[-1] == (b"Age", b"0")
    assert replay(ANSWER, call, {}, 0).body == ANSWER.body


STREAM = (
    b'data: {"choices":[{"index":0,"delta":{"content":"<PERSON_"}}]}\n\n'
    b": ping\n\n"
    b'data: {"choices":[{"index":0,"delta":{"content":"abcd2345>"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    b"data: [DONE]\n\n"
)


def test_replay_of_a_stream() -> None:
    """The same events, restored across them; the usage chunk only for a client that asked."""
    answer = replace(ANSWER, body=STREAM, headers=((b"content-type", SSE),))
    quiet = call_of(b'{"model":"m","stream":true}')
    asking = call_of(b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}')
    assert replay(answer, asking, {}, 0).body == STREAM
    usage = STREAM.split(b"\n\n")[4] + b"\n\n"
    assert replay(answer, quiet, {}, 0).body == STREAM.replace(usage, b"")
    restored = replay(answer, asking, {"<PERSON_abcd2345>": "Ann"}, 0).body
    assert restored == STREAM.replace(b'"<PERSON_"', b'""').replace(b"abcd2345>", b"Ann")
