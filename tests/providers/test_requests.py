"""Reading calls and writing into requests: which bytes change, which requests are refused."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Denied
from proxy.model import Authority
from proxy.providers import match
from tests.providers.kit import call_of

CHAT = "/v1/chat/completions"
MEMBERS = (
    "temperature",
    "n",
    "stream_options",
    "response_format",
    "text",
    "format",
    "type",
    "messages",
    "content",
    "image_url",
    "source",
    "data",
    "output_format",
    "output_config",
    "input",
    "max_tokens",
    "max_output_tokens",
    "container",
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        ("api.openai.com", CHAT, ("openai_chat", "openai")),
        ("eu.api.openai.com", CHAT, ("openai_chat", "openai")),
        ("openai.demo.test", CHAT, ("openai_chat", "openai")),
        ("evil-api.openai.com.example", CHAT, ("openai_chat", "openai_compatible")),
        ("x.openai.azure.com", "/openai/deployments/d/chat/completions", ("openai_chat", "azure.ai.openai")),
        ("x.openai.azure.com", "/openai/v1/chat/completions", ("openai_chat", "azure.ai.openai")),
        ("x.openai.azure.com", "/openai/deployments/d/embeddings", ("openai_embeddings", "azure.ai.openai")),
        ("x.openai.azure.com", "/openai/responses", ("openai_responses", "azure.ai.openai")),
        ("x.services.ai.azure.com", "/anthropic/v1/messages", ("anthropic_messages", "azure.ai.openai")),
        ("api.mistral.ai", CHAT, ("openai_chat", "mistral_ai")),
        ("api.groq.com", "/openai/v1/chat/completions", ("openai_chat", "groq")),
        ("api.deepseek.com", "/chat/completions", ("openai_chat", "deepseek")),
        ("openrouter.ai", "/api/v1/chat/completions", ("openai_chat", "openrouter")),
        ("generativelanguage.googleapis.com", "/v1beta/openai/chat/completions", ("openai_chat", "gcp.gemini")),
        ("generativelanguage.googleapis.com", "/v1beta/openai/embeddings", ("openai_embeddings", "gcp.gemini")),
        ("ollama.internal", CHAT, ("openai_chat", "openai_compatible")),
        ("api.openai.com", "/v1/embeddings", ("openai_embeddings", "openai")),
        ("api.openai.com", "/v1/responses", ("openai_responses", "openai")),
        ("api.anthropic.com", "/v1/messages", ("anthropic_messages", "anthropic")),
        ("gateway.internal", "/v1/messages", ("anthropic_messages", "anthropic_compatible")),
        ("api.anthropic.com", "/v1/messages/count_tokens", None),
        ("api.anthropic.com", "/v1/messages/batches", None),
        ("api.openai.com", "/v1/responses/r_1", None),
        ("api.openai.com", "/v1/models", None),
        ("crm.internal", "/embeddings", None),
        ("crm.internal", "/api/responses", None),
    ],
)
def test_match(host: str, path: str, expected: tuple[str, str] | None) -> None:
    """The path decides the API, the host whose it is."""
    provider = match(Authority("https", host, 443), "POST", path)
    assert (provider and (provider.dialect, provider.name)) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"{",
        b"{}",
        b'{"model":null}',
        b'{"model":7}',
        b'{"model":""}',
        b'\xef\xbb\xbf{"model":"m"}',
        b'{"model":"m","stream":"yes"}',
        b'{"model":"m","stream":1}',
        b'{"model":"m","max_tokens":"9"}',
        b'{"model":"m","max_tokens":-1}',
        b'{"model":"m","max_tokens":true}',
        b'{"model":"m","max_tokens":1.5}',
        b'{"model":"m","n":0}',
        b'{"model":"m","n":"2"}',
        # Two parsers, two readings.
        b'{"model":"cheap","model":"dear"}',
        b'{"model":"cheap","mod\\u0065l":"dear"}',
        b'{"mod\\u0065l":"dear","model":"cheap"}',
        b'{"model":"cheap","Model":"dear"}',
        b'{"model":"m","max_tokens":5,"max_tokens":50000}',
        b'{"model":"m","MAX_TOKENS":5}',
        b'{"model":"m","stream":false,"stream":true}',
        b'{"model":"m","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"m","model":1,"a":' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)
def test_unreadable_or_ambiguous_requests_are_refused(body: bytes) -> None:
    """Policy must see what the upstream will see."""
    with pytest.raises(Denied) as caught:
        call_of(body)
    assert caught.value.code == "malformed"
    assert caught.value.remedy


_SPACE = st.sampled_from([b"", b" ", b"\t", b"\r\n", b" \n\t "])
_DECIDING = ("model", "stream", "max_tokens", "max_completion_tokens", "n", "stream_options")


@st.composite
def _written(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A request with white space and escapes where JSON lets them stand; and whether a deciding member stands twice."""
    names = ["model", *draw(st.lists(st.sampled_from((*_DECIDING, "user", "a")), max_size=4))]
    parts = []
    for name in names:
        text = json.dumps(name).encode()
        if draw(st.booleans()):
            text = text.replace(b"o", b"\\u006f")
        value = {"model": b'"m"', "n": b"1", "stream": b"false", "stream_options": b"null"}.get(name, b'"5"')
        value = b"7" if name.startswith("max") else value
        inner = draw(st.sampled_from([value, value, b'"\\"n\\": \\"n\\":"', b'{"n":1,"model":"x"}']))
        spaces = [draw(_SPACE) for _ in range(4)]
        shown = inner if name in ("user", "a") else value
        parts.append(spaces[0] + text + spaces[1] + b":" + spaces[2] + shown + spaces[3])
    return b"{" + b",".join(parts) + b"}", any(names.count(name) > 1 for name in _DECIDING)


