"""Verdicts on whole messages: where texts are found, what changes, and what does not."""

import base64
import gzip
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bodies.limits import Limits
from proxy.config.snapshot import DlpException
from proxy.inspection import inspect
from proxy.model import Finding, InspectJob
from tests.inspection.kit import CARD, KEY, MAIL, SSN, RegexDetector, policy, rule, run

TOKENIZE = policy(otherwise="tokenize")
REDACT = policy(otherwise="redact")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(60)
PNG64 = base64.b64encode(PNG).decode()


def chat(content: object) -> bytes:
    return json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": content}]}).encode()


# --- what comes back unchanged


@given(st.recursive(st.none() | st.text(max_size=5) | st.integers(-99, 99), lambda i: st.lists(i, max_size=3)))
def test_a_clean_body_comes_back_as_none(value: object) -> None:
    verdict = run(json.dumps(value).encode(), dlp=REDACT)
    assert (verdict.action, verdict.body, verdict.headers, verdict.target) == ("allow", None, None, None)
    assert verdict.inspected == "full"
    assert verdict.restore == {}


@pytest.mark.parametrize("encode", [gzip.compress, bytes])
def test_a_clean_coded_body_stays_coded(encode) -> None:
    coded = [("Content-Encoding", "gzip")] if encode is gzip.compress else []
    verdict = run(encode(chat("hello")), headers=coded)
    assert (verdict.action, verdict.body) == ("allow", None)


# --- only the span changes


ODD = (
    '{ "z":1e400,"a":12345678901234567890123456 ,"n":-0,"f":1.0,"l":"\\ud800x","dup":1,"dup":"%s","e":"\\u00e9é",\r\n'
    '\t"t":[true,null , {}]}'
)


@pytest.mark.parametrize(("found", "entity"), [(SSN, "US_SSN"), (CARD, "CREDIT_CARD"), (MAIL, "EMAIL_ADDRESS")])
def test_fidelity(found: str, entity: str) -> None:
    verdict = run((ODD % f"my {found} ok").encode(), dlp=REDACT)
    assert verdict.action == "transform"
    assert verdict.body == (ODD % f"my <{entity}> ok").encode()


def test_escaped_text_is_changed_in_place() -> None:
    hidden = "".join(f"\\u{ord(c):04x}" for c in SSN)
    verdict = run(f'{{"a":"x\\n{hidden}\\u0020\\u00e9"}}'.encode(), dlp=REDACT)
    assert verdict.body == b'{"a":"x\\n<US_SSN>\\u0020\\u00e9"}'


@pytest.mark.parametrize("depth", range(1, 6))
@given(before=st.text(max_size=6), after=st.text(max_size=6))
def test_json_in_json_keeps_its_escapes(depth: int, before: str, after: str) -> None:
    text = f"{before} {SSN} {after}"
    expected = f"{before} <US_SSN> {after}"
    for level in range(depth):
        text, expected = (json.dumps({"k": t}, ensure_ascii=bool(level % 2)) for t in (text, expected))
    verdict = run(json.dumps({"arguments": text}).encode(), dlp=REDACT)
    assert verdict.body == json.dumps({"arguments": expected}).encode()


def test_a_card_as_a_number_becomes_a_string() -> None:
    verdict = run(b'{"card": 4111111111111111, "n": 4.111111111111111e15}', dlp=REDACT)
    assert verdict.body == b'{"card": "<CREDIT_CARD>", "n": "<CREDIT_CARD>"}'


def test_the_key_is_context_for_a_bare_number() -> None:
    verdict = run(b'{"ssn": 536228176, "order": 536228177, "SSN": "x", "my_ssn": "536228178"}', dlp=REDACT)
    assert verdict.body == b'{"ssn": "<US_SSN>", "order": 536228177, "SSN": "x", "my_ssn": "<US_SSN>"}'
    assert [(f.start, f.end) for f in verdict.findings] == [(0, 9), (0, 9)]


