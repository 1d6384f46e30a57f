"""The line of one exchange as transcripts: what is asked for, in which order, and what the record says."""

import gzip
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from proxy import denials, effects
from proxy.audit import body_json
from proxy.config.snapshot import Snapshot
from proxy.context import rule_connection
from proxy.errors import Denied
from proxy.exchange import exchange
from proxy.inspection import inspect
from proxy.model import Inspection, ResponseHead
from tests.exchange import kit
from tests.exchange.kit import Script, context, head
from tests.inspection.kit import RegexDetector


@pytest.fixture
def policy(tmp_path: Path) -> Snapshot:
    return kit.snapshot(tmp_path)


def test_inference_call(policy: Snapshot) -> None:
    script = Script().run(exchange(context(policy), head()))
    assert script.names == [
        "ReadBody", "Inspect", "CacheGet", "Reserve", "Forward", "Relay", "Settle", "Meter", "CachePut", "Emit",
    ]  # fmt: skip
    request = script.of(effects.Forward)[0].request
    assert request.head.headers[0] == (b"Host", b"api.openai.com")
    assert orjson.loads(request.body)["max_completion_tokens"] == 100
    assert script.of(effects.Settle)[0].usd_nanos == 8
    record = script.record
    assert (record["outcome"], record["inspected"], record["rule_id"]) == ("allowed", "full", "openai")
    assert (record["gen_ai.usage.input_tokens"], record["gen_ai.usage.output_tokens"]) == (3, 5)
    assert record["cost_usd_nanos"] == 8


def test_plain_request_is_byte_exact(policy: Snapshot) -> None:
    body = b'{ "a" : 1e400 }'
    script = Script({effects.ReadBody: (body, ())})
    script.run(exchange(context(policy), head("PUT", "/x?q=1", "files.example.com")))
    assert script.names == ["ReadBody", "Inspect", "Forward", "Relay", "Emit"]
    request = script.of(effects.Forward)[0].request
    assert (request.body, request.head.target) == (body, "/x?q=1")
    assert script.relayed == kit.CHAT_ANSWER


def test_transformed_request_and_restored_answer(policy: Snapshot) -> None:
    changed = kit.CHAT_BODY.replace(b"hi", b"<PERSON_aaaaaaaa>")
    verdict = Inspection("transform", body=changed, restore={"<PERSON_aaaaaaaa>": 'Ann "A" Lee'})
    extra = ((b"Content-Encoding", b"gzip"), (b"Content-MD5", b"x"), (b"Accept-Encoding", b"br"))
    coded = (gzip.compress(kit.CHAT_BODY), ())
    script = Script({effects.Inspect: verdict, effects.ReadBody: coded})
    script.run(exchange(context(policy), head(extra=extra)))
    request = script.of(effects.Forward)[0].request
    assert b"<PERSON_aaaaaaaa>" in request.body
    names = {name.lower() for name, _ in request.head.headers}
    assert names.isdisjoint({b"content-encoding", b"content-md5"})
    assert request.head.first(b"accept-encoding") == b"identity"
    assert orjson.loads(script.relayed)["choices"][0]["message"]["content"] == 'hello Ann "A" Lee'
    # The cache keeps the answer as the upstream gave it.
    assert script.of(effects.CachePut)[0].answer.body == kit.CHAT_ANSWER


def test_cache_hit(policy: Snapshot) -> None:
    verdict = Inspection("allow", restore={"<PERSON_aaaaaaaa>": "Ann"})
    script = Script({effects.CacheGet: kit.cached(), effects.Inspect: verdict}).run(exchange(context(policy), head()))
    assert script.names == ["ReadBody", "Inspect", "CacheGet", "Meter", "Reply", "Emit"]
    assert script.reply.head.first(b"x-cache") == b"hit"
    assert script.reply.head.first(b"age") == b"10"
    assert b"hello Ann" in script.reply.body
    assert (script.record["cost_usd_nanos"], script.record["saved_usd_nanos"]) == (0, 8)


def test_no_store_is_honoured(policy: Snapshot) -> None:
    script = Script().run(exchange(context(policy), head(extra=((b"Cache-Control", b"no-store"),))))
    assert "CacheGet" not in script.names
    assert "CachePut" not in script.names


@pytest.mark.parametrize(
    ("request_head", "code"),
    [
        (head(host="evil.test"), "host_denied"),
        (head("GET"), "method_denied"),
        (head(target="/v1/files"), "path_denied"),
        (head(target="/v1/../v1/chat/completions"), "malformed"),
        (head("GET", "/x", "files.example.com", ((b"Host", b"evil.test"),)), "target_mismatch"),
    ],
)
def test_denied_by_head(policy: Snapshot, request_head: object, code: str) -> None:
    script = Script().run(exchange(context(policy), request_head))  # type: ignore[arg-type]
    assert script.names == ["Reply", "Emit"]
    assert script.record["code"] == code


