"""Every provider against its corpus: the call, the prepared request, and answers at every split point."""

from typing import Any

import pytest

from proxy.providers import PROVIDERS
from tests.providers.kit import JSON, SSE, call_of, corpora, pour, request_head, response_head, tap_for

CORPORA = corpora()
PLAIN = [(c, a) for c in CORPORA for a in c["plain"]]
STREAMS = [(c, s) for c in CORPORA for s in c["streams"]]


def ids(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    return [f"{c['provider']}: {case['name']}" for c, case in pairs]


def test_every_provider_has_a_corpus() -> None:
    """A provider without a corpus file is not finished."""
    assert {c["provider"] for c in CORPORA} == {provider.dialect for provider in PROVIDERS}


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda c: c["provider"])
def test_request(corpus: dict[str, Any]) -> None:
    """The corpus's request is matched, read and prepared as written there."""
    call = call_of(corpus["request"], corpus["host"], corpus["path"])
    assert call.provider.dialect == corpus["provider"]
    assert {name: getattr(call, name) for name in corpus["call"]} == corpus["call"]
    prepared = call.provider.prepare(call, corpus["request"].encode(), output_cap=corpus["prepared"]["cap"])
    assert prepared.decode() == corpus["prepared"]["body"]
    assert call.provider.prepare(call, corpus["request"].encode(), output_cap=None).decode() == corpus["request"]


def check(case: dict[str, Any], tap: Any, out: bytes) -> None:
    assert out.decode() == case["restored"]
    assert {name: getattr(tap.usage, name) for name in case["usage"]} == case["usage"]
    assert tap.cacheable is case["cacheable"]
    assert tap.captured.decode() == case["body"]


@pytest.mark.parametrize(("corpus", "case"), PLAIN, ids=ids(PLAIN))
def test_plain_answers_at_every_split(corpus: dict[str, Any], case: dict[str, Any]) -> None:
    """A plain answer comes out the same however it is cut."""
    call = call_of(corpus["request"], corpus["host"], corpus["path"])
    body = case["body"].encode()
    cuts = [[body], [body[i : i + 1] for i in range(len(body))]]
    cuts += [[body[:at], body[at:]] for at in range(len(body))]
    for pieces in cuts:
        tap = tap_for(call, corpus["restore"], response_head(JSON))
        check(case, tap, pour(tap, pieces))


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize(("corpus", "case"), STREAMS, ids=ids(STREAMS))
def test_streams_at_every_split(corpus: dict[str, Any], case: dict[str, Any], newline: str) -> None:
    """A stream comes out the same however it is cut, and in the framing that it came in."""
    call = call_of(case["request"], corpus["host"], corpus["path"])
    framed = {**case, "body": case["body"].replace("\n", newline), "restored": case["restored"].replace("\n", newline)}
    body = framed["body"].encode()
    cuts = [[body], [body[i : i + 1] for i in range(len(body))]]
    cuts += [[body[:at], body[at:]] for at in range(0, len(body), 1 if newline == "\n" else 7)]
    for pieces in cuts:
        tap = tap_for(call, corpus["restore"], response_head(SSE))
        check(framed, tap, pour(tap, pieces))


@pytest.mark.parametrize(("corpus", "case"), STREAMS, ids=ids(STREAMS))
def test_streams_without_placeholders_pass_unchanged(corpus: dict[str, Any], case: dict[str, Any]) -> None:
    """Without a restore map only the usage chunk that the client did not ask for is missing."""
    call = call_of(case["request"], corpus["host"], corpus["path"])
    body = case["body"].encode()
    tap = tap_for(call, {}, response_head(SSE))
    events = [event for event in body.split(b"\n\n") if event]
    hidden = (
        [e for e in events if b'"choices":[],"usage":{' in e] if call.can_ask_usage and not call.wants_usage else []
    )
    assert pour(tap, [body]) == b"".join(event + b"\n\n" for event in events if event not in hidden)
    assert tap.keeps_length is (not call.can_ask_usage or call.wants_usage)


@pytest.mark.parametrize("case", [s for s in STREAMS if "prepared" in s[1]], ids=lambda s: s[1]["name"])
def test_stream_requests_are_prepared(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """A streaming request gets its cap and asks for usage; no other byte changes."""
    corpus, stream = case
    call = call_of(stream["request"], corpus["host"], corpus["path"])
    prepared = call.provider.prepare(call, stream["request"].encode(), output_cap=stream["prepared"]["cap"])
    assert prepared.decode() == stream["prepared"]["body"]


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda c: c["provider"])
def test_error_bodies_carry_problem_and_envelope(corpus: dict[str, Any]) -> None:
    """A denial shows its message where the SDK looks, and keeps the problem's members."""
    import json

    call = call_of(corpus["request"], corpus["host"], corpus["path"])
    problem = {"type": "urn:x", "title": "T", "status": 403, "detail": "D", "code": "pii", "message": "M"}
    body = json.loads(call.provider.error_body(problem))
    assert body["error"]["message"] == "M"
    assert (body["title"], body["status"], body["detail"], body["code"]) == ("T", 403, "D", "pii")


def test_match_is_by_method_and_path() -> None:
    """Only POST is an inference call."""
    from proxy.providers import match

    head = request_head("api.openai.com", "/v1/chat/completions")
    assert match(head.authority, "POST", head.path) is not None
    assert match(head.authority, "GET", head.path) is None