@pytest.mark.parametrize(
    "key", ["password", "db-password", "clientSecret", "api_key", "AWS_SECRET_ACCESS_KEY", "accessToken"]
)
def test_the_key_is_context_for_a_secret(key: str) -> None:
    detector = RegexDetector()
    run(json.dumps({"a": {key: "Tr0ub4dor"}}).encode(), dlp=REDACT, detector=detector)
    spoken = key.replace("_", " ").replace("-", " ")
    assert f"{spoken}: Tr0ub4dor" in detector.texts


def test_the_name_of_a_field_is_context_too() -> None:
    detector = RegexDetector()
    form = "application/x-www-form-urlencoded"
    verdict = run(b"db_password=Tr0ub4dor&note=Tr0ub4dor&ssn=536228176&n=%35", form, dlp=REDACT, detector=detector)
    assert {"db password: Tr0ub4dor", "Tr0ub4dor", "ssn: 536228176"} <= set(detector.texts)
    assert verdict.body == b"db_password=Tr0ub4dor&note=Tr0ub4dor&ssn=%3CUS_SSN%3E&n=%35"
    run(b"", None, target="/x?api_key=Tr0ub4dor", dlp=REDACT, detector=detector)
    assert "api key: Tr0ub4dor" in detector.texts


@pytest.mark.parametrize("name", ["X-Api-Key", "api-key", "Private-Token", "X-Auth-Token", "X-Amz-Security-Token"])
def test_the_name_of_a_header_is_context_for_a_secret(name: str) -> None:
    detector = RegexDetector()
    run(b"", None, headers=((name, "Tr0ub4dor"),), dlp=REDACT, detector=detector)
    assert f"{name.replace('-', ' ')}: Tr0ub4dor" in detector.texts


@pytest.mark.parametrize("name", ["Idempotency-Key", "X-Request-Id", "Traceparent", "X-Compass", "X-CSRF-Token"])
def test_other_headers_are_no_context(name: str) -> None:
    detector = RegexDetector()
    run(b"", None, headers=((name, "Tr0ub4dor"),), dlp=REDACT, detector=detector)
    assert "Tr0ub4dor" in detector.texts


@pytest.mark.parametrize("key", ["next_page_token", "max_tokens", "key", "idempotency_key", "bypass", "compass"])
def test_other_keys_are_no_context_for_a_word(key: str) -> None:
    detector = RegexDetector()
    run(json.dumps({key: "Tr0ub4dor"}).encode(), dlp=REDACT, detector=detector)
    assert "Tr0ub4dor" in detector.texts


def test_keys_are_changed_too() -> None:
    verdict = run(json.dumps({MAIL: {"a": 1}}).encode(), dlp=REDACT)
    assert verdict.body == b'{"<EMAIL_ADDRESS>": {"a": 1}}'


def test_a_vector_is_one_text_and_one_number_of_it_can_change() -> None:
    vector = [0.25] * 50
    detector = RegexDetector()
    body = json.dumps({"v": [*vector, 4111111111111111, *vector]}).encode()
    verdict = run(body, dlp=REDACT, detector=detector)
    assert verdict.body == body.replace(b"4111111111111111", b'"<CREDIT_CARD>"')
    assert len(detector.texts) < 5


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_other_charsets_are_changed_in_their_own_bytes(codec: str) -> None:
    text = json.dumps({"model": "gpt-4o-mini", "content": f"Grüße 😀 {SSN} ok"}, ensure_ascii=False)
    label = "application/json" + (f"; charset={codec}" if codec in ("utf-16", "utf-32") else "")
    verdict = run(text.encode(codec), label, dlp=REDACT)
    assert verdict.body is not None
    assert verdict.body == text.replace(SSN, "<US_SSN>").encode(codec)


def test_a_coded_body_comes_back_uncoded() -> None:
    verdict = run(gzip.compress(chat(f"my {SSN}")), headers=[("Content-Encoding", "gzip")], dlp=REDACT)
    assert verdict.body == chat("my <US_SSN>")


def test_form_values_are_encoded_again() -> None:
    verdict = run(f"a=1&note=my+{quote(MAIL)}&b=%41".encode(), "application/x-www-form-urlencoded", dlp=REDACT)
    assert verdict.body == b"a=1&note=my+%3CEMAIL_ADDRESS%3E&b=%41"