def test_denied_by_inspection(policy: Snapshot) -> None:
    verdict = Inspection("block", code="pii", detail="CREDIT_CARD in body", where="apps/shop.yaml:9:5")
    script = Script({effects.Inspect: verdict}).run(exchange(context(policy), head()))
    assert script.names == ["ReadBody", "Inspect", "Reply", "Emit"]
    problem = orjson.loads(script.reply.body)
    assert problem["error"]["code"] == "pii"
    assert "apps/shop.yaml:9:5" in problem["error"]["message"]
    assert script.record["outcome"] == "denied"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"model":"gpt-5","messages":[]}', "model_denied"),
        (b'{"messages":[]}', "malformed"),
        (b"[1", "malformed"),
        (b'{"model":"gpt-4o-mini","max_tokens":1000000,"messages":[]}', "too_large"),
    ],
)
def test_denied_by_call(policy: Snapshot, body: bytes, code: str) -> None:
    script = Script({effects.ReadBody: (body, ())}).run(exchange(context(policy), head()))
    assert "Forward" not in script.names
    assert script.record["code"] == code


def test_unpriced_model(tmp_path: Path) -> None:
    text = kit.APP.replace("models: [gpt-4o-mini]", "models: [acme-1]")
    body = kit.CHAT_BODY.replace(b"gpt-4o-mini", b"acme-1")
    script = Script({effects.ReadBody: (body, ())})
    script.run(exchange(context(kit.snapshot(tmp_path, text)), head()))
    assert script.record["code"] == "unpriced"
    assert "Forward" not in script.names
    allowed = Script({effects.ReadBody: (body, ())})
    allowed.run(exchange(context(kit.snapshot(tmp_path, text.replace("unpriced: deny", "unpriced: allow"))), head()))
    assert "Forward" in allowed.names
    # Held at what the dearest model of its provider could cost, although nothing will be charged.
    (held,) = allowed.of(effects.Reserve)
    assert held.usd_nanos == 1000 * (-(-len(body) // 2) + 100)


def test_error_answer_releases_the_reservation(policy: Snapshot) -> None:
    failed = ResponseHead(500, "Oops", ((b"Content-Type", b"application/json"),))
    script = Script({effects.Forward: failed, effects.Relay: b"{}"}).run(exchange(context(policy), head()))
    assert [settle.usd_nanos for settle in script.of(effects.Settle)] == [0]
    assert "CachePut" not in script.names
    assert script.record["status"] == 500


@pytest.mark.parametrize("sent", [True, False])
def test_a_call_that_was_sent_and_not_answered_is_settled_as_estimated(policy: Snapshot, sent: bool) -> None:
    script = Script(fail_at=4, error=lambda: Denied("upstream_unreachable", sent=sent))
    script.run(exchange(context(policy), head()))
    assert script.names[4] == "Forward"
    (settled,) = script.of(effects.Settle)
    assert (settled.usd_nanos > 0, settled.estimated) == (sent, sent)
    assert script.record["code"] == "upstream_unreachable"


@pytest.mark.parametrize("code", ["upstream_timeout", "upstream_unreachable", "upstream_tls", "ip_denied"])
def test_a_call_that_never_left_costs_nothing(policy: Snapshot, code: str) -> None:
    """No connection came about: an upstream that cannot be dialled in time has billed nobody."""
    script = Script(fail_at=4, error=lambda: Denied(code)).run(exchange(context(policy), head()))
    assert [(one.usd_nanos, one.estimated) for one in script.of(effects.Settle)] == [(0, False)]
    assert "Meter" not in script.names


def test_an_error_of_ours_after_sending_costs_what_was_reserved(policy: Snapshot) -> None:
    """Nobody knows any more how much of the call arrived: it is charged in full and marked as estimated."""
    names = Script().run(exchange(context(policy), head())).names
    script = Script(fail_at=names.index("Forward"), error=lambda: KeyError("words"))
    script.run(exchange(context(policy), head()))
    (reserved,) = script.of(effects.Reserve)
    (settled,) = script.of(effects.Settle)
    assert (settled.usd_nanos, settled.estimated, settled.metered) == (reserved.usd_nanos, True, False)
    record = script.record
    assert record["code"] == "internal"
    assert (record["cost_usd_nanos"], record["price_source"], record["estimated"]) == (
        reserved.usd_nanos,
        "reserved",
        True,
    )


@pytest.mark.parametrize("at", ["ReadBody", "Inspect", "CacheGet"])
def test_an_error_of_ours_before_sending_costs_nothing(policy: Snapshot, at: str) -> None:
    names = Script().run(exchange(context(policy), head())).names
    script = Script(fail_at=names.index(at), error=lambda: KeyError("words"))
    script.run(exchange(context(policy), head()))
    assert script.of(effects.Settle) == []
    assert "cost_usd_nanos" not in script.record


def test_each_answer_that_is_asked_for_is_reserved(policy: Snapshot) -> None:
    def reserved(choices: int) -> tuple[int, int]:
        body = b'{"model":"gpt-4o-mini","max_tokens":50,"n":%d,"messages":[]}' % choices
        script = Script({effects.ReadBody: (body, ())}).run(exchange(context(policy), head()))
        return len(body), script.of(effects.Reserve)[0].usd_nanos

    (short, one), (long, many) = reserved(1), reserved(9)
    assert short == long
    assert many - one == 8 * 50


def test_identity_never_travels(policy: Snapshot) -> None:
    extra = (
        (b"Proxy-Authorization", b"Basic secret"), (b"Proxy-Connection", b"keep-alive"), (b"X-Forwarded-For", b"1"),
        (b"X-App-Id", b"other"), (b"Connection", b"close, X-Mine"), (b"X-Mine", b"1"), (b"TE", b"trailers"),
        (b"X-HTTP-Method-Override", b"DELETE"), (b"Keep", b"me"),
    )  # fmt: skip
    script = Script().run(exchange(context(policy), head(extra=extra)))
    names = {name.lower() for name, _ in script.of(effects.Forward)[0].request.head.headers}
    assert b"keep" in names
    assert names.isdisjoint(name.lower() for name, _ in extra[:-1])


def test_unasked_101(policy: Snapshot) -> None:
    script = Script({effects.Forward: ResponseHead(101, "", ())}).run(exchange(context(policy), head()))
    assert "Relay" not in script.names
    assert script.record["code"] == "upstream_malformed"


def test_answer_inspection(tmp_path: Path) -> None:
    policy = kit.snapshot(
        tmp_path,
        kit.APP.replace("otherwise: redact", "otherwise: redact, response: {entities: [SECRET], action: block}"),
    )
    verdicts = iter([Inspection("allow"), Inspection("block", code="pii", detail="SECRET in body")])
    script = Script({effects.Inspect: lambda _effect: next(verdicts)}).run(exchange(context(policy), head()))
    assert [effect.job.direction for effect in script.of(effects.Inspect)] == ["request", "response"]
    assert script.reply.head.status == 502
    assert script.record["code"] == "response_blocked"
    assert "CachePut" not in script.names
    clean = Script().run(exchange(context(policy), head()))
    assert clean.reply.body == kit.CHAT_ANSWER


MAIL = b"jane.roe@example-corp.com"
ANSWERS = {
    "json": (b"application/json", kit.CHAT_ANSWER.replace(b"hello", b"hello " + MAIL)),
    "events": (
        b"text/event-stream",
        b"".join(
            b'data: {"model":"gpt-4o-mini","choices":[{"index":0,"delta":' + delta + b"}]}\n\n"
            for delta in (
                b'{"content":"hello <PERSON_aaaaaaaa> "}',
                b'{"content":"jane.ro"}',
                b'{"content":"e@example-cor"}',
            )
        )
        + b": jane.roe@example-corp.com\n\n"
        + b'data: {"choices":[{"index":0,"delta":{"content":"p.com"},"finish_reason":"stop"}]}\n\n'
        + b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}\n\n'
        + b"data: [DONE]\n\n",
    ),
}


@pytest.mark.parametrize("action", ["redact", "mask"])
@pytest.mark.parametrize("coding", [b"", b"gzip"])
@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_comes_back_without_what_may_not(tmp_path: Path, kind: str, coding: bytes, action: str) -> None:
    rule = f"otherwise: redact, response: {{entities: [EMAIL_ADDRESS], action: {action}}}"
    policy = kit.snapshot(tmp_path, kit.APP.replace("otherwise: redact", rule).replace("1KiB", "4KiB"))
    media_type, body = ANSWERS[kind]
    fields = ((b"Content-Type", media_type), (b"ETag", b'"x"'), (b"Content-MD5", b"x"))
    answer = ResponseHead(200, "OK", (*fields, (b"Content-Encoding", coding)) if coding else fields)

    def verdict(effect: effects.Inspect) -> Inspection:
        if effect.job.direction == "request":
            return Inspection("allow", restore={"<PERSON_aaaaaaaa>": "Ann"})
        return inspect(effect.job, RegexDetector(), now_s=0.0)

    script = Script(
        {
            effects.Inspect: verdict,
            effects.Forward: answer,
            effects.Collect: gzip.compress(body) if coding else body,
        }
    ).run(exchange(context(policy), head()))
    given = script.reply
    assert MAIL not in given.body
    assert b"hello" in given.body
    assert b"Ann" in given.body
    assert (b"<EMAIL_ADDRESS>" in given.body) == (action == "redact")
    assert {name.lower() for name, _ in given.head.headers}.isdisjoint({b"content-encoding", b"etag", b"content-md5"})
    text = given.body if kind == "json" else b"".join(_data(given.body))
    assert b"example-corp" not in text.replace(b"\\", b"")
    assert script.record["answer_findings"] == {f"EMAIL_ADDRESS:{action}": 1}
    assert script.record["answer_transformed"] is True
    assert script.of(effects.Settle)[0].usd_nanos == 8
    (kept,) = script.of(effects.CachePut)
    assert MAIL not in kept.answer.body


def _data(stream: bytes) -> list[bytes]:
    """All texts of a stream's deltas; fails when an event is no JSON."""
    events = [event.removeprefix(b"data: ") for event in stream.split(b"\n\n") if event]
    assert events.pop() == b"[DONE]"
    choices = [choice for event in events for choice in orjson.loads(event)["choices"]]
    return [choice["delta"].get("content", "").encode() for choice in choices]


def test_a_clean_stream_comes_back_as_it_was(tmp_path: Path) -> None:
    rule = "otherwise: redact, response: {entities: [IBAN_CODE], action: redact}"
    policy = kit.snapshot(tmp_path, kit.APP.replace("otherwise: redact", rule).replace("1KiB", "4KiB"))
    media_type, body = ANSWERS["events"]
    head_of_answer = ResponseHead(200, "OK", ((b"Content-Type", media_type),))
    script = Script({effects.Forward: head_of_answer, effects.Collect: body})
    script.run(exchange(context(policy), head()))
    assert script.reply.body == body.replace(b": jane.roe@example-corp.com\n\n", b"").replace(
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}\n\n', b""
    )