@given(_written())
def test_a_deciding_member_that_stands_twice_is_refused_however_it_is_written(case: tuple[bytes, bool]) -> None:
    body, twice = case
    if twice:
        with pytest.raises(Denied, match="malformed"):
            call_of(body)
    elif len(dict(pairs := json.loads(body, object_pairs_hook=list))) == len(pairs):
        assert call_of(body).model == "m"


@pytest.mark.parametrize(("choices", "refused"), [(1, False), (128, False), (129, True), (1 << 32, True)])
def test_the_number_of_answers_is_bounded(choices: int, refused: bool) -> None:
    body = b'{"model":"m","n":%d}' % choices
    if not refused:
        assert call_of(body).choices == choices
        return
    with pytest.raises(Denied, match=f"asks for {choices} answers") as caught:
        call_of(body)
    assert caught.value.code == "too_large"
    assert "at most 128" in caught.value.remedy


@pytest.mark.parametrize(
    ("path", "member"), [(CHAT, "messages"), ("/v1/responses", "input"), ("/v1/embeddings", "input")]
)
@pytest.mark.parametrize(("characters", "refused"), [(512, False), (513, True)])
def test_the_name_of_a_model_is_bounded(path: str, member: str, characters: int, refused: bool) -> None:
    body = json.dumps({"model": "m" * characters, member: []})
    if refused:
        with pytest.raises(Denied, match="more than 512 characters"):
            call_of(body, target=path)
    else:
        assert call_of(body, target=path).model == "m" * characters


def test_repeats_elsewhere_are_none_of_our_business() -> None:
    """Only members that policy or money depend on must be unambiguous; text may hold their names."""
    body = b'{"model":"m","metadata":{"model":"x"},"messages":[{"content":"\\"model\\":\\"y\\" \\u0041","model":1}]}'
    assert call_of(body).model == "m"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.1}, False),
        ({"temperature": False}, False),
        ({"temperature": "0"}, False),
        ({}, False),
    ],
)
def test_deterministic(fields: dict[str, Any], expected: bool) -> None:
    """Only an explicit temperature of zero."""
    assert call_of(json.dumps({"model": "m", **fields})).deterministic is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), (False, False)),
        (((b"Cache-Control", b"no-store"),), (True, True)),
        (((b"Cache-Control", b"max-age=60, No-Cache"),), (False, True)),
        (((b"Cache-Control", b"x"), (b"cache-control", b"no-store")), (True, True)),
        (((b"Cache-Control", b"max-age=0"),), (False, True)),
        (((b"Cache-Control", b"max-age=00"),), (False, False)),
        (((b"Pragma", b"no-cache"),), (False, True)),
        (((b"Pragma", b"no-cache"), (b"Cache-Control", b"max-age=9")), (False, False)),
        (((b"Cache-Control", b"x-no-store"),), (False, False)),
    ],
)
def test_cache_directives(headers: tuple[tuple[bytes, bytes], ...], expected: tuple[bool, bool]) -> None:
    """RFC 9111 request directives."""
    call = call_of(b'{"model":"m"}', "api.openai.com", CHAT, *headers)
    assert (call.no_store, call.no_cache) == expected


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "background", "prompt"])
def test_conversations_kept_at_the_provider_are_not_cached(name: str) -> None:
    """Their answer depends on more than the request."""
    call = call_of(json.dumps({"model": "m", name: "x"}), "api.openai.com", "/v1/responses")
    assert (call.no_store, call.no_cache) == (True, True)