def test_json_in_a_form_field() -> None:
    inner = quote(json.dumps({"text": f"hi {SSN}"}))
    verdict = run(f"payload={inner}".encode(), "application/x-www-form-urlencoded", dlp=REDACT)
    assert verdict.body == f"payload={inner.replace(SSN, '%3CUS_SSN%3E')}".encode()


def test_a_form_label_on_json_is_seen_through() -> None:
    verdict = run(chat(SSN), "application/x-www-form-urlencoded", dlp=REDACT)
    assert verdict.body == chat("<US_SSN>")


@pytest.mark.parametrize("label", ["text/plain", "text/csv", "application/xml", "application/octet-stream", "", None])
def test_text_under_any_label(label: str | None) -> None:
    verdict = run(f"name,ssn\nx,{SSN}\n".encode(), label, dlp=REDACT)
    assert verdict.body == b"name,ssn\nx,<US_SSN>\n"


def test_ndjson() -> None:
    lines = [{"a": 1}, {"ssn": SSN}, {"b": [2]}]
    body = "\n".join(json.dumps(line) for line in lines).encode() + b"\n"
    detector = RegexDetector()
    verdict = run(body, "application/x-ndjson", dlp=REDACT, detector=detector)
    assert verdict.body == body.replace(SSN.encode(), b"<US_SSN>")
    assert body.decode() not in detector.texts


@pytest.mark.parametrize(
    "body",
    [
        f'{{"a":"x"}} trailing {SSN}',
        f'{{"a":"x", // {SSN}\n "b":1}}',
        f"{{'a': '{SSN}'}}",
        f'{{"a":"unterminated {SSN}',
        f'["x" "{SSN}"]',
        f"{SSN}",
    ],
)
def test_what_is_no_json_is_looked_at_as_it_stands(body: str) -> None:
    assert run(body.encode(), dlp=REDACT).body == body.replace(SSN, "<US_SSN>").encode()


# --- actions


def test_tokenize_gives_a_restore_map() -> None:
    verdict = run(chat(f"{MAIL} and {MAIL.upper()} and {CARD}"), dlp=TOKENIZE)
    assert verdict.body is not None
    assert sorted(verdict.restore.values()) == sorted([MAIL, CARD])
    content = json.loads(verdict.body)["messages"][0]["content"]
    mail, other, card = content.split(" and ")
    assert mail == other
    assert verdict.restore == {mail: MAIL, card: CARD}


def test_placeholders_are_the_same_in_every_turn_and_survive_the_next_one() -> None:
    first = run(chat(f"mail {MAIL}"), dlp=TOKENIZE)
    again = run(chat(f"now {MAIL} please"), dlp=TOKENIZE)
    assert first.restore == again.restore
    assert first.body is not None
    assert run(first.body, dlp=TOKENIZE).action == "allow"


def test_mask() -> None:
    assert run(chat(f"pay {CARD}"), dlp=policy(otherwise="mask")).body == chat("pay **** **** **** 1111")


def test_block_names_what_and_where_but_never_the_value() -> None:
    dlp = policy(rule("block", "US_SSN", at="a.yaml:7:5"), otherwise="redact")
    verdict = run(chat(f"{SSN} {MAIL}"), dlp=dlp)
    assert (verdict.action, verdict.code, verdict.where) == ("block", "pii", "a.yaml:7:5")
    assert verdict.detail == "US_SSN in body $.messages[0].content"
    assert verdict.body is None
    assert SSN not in repr(verdict)
    assert [(f.entity, f.action, f.location) for f in verdict.findings] == [
        ("US_SSN", "block", "body $.messages[0].content"),
        ("EMAIL_ADDRESS", "redact", "body $.messages[0].content"),
    ]


@pytest.mark.parametrize("key", [MAIL, SSN, "4111111111111111", "a b", "x" * 60])
def test_names_that_could_be_data_are_not_repeated(key: str) -> None:
    verdict = run(json.dumps({key: SSN}).encode(), dlp=policy())
    assert key not in verdict.detail
    assert not any(key in f.location for f in verdict.findings)
    assert "body $.*" in verdict.detail


def test_allow_is_recorded() -> None:
    verdict = run(chat(MAIL), dlp=policy(otherwise="allow"))
    assert verdict.action == "allow"
    assert [(f.entity, f.action) for f in verdict.findings] == [("EMAIL_ADDRESS", "allow")]