def test_websocket(policy: Snapshot) -> None:
    extra = ((b"Sec-WebSocket-Key", b"k"), (b"Sec-WebSocket-Version", b"13"), (b"Sec-WebSocket-Extensions", b"p"))
    request = replace(head("GET", "/ws", "files.example.com", extra), protocol="websocket")
    accepted = ResponseHead(101, "Switching Protocols", ((b"Upgrade", b"websocket"),))
    script = Script({effects.Forward: accepted}).run(exchange(context(policy), request))
    assert script.names == ["Inspect", "Forward", "Emit", "Upgrade", "Emit"]
    sent = script.of(effects.Forward)[0].request.head
    assert sent.first(b"upgrade") == b"websocket"
    assert sent.first(b"sec-websocket-key") == b"k"
    assert sent.first(b"sec-websocket-extensions") is None
    assert [emit.record.kind for emit in script.of(effects.Emit)] == ["open", "terminal"]
    assert script.record["sent_bytes"] == 10


def test_a_kill_stands_in_no_file(policy: Snapshot) -> None:
    """The record of a kill names its rule and no place, also where an earlier ruling had one."""
    stopped = context(policy)
    rule_connection(stopped, "connect", head().authority)
    stopped.kills = {"shop": {"reason": "incident 7"}}
    script = Script().run(exchange(stopped, head()))
    assert (script.record["code"], script.record["rule_id"]) == ("killed", "kill_switch")
    assert "rule_at" not in script.record
    (emit,) = script.of(effects.Emit)
    assert b"rule_at" not in body_json(emit.record, writer="w0", seq=1, prev="0")