@pytest.mark.parametrize(
    ("host", "target", "expected"),
    [
        ("api.openai.com", CHAT, ("max_completion_tokens", True)),
        ("openai.demo.test", CHAT, ("max_completion_tokens", True)),
        ("x.openai.azure.com", "/openai/v1/chat/completions", ("max_completion_tokens", True)),
        (
            "x.openai.azure.com",
            "/openai/deployments/d/chat/completions?api-version=2024-10-21",
            ("max_completion_tokens", True),
        ),
        (
            "x.openai.azure.com",
            "/openai/deployments/d/chat/completions?a=b&api-version=2024-06-01",
            ("max_tokens", False),
        ),
        ("api.mistral.ai", CHAT, ("max_tokens", False)),
        ("ollama.internal", CHAT, ("max_tokens", True)),
    ],
)
def test_what_a_server_understands(host: str, target: str, expected: tuple[str, bool]) -> None:
    """Which member takes the cap, and whether usage may be asked for."""
    call = call_of(b'{"model":"m","stream":true}', host, target)
    assert (call.cap_field, call.can_ask_usage) == expected


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses", "/v1/embeddings"])
@given(data=st.data())
def test_nonsense_in_requests_is_read_or_refused(path: str, data: st.DataObject) -> None:
    """Any JSON in any member: a call, or `malformed`, never a fault of ours."""
    names = st.sampled_from(MEMBERS)
    fields = data.draw(
        st.dictionaries(names, json_values | st.dictionaries(names, json_values, max_size=3), max_size=6)
    )
    body = json.dumps({"model": "image-m", **fields})
    try:
        call = call_of(body, "h.test", path)
    except Denied as denied:
        assert denied.code == "malformed"
        return
    assert call.input_tokens > 0
    assert orjson.loads(call.provider.prepare(call, body.encode(), output_cap=3))["model"] == "image-m"


def test_azure_takes_the_model_from_its_path() -> None:
    """The deployment is what is called; a model in the body is ignored by Azure, so by policy too."""
    call = call_of(b'{"model":"other"}', "x.openai.azure.com", "/openai/deployments/ours/chat/completions")
    assert call.model == "ours"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"m"}', b'{"max_completion_tokens":7,"model":"m"}'),
        (b' \n{ "model" : "m" }\n', b' \n{"max_completion_tokens":7, "model" : "m" }\n'),
        (
            b'{"model":"m","max_completion_tokens": null ,"x":1}',
            b'{"model":"m","max_completion_tokens": 7 ,"x":1}',
        ),
        (b'{"model":"m","max_tokens":9}', b'{"model":"m","max_tokens":9}'),
        (b'{"model":"m","max_tokens":null}', b'{"max_completion_tokens":7,"model":"m","max_tokens":null}'),
        (
            b'{"model":"m","stream":true,"stream_options":null}',
            b'{"max_completion_tokens":7,"model":"m","stream":true,"stream_options":{"include_usage":true}}',
        ),
        (
            b'{"model":"m","stream":true,"stream_options": {}}',
            b'{"max_completion_tokens":7,"model":"m","stream":true,"stream_options": {"include_usage":true}}',
        ),
        (
            b'{"a":{"stream_options":1},"model":"m","stream":true,"stream_options":{"include_usage": false, "x":[{}]}}',
            b'{"max_completion_tokens":7,"a":{"stream_options":1},"model":"m","stream":true,'  # noqa: ISC004
            b'"stream_options":{"include_usage": true, "x":[{}]}}',
        ),
    ],
)
def test_prepare_touches_nothing_else(body: bytes, expected: bytes) -> None:
    """Caps and the wish for usage are written into the bytes as they are."""
    call = call_of(body)
    assert call.provider.prepare(call, body, output_cap=7) == expected


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name.lower() not in {"model", "n", "stream"}), json_values, max_size=6
    ),
    st.booleans(),
    st.sampled_from([None, 0, 2]),
)
def test_prepare_keeps_every_member(extra: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    """Parsed, the prepared request differs in the two members only; unparsed, only by insertion."""
    fields = {**extra, "model": "m", "stream": True}
    body = json.dumps(fields, ensure_ascii=ascii_only, indent=indent).encode("utf-8")
    call = call_of(body)
    prepared = call.provider.prepare(call, body, output_cap=99)
    added = {"max_completion_tokens": 99, "stream_options": {"include_usage": True}}
    assert orjson.loads(prepared) == {**fields, **added}
    assert prepared.endswith(body[1:])


def test_estimates_of_input() -> None:
    """Bytes over two; inline images count as images, not as text."""
    text = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 1000}]})
    assert call_of(text).input_tokens == -(-len(text) // 2)
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 3_000_000}}
    image = json.dumps({"model": "m", "messages": [{"role": "user", "content": [url, {"type": "text", "text": "hi"}]}]})
    assert 48_169 < call_of(image).input_tokens < 48_400
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 3_000_000}
    block = {"type": "image", "source": source}
    anthropic = json.dumps({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [block, block]}]})
    assert 2 * 4784 < call_of(anthropic, "api.anthropic.com", "/v1/messages").input_tokens < 2 * 4784 + 400