def test_a_rule_on_trial() -> None:
    verdict = run(chat(MAIL), dlp=policy(rule("block", "EMAIL_ADDRESS", mode="report")))
    assert (verdict.action, verdict.body, verdict.would_block) == ("allow", None, "pii")
    assert [(f.action, f.mode) for f in verdict.findings] == [("block", "report")]


@pytest.mark.parametrize(("otherwise", "would"), [("block", "pii"), ("redact", None), ("tokenize", None)])
def test_an_app_in_report_mode_changes_nothing(otherwise, would) -> None:
    verdict = run(chat(f"{MAIL}"), dlp=policy(otherwise=otherwise, mode="report"))
    assert (verdict.action, verdict.body, verdict.restore, verdict.would_block) == ("allow", None, {}, would)
    assert [(f.action, f.mode) for f in verdict.findings] == [(otherwise, "report")]


def test_limits_and_codings_bite_in_report_mode_too() -> None:
    report = policy(mode="report")
    assert run(b"[" * 200, dlp=report).code == "too_large"
    assert run(b"{}", dlp=report, headers=[("Content-Encoding", "x-foo")]).code == "encoding"


def test_exceptions() -> None:
    mailbox = DlpException("EMAIL_ADDRESS", frozenset({MAIL}), None, 100.0)
    assert run(chat(MAIL), dlp=policy(exceptions=(mailbox,))).action == "allow"
    assert run(chat(MAIL), dlp=policy(exceptions=(mailbox,)), now_s=100.0).action == "block"
    assert run(chat(f"{MAIL} {SSN}"), dlp=policy(exceptions=(mailbox,))).detail.startswith("US_SSN in")


def test_path_exceptions_count_from_the_body_only() -> None:
    path = DlpException(json_path="$.id")
    dlp = policy(exceptions=(path,))
    assert run(json.dumps({"id": SSN}).encode(), dlp=dlp).action == "allow"
    assert run(b'{"id": 4111111111111111}', dlp=dlp).action == "allow"
    assert run(json.dumps({"x": SSN}).encode(), dlp=dlp).action == "block"
    assert run(json.dumps({"args": json.dumps({"id": SSN})}).encode(), dlp=dlp).action == "block"
    assert run(json.dumps({"id": {"x": SSN}}).encode(), dlp=dlp).action == "block"


# --- outside the body


@pytest.mark.parametrize(
    "target",
    [f"/x/{SSN}", f"/x?{SSN}=1", f"/x?{SSN}", "/x/" + quote(quote(MAIL, safe=""), safe=""), "/" + quote(CARD)],
)
def test_a_place_that_cannot_be_rewritten_refuses(target: str) -> None:
    verdict = run(b"", None, target=target, method="GET", dlp=TOKENIZE)
    assert (verdict.action, verdict.code) == ("block", "pii")
    assert "cannot be rewritten" in verdict.detail
    assert SSN not in verdict.detail


def coded(text: str, times: int) -> str:
    for _ in range(times):
        text = quote(text, safe="")
    return text


@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_query_values_are_rewritten(times: int) -> None:
    verdict = run(b"", None, target=f"/x?a=1&q=my+{coded(MAIL, times)}&z=%41", dlp=REDACT)
    assert verdict.target == "/x?a=1&q=my+%3CEMAIL_ADDRESS%3E&z=%41"
    assert (verdict.body, verdict.headers) == (None, None)


@pytest.mark.parametrize("name", ["X-Note", "Cookie", "Referer", "X-Custom"])
def test_header_values_are_rewritten(name: str) -> None:
    verdict = run(b"", None, headers=[("X-First", "1"), (name, f"a=Grüße {SSN}; b=2")], dlp=REDACT)
    assert verdict.headers == ((b"X-First", b"1"), (name.encode(), "a=Grüße <US_SSN>; b=2".encode()))
    assert verdict.findings[0].location == f"header {name}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Type", f"text/plain; note={SSN}"),
        ("Authorization", "Basic " + base64.b64encode(f"{MAIL}:pw".encode()).decode()),
        (f"X-{SSN}", "1"),
    ],
)
def test_headers_that_cannot_be_rewritten_refuse(name: str, value: str) -> None:
    verdict = run(b"", None, headers=[(name, value)], dlp=TOKENIZE)
    assert (verdict.action, verdict.code) == ("block", "pii")
    assert SSN not in verdict.detail