@pytest.mark.parametrize("detail", ["", "The queue is full"])
def test_a_denial_says_nothing_twice(detail: str) -> None:
    denied = Denied("overloaded", detail)
    said = denials.sentence(denied, "x-1")
    assert said.count(denied.reason.title) == 1
    assert said.startswith(f"Egress proxy: {denied.reason.title}. ")
    assert detail in said


WEBSOCKET = (
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Protocol", b"chat, 123-45-6789"),
    (b"Sec-WebSocket-Note", b"Ann Lee"),
)


def test_a_handshake_leaves_as_it_was_inspected_or_not_at_all(policy: Snapshot) -> None:
    request = replace(head("GET", "/ws", "files.example.com", WEBSOCKET), protocol="websocket")
    accepted = {effects.Forward: ResponseHead(101, "Switching Protocols", ())}
    passed = Script(accepted).run(exchange(context(policy), request)).of(effects.Forward)[0].request.head
    assert passed.first(b"sec-websocket-protocol") == b"chat, 123-45-6789"
    assert passed.first(b"sec-websocket-note") is None
    redacted = tuple((name, value.replace(b"123-45-6789", b"<US_SSN>")) for name, value in request.headers)
    verdict = Inspection("transform", headers=redacted)
    script = Script({**accepted, effects.Inspect: verdict}).run(exchange(context(policy), request))
    assert script.names == ["Inspect", "Reply", "Emit"]
    assert script.record["code"] == "pii"