def test_own_credentials_are_not_looked_at() -> None:
    verdict = run(b"", None, headers=[("X-Api-Key", SSN)], skip_headers=frozenset({"x-api-key"}))
    assert (verdict.action, verdict.findings) == ("allow", ())


@pytest.mark.parametrize("trailer", [(b"X-Sum", SSN.encode()), (SSN.encode(), b"1")])
def test_trailers_refuse(trailer: tuple[bytes, bytes]) -> None:
    assert run(b"{}", dlp=REDACT, trailers=(trailer,)).code == "pii"


def test_a_lone_name_in_a_machine_written_place_is_no_person() -> None:
    quiet = {"target": "/v1/jane?jane=jane", "headers": [("X-Tool", "jane")]}
    assert run(b'{"jane": 1, "tool": "jane-3"}', dlp=policy(), **quiet).action == "allow"
    assert run(b'{"name": "jane"}', dlp=policy()).action == "block"
    assert run(chat("Jane"), dlp=policy()).action == "block"
    assert run(b"{}", dlp=policy(), headers=[("X-User", "Jane Roe")]).action == "block"


# --- files


def image(url: str) -> bytes:
    return chat([{"type": "text", "text": f"classify for {SSN}"}, {"type": "image_url", "image_url": {"url": url}}])


def test_an_image_passes_where_policy_says_so_and_is_named() -> None:
    dlp = policy(otherwise="redact", uninspectable={"image": "allow"})
    verdict = run(image(f"data:image/png;base64,{PNG64}"), dlp=dlp)
    assert verdict.action == "transform"
    assert verdict.inspected == "none:image"
    assert verdict.body is not None
    assert PNG64.encode() in verdict.body
    assert SSN.encode() not in verdict.body


def test_an_image_is_refused_where_policy_is_silent() -> None:
    verdict = run(chat([{"image_url": {"url": f"data:image/png;base64,{PNG64}"}}]))
    assert (verdict.action, verdict.code) == ("block", "uninspectable")
    assert verdict.detail == "image in body $.messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    ("body", "label", "kind"),
    [
        (PNG, "image/png", "image"),
        (PNG, "application/json", "image"),
        (b"%PDF-1.7\n" + bytes(9), "application/pdf", "pdf"),
        (b"PK\x03\x04\x14\0\0\0" + bytes(30), "application/zip", "zip"),
        (b"PK\x03\x04\x14\0\x01\0" + bytes(30), "application/zip", "encrypted"),
        (b"\x80\x04\x95\x01\0\0\0\0\0\0", "application/octet-stream", "unknown"),
        (
            json.dumps({"file": base64.b64encode(bytes(range(256)) * 2).decode()}).encode(),
            "application/json",
            "unknown",
        ),
    ],
)
def test_kinds_follow_policy(body: bytes, label: str, kind: str) -> None:
    verdict = run(body, label)
    assert (verdict.action, verdict.code) == ("block", "uninspectable")
    listed = "unknown" if kind == "zip" else kind
    verdict = run(body, label, dlp=policy(uninspectable={listed: "allow"}))
    assert (verdict.action, verdict.inspected) == ("allow", f"none:{kind}")
    verdict = run(body, label, dlp=policy(mode="report"))
    assert (verdict.action, verdict.would_block) == ("allow", "uninspectable")


def test_a_text_that_calls_itself_an_image_is_a_text() -> None:
    dlp = policy(uninspectable={"image": "allow"})
    hidden = base64.b64encode(f"my number is {SSN}, keep it secret".encode()).decode()
    assert run(SSN.encode(), "image/png", dlp=dlp).code == "pii"
    assert run(image(f"data:image/png;base64,{hidden}"), dlp=dlp).code == "pii"


def test_a_file_within_a_text_follows_policy() -> None:
    url = f"data:image/png;base64,{base64.b64encode(PNG * 5).decode()}"
    assert run(chat(f"see ![logo]({url}) ok")).code == "uninspectable"
    assert run(f"see {url} ok".encode(), "text/plain").code == "uninspectable"
    assert run(b"", None, headers=[("Cookie", f"session={url[22:]}")]).action == "allow"


def test_a_form_that_looks_like_json_is_a_form() -> None:
    body = b"{x=4111+1111+1111+1111"
    assert run(body, "application/x-www-form-urlencoded", dlp=REDACT).body == b"{x=%3CCREDIT_CARD%3E"


def test_an_encoded_run_is_redacted_whole() -> None:
    hidden = base64.b64encode(f"my number is {SSN}, keep it secret".encode()).decode()
    verdict = run(chat(f"see {hidden} ok"), dlp=TOKENIZE)
    assert verdict.body == chat("see <US_SSN> ok")
    assert verdict.restore == {}


def test_model_tokens_are_opaque() -> None:
    for body in ({"input": [1, 2, 3]}, {"input": [[1, 2], [3, 4, 5]]}):
        verdict = run(json.dumps(body).encode(), target="/v1/embeddings")
        assert (verdict.code, verdict.detail[:6]) == ("uninspectable", "tokens")
    allowed = policy(uninspectable={"unknown": "allow"})
    assert run(b'{"input": [1, 2, 3]}', target="/v1/embeddings", dlp=allowed).inspected == "none:tokens"
    assert run(b'{"input": ["hello"], "dimensions": 3}', target="/v1/embeddings").inspected == "full"
    assert run(b'{"input": [1, 2, 3]}', target="/v1/other").inspected == "full"


def test_a_providers_sealed_state_goes_back_to_it() -> None:
    body = chat([{"type": "thinking", "thinking": "hm", "signature": base64.b64encode(bytes(range(256)) * 2).decode()}])
    assert run(body, provider="anthropic").action == "allow"
    assert run(body).code == "uninspectable"


def test_compressed_without_a_label() -> None:
    assert run(gzip.compress(chat(SSN)), "application/gzip", dlp=REDACT).code == "pii"
    assert run(gzip.compress(chat("hello")), "application/gzip").action == "allow"
    assert run(gzip.compress(chat("hello"))[:-3], "application/gzip").code == "uninspectable"
    nested = gzip.compress(b"x")
    for _ in range(9):
        nested = gzip.compress(nested)
    assert run(nested, "application/gzip").code == "too_large"


def multipart(head: str, content: bytes) -> bytes:
    return b"--BB\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n--BB--\r\n"


@pytest.mark.parametrize(
    ("head", "content", "expected"),
    [
        ("X: y", b"a 123-45-6789 b", b"a <US_SSN> b"),
        ("Content-Type: application/json", b'{"a":"123-45-6789\\n"}', b'{"a":"<US_SSN>\\n"}'),
        ("Content-Type: application/octet-stream", b"123-45-6789", b"<US_SSN>"),
        (
            "Content-Transfer-Encoding: base64",
            base64.b64encode(b"a 123-45-6789 b"),
            base64.b64encode(b"a <US_SSN> b"),
        ),
        ("Content-Transfer-Encoding: quoted-printable", b"a 123-=\r\n45-6789", b"a <US_SSN>"),
    ],
)
def test_multipart_parts_are_changed_in_place(head: str, content: bytes, expected: bytes) -> None:
    verdict = run(multipart(head, content), "multipart/form-data; boundary=BB", dlp=REDACT)
    assert verdict.body == multipart(head, expected)


def test_multipart_file_names_are_changed_in_place() -> None:
    head = 'Content-Disposition: form-data; name="f"; filename="%s.txt"'
    verdict = run(multipart(head % SSN, b"x"), "multipart/form-data; boundary=BB", dlp=REDACT)
    assert verdict.body == multipart(head % "<US_SSN>", b"x")


def test_multipart_files_follow_policy() -> None:
    verdict = run(multipart("Content-Type: image/png", PNG), "multipart/form-data; boundary=BB")
    assert verdict.code == "uninspectable"


# --- other directions