def test_no_field_but_the_entrys_credentials_goes_uninspected(policy: Snapshot) -> None:
    script = Script().run(exchange(context(policy), head(extra=((b"Sec-WebSocket-Key", b"SSN 123-45-6789"),))))
    job = script.of(effects.Inspect)[0].job
    assert job.skip_headers == {"authorization", "proxy-authorization"}
    assert inspect(job, RegexDetector(), now_s=0).action != "allow"


def test_what_an_addon_makes_of_a_request_is_known_for_the_call_it_is(policy: Snapshot) -> None:
    rewritten = (head(), kit.CHAT_BODY.replace(b"gpt-4o-mini", b"gpt-5"))
    started = context(policy)
    started.offers = True
    script = Script({effects.Offer: rewritten}).run(exchange(started, head("PUT", "/x", "files.example.com")))
    assert script.record["code"] == "model_denied"


def test_a_refused_answer_is_paid_for(tmp_path: Path) -> None:
    policy = kit.snapshot(
        tmp_path,
        kit.APP.replace("otherwise: redact}", "otherwise: redact, response: {entities: [PERSON], action: block}}"),
    )
    verdicts = iter((Inspection("allow"), Inspection("block", code="response_blocked", detail="PERSON in body")))
    answers = {effects.Inspect: lambda _: next(verdicts), effects.Collect: kit.CHAT_ANSWER}
    script = Script(answers).run(exchange(context(policy), head()))
    assert script.record["code"] == "response_blocked"
    assert script.of(effects.Settle)[0].usd_nanos == 8
    assert script.record["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize(
    "name",
    ["OpenAI-Organization", "X-Portkey-Config", "Cookie", "Accept-Language", "Range", "X-Any", "Accept", "Prefer"],
)
def test_a_field_that_may_choose_the_answer_makes_another_cache_entry(policy: Snapshot, name: str) -> None:
    keys = {_key(policy), _key(policy, (name.encode(), b"a")), _key(policy, (name.encode(), b"b"))}
    assert len(keys) == 3


@pytest.mark.parametrize(
    "name",
    [
        "X-Request-Id",
        "traceparent",
        "X-Stainless-Retry-Count",
        "User-Agent",
        "Idempotency-Key",
        "Accept-Encoding",
        "X-Forwarded-Host",
        "X-Original-URL",
        "Connection",
        "Proxy-Authorization",
    ],
)
def test_a_field_that_says_nothing_or_does_not_travel_makes_none(policy: Snapshot, name: str) -> None:
    assert _key(policy) == _key(policy, (name.encode(), b"a"))


def _key(policy: Snapshot, *extra: tuple[bytes, bytes]) -> bytes:
    script = Script().run(exchange(context(policy), head(extra=extra)))
    return script.of(effects.CacheGet)[0].key


def test_a_body_with_a_new_cap_loses_its_digests(policy: Snapshot) -> None:
    digests = ((b"Content-Digest", b"sha-256=:x:"), (b"Repr-Digest", b"sha-256=:x:"))
    script = Script().run(exchange(context(policy), head(extra=digests)))
    sent = script.of(effects.Forward)[0].request
    assert b"max_completion_tokens" in sent.body
    assert {name.lower() for name, _ in sent.head.headers}.isdisjoint({b"content-digest", b"repr-digest"})


def test_no_trailer_says_who_calls_or_how_to_read(policy: Snapshot) -> None:
    trailers = ((b"X-Sum", b"1"), (b"Authorization", b"Bearer sk-other"))
    script = Script({effects.ReadBody: (kit.CHAT_BODY, trailers)}).run(
        exchange(context(policy), head(protocol="http1"))
    )
    assert script.names == ["ReadBody", "Reply", "Emit"]
    assert script.record["code"] == "malformed"