def test_a_websocket_message_is_only_its_text() -> None:
    job = {"direction": "message", "target": f"/{SSN}", "headers": [("Content-Encoding", "gzip"), ("X", SSN)]}
    assert run(chat(SSN), None, dlp=REDACT, **job).body == chat("<US_SSN>")
    assert run(b"hello", None, dlp=REDACT, **job).action == "allow"
    assert run(bytes(range(256)), None, dlp=REDACT, **job).code == "uninspectable"


def test_an_answer_has_rules_of_its_own() -> None:
    dlp = policy(otherwise="block", response_rules=(rule("block", "US_SSN"),))
    assert run(chat(MAIL), dlp=dlp, direction="response").action == "allow"
    assert run(chat(SSN), dlp=dlp, direction="response").code == "response_blocked"
    assert run(PNG, "image/png", dlp=dlp, direction="response").inspected == "none:image"


# --- budgets and faults


@pytest.mark.parametrize(
    ("limits", "body"),
    [
        (Limits(max_depth=5), b"[" * 6),
        (Limits(max_leaves=5), b'["a","b","c","d","e","f"]'),
        (Limits(max_text_chars=50), chat("x" * 60)),
        (Limits(max_nested=2), json.dumps({"a": json.dumps({"a": json.dumps({"a": json.dumps({"a": 1})})})}).encode()),
    ],
)
def test_past_a_budget_is_refused_and_nothing_is_cut(limits: Limits, body: bytes) -> None:
    job = InspectJob("app", policy(), "POST", "/x", ((b"Content-Type", b"application/json"),), body, KEY)
    detector = RegexDetector()
    assert inspect(job, detector, now_s=0.0, limits=limits).code == "too_large"
    assert detector.calls == 0


def test_a_failing_detector_is_never_a_pass() -> None:
    class Failing:
        def detect(self, texts, profile, entities=None):
            raise TimeoutError

    class Short:
        def detect(self, texts, profile, entities=None):
            return [[]]

    job = InspectJob("app", policy(), "POST", "/x", ((b"Content-Type", b"application/json"),), chat("hello"), KEY)
    with pytest.raises(TimeoutError):
        inspect(job, Failing(), now_s=0.0)
    with pytest.raises(RuntimeError):
        inspect(job, Short(), now_s=0.0)


def test_the_detector_is_asked_once_for_each_text_and_told_the_named_entities() -> None:
    calls: list[tuple[list[str], str, frozenset[str] | None]] = []

    class Recording:
        def detect(self, texts, profile, entities=None) -> list[list[Finding]]:
            calls.append((list(texts), profile, entities))
            return [[] for _ in texts]

    job = InspectJob("app", policy(rule("block", "X")), "POST", "/x", ((b"Content-Type", b"application/json"),),
                     b'["aa","bb","aa"]', KEY)  # fmt: skip
    inspect(job, Recording(), now_s=0.0)
    assert calls == [(["/x", "aa", "bb"], "balanced", frozenset({"X"}))]


@given(st.binary(max_size=80), st.sampled_from(["application/json", "text/plain", "multipart/form-data; boundary=BB",
       "application/x-www-form-urlencoded", "", "image/png", "application/json; charset=utf-16"]))  # fmt: skip
def test_any_bytes_get_a_verdict(body: bytes, label: str) -> None:
    verdict = run(body, label, dlp=REDACT)
    assert verdict.action in ("allow", "transform", "block")
    assert (verdict.code is not None) == (verdict.action == "block")


@given(st.lists(st.sampled_from([SSN, CARD, MAIL, "plain", "é", "\n", '"', "\\", " "]), max_size=12))
def test_exactly_what_is_found_goes(words: list[str]) -> None:
    text = " | ".join(words)
    verdict = run(chat(text), dlp=REDACT)
    expected = text.replace(SSN, "<US_SSN>").replace(CARD, "<CREDIT_CARD>").replace(MAIL, "<EMAIL_ADDRESS>")
    assert verdict.body == (None if expected == text else chat(expected))


def test_what_is_no_json_gives_each_finding_once() -> None:
    verdict = run(b'{"a": "my ssn is 123-45-6789", }')
    assert [(finding.entity, finding.location) for finding in verdict.findings] == [("US_SSN", "body $.a")]


def test_a_size_refusal_says_what_to_do() -> None:
    assert run(b"[" * 1000 + b"]" * 1000).remedy
