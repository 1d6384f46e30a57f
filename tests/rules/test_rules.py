"""Each rule by itself: a table with near-misses."""
# ruff: noqa: E501 - one row of a table, one line

import hashlib
import hmac
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import rules
from proxy.errors import REASONS
from proxy.model import Authority, RequestHead
from proxy.rules.base import STAGES, Gate, Rule, listed, printable
from proxy.rules.path import matches
from tests.config.kit import HEAD, PLATFORM
from tests.policy.kit import ask, head, outcome, policy

URL = "https://a.com/x"
ONE = "allow: [{id: x, host: a.com}]\n"


def test_rules_are_found_by_listing() -> None:
    found = rules.discover()
    assert {rule.name for rule in found} == set(rules.modules())
    assert [isinstance(rule, Gate) for rule in found] == sorted(
        (isinstance(rule, Gate) for rule in found), reverse=True
    )
    assert len({rule.order for rule in found}) == len(found)
    assert all(rule.what and rule.stages <= set(STAGES) for rule in found)


def test_a_new_rule_is_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weekday.py").write_text(
        "from proxy.rules.base import FROM_HEAD, Gate\nRULE = Gate('weekday', 45, FROM_HEAD, lambda *_: None, 'open')\n"
    )
    monkeypatch.setattr(rules, "__path__", [*rules.__path__, str(tmp_path)])
    assert "weekday" in rules.modules()
    assert rules.of_module("weekday").order == 45
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(TypeError, match=r"proxy\.rules\.empty must export RULE"):
        rules.of_module("empty")


KILLS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "allow x"),
    "this app": ({"a": {"reason": "incident 7"}}, "deny killed kill_switch"),
    "all apps": ({"*": {}}, "deny killed kill_switch"),
    "another app": ({"b": {}, "aa": {}, "A": {}}, "allow x"),
}


@pytest.mark.parametrize(("kills", "expected"), KILLS.values(), ids=KILLS)
@pytest.mark.parametrize("stage", STAGES)
def test_kill_switch(kills: dict[str, Any], expected: str, stage: Any) -> None:
    assert outcome(ask(policy(ONE), head(URL), stage, kills=kills)) == expected


def test_the_kill_says_why() -> None:
    assert "incident 7" in ask(policy(ONE), head(URL), kills={"a": {"reason": "incident 7"}}).decision.detail


EXPIRY_S = 1_798_761_600.0  # 2027-01-01


@pytest.mark.parametrize(
    ("text", "now_s", "expected"),
    [
        (HEAD + "expires: 2027-01-01\n" + ONE, EXPIRY_S - 0.001, "allow x"),
        (HEAD + "expires: 2027-01-01\n" + ONE, EXPIRY_S, "deny expired lifecycle"),
        (HEAD + "allow: [{id: x, host: a.com, expires: 2027-01-01}]\n", EXPIRY_S - 0.001, "allow x"),
        (HEAD + "allow: [{id: x, host: a.com, expires: 2027-01-01}]\n", EXPIRY_S, "deny expired expiry"),
        (HEAD + "allow: [{id: x, host: a.com, expires: 2027-01-01T02:00:00+02:00}]\n", EXPIRY_S, "deny expired expiry"),
        (HEAD + "allow: [{id: x, host: a.com, expires: 2027-01-01}, {id: y, host: a.com}]\n", EXPIRY_S, "allow y"),
    ],
)
def test_expiry_to_the_second(text: str, now_s: float, expected: str) -> None:
    assert outcome(ask(policy(text), head(URL), now_s=now_s)) == expected


SANDBOX = PLATFORM + 'sandbox: ["*.demo.test", a.com]\n'
SANDBOXED = (
    HEAD.replace("production", "sandbox")
    + 'allow: [{id: x, host: a.com}, {id: y, host: "*.demo.test"}, {id: z, host: b.com}, {id: w, host: demo.test}]\n'
)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("a.com", "allow x"),
        ("m.demo.test", "allow y"),
        ("b.com", "deny app_inactive lifecycle"),
        ("demo.test", "deny app_inactive lifecycle"),
    ],
)
def test_a_sandboxed_app_reaches_sandbox_destinations_only(host: str, expected: str) -> None:
    assert outcome(ask(policy(SANDBOXED, SANDBOX), head(f"https://{host}/"))) == expected


DENIED = PLATFORM + 'deny: [metadata.google.internal, "*.ngrok.io"]\n'


@pytest.mark.parametrize(
    ("host", "denied"),
    [
        ("metadata.google.internal", True),
        ("x.ngrok.io", True),
        ("a.b.ngrok.io", True),
        ("ngrok.io", False),
        ("xngrok.io", False),
        ("x.metadata.google.internal", False),
        ("google.internal", False),
    ],
)
def test_always_denied(host: str, denied: bool) -> None:
    text = f"allow: [{{id: x, host: {host}}}]\n"
    ruling = ask(policy(text, DENIED), head(f"https://{host}/"))
    assert outcome(ruling) == ("deny host_denied always_denied" if denied else "allow x")
    assert not denied or ruling.decision.where.startswith("platform.yaml:2:")


MISMATCH = "deny target_mismatch authority"
AUTHORITIES: dict[str, tuple[RequestHead, dict[str, Any], str]] = {
    "all the same": (head(URL), {"sni": "a.com"}, "allow x"),
    "another case": (head(URL, headers={"Host": "A.com"}), {"sni": "A.COM"}, "allow x"),
    "end dot": (head(URL, headers={"Host": "a.com."}), {"sni": "a.com"}, "allow x"),
    "own port written": (head(URL, headers={"Host": "a.com:443"}), {}, "allow x"),
    "other sni": (head(URL), {"sni": "evil.test"}, MISMATCH),
    "sni below": (head(URL), {"sni": "b.a.com"}, MISMATCH),
    "empty sni": (head(URL), {"sni": ""}, MISMATCH),
    "sni with NUL": (head(URL), {"sni": "a.com\0.evil.test"}, MISMATCH),
    "other host": (head(URL, headers={"Host": "evil.test"}), {}, MISMATCH),
    "other port": (head(URL, headers={"Host": "a.com:22"}), {}, MISMATCH),
    "empty host": (head(URL, headers={"Host": ""}), {}, MISMATCH),
    "host with user": (head(URL, headers={"Host": "a.com@evil.test"}), {}, MISMATCH),
    "host list": (head(URL, headers={"Host": "a.com, evil.test"}), {}, MISMATCH),
    "two hosts": (head(URL, headers={"host": "a.com"}), {}, MISMATCH),
    "other line": (
        head("https://b.com/x", headers={"Host": "a.com"}),
        {"authority": Authority("https", "a.com", 443)},
        MISMATCH,
    ),
    "plain http": (head("http://a.com/x"), {"authority": Authority("http", "a.com", 80)}, "deny proto_denied scheme"),
}


@pytest.mark.parametrize(("request_head", "facts", "expected"), AUTHORITIES.values(), ids=AUTHORITIES)
def test_one_authority(request_head: RequestHead, facts: dict[str, Any], expected: str) -> None:
    facts = dict(facts)
    authority = facts.pop("authority", request_head.authority)
    shown = RequestHead(request_head.method, request_head.target, request_head.authority, request_head.headers)
    from proxy.model import Principal
    from proxy.policy import Facts, rule_on
    from tests.policy.kit import NOW_S

    ruling = rule_on(
        policy(ONE),
        Facts("head", Principal("a", "token", "10.0.0.1"), "explicit", authority, NOW_S, head=shown, **facts),
    )
    assert outcome(ruling) == expected


def test_a_client_hello_without_a_name_is_refused_unless_the_host_is_an_address() -> None:
    text = "allow: [{id: x, host: a.com}, {id: y, host: 203.0.113.5, addresses: [203.0.113.5/32]}]\n"
    assert outcome(ask(policy(text), head(URL), "hello", sni=None)) == MISMATCH
    assert outcome(ask(policy(text), head("https://203.0.113.5/"), "hello", sni=None)) == "allow y"
    assert outcome(ask(policy(text), head(URL), "connect", sni=None)) == "allow x"


PROTOCOLS = [
    ("[http1]", "http1", "allow x"), ("[http1]", "websocket", "deny proto_denied protocol"), ("[http1]", "h2", "deny proto_denied protocol"),
    ("[websocket]", "websocket", "allow x"), ("[websocket]", "http1", "deny proto_denied protocol"), ("[http1, h2]", "h2", "allow x"),
]  # fmt: skip


@pytest.mark.parametrize(("protocols", "sent", "expected"), PROTOCOLS)
def test_protocol(protocols: str, sent: str, expected: str) -> None:
    text = f"allow: [{{id: x, host: a.com, protocols: {protocols}}}]\n"
    assert outcome(ask(policy(text), head(URL, protocol=sent))) == expected


def test_passthrough_carries_no_plain_request() -> None:
    text = "allow: [{id: x, host: a.com, tls: passthrough}]\n"
    assert outcome(ask(policy(text), head(URL), "hello")) == "allow x"
    assert outcome(ask(policy(text), head(URL))) == "deny proto_denied protocol"


@pytest.mark.parametrize(
    ("method", "allowed"),
    [
        ("POST", True),
        ("post", False),
        ("GET", False),
        ("POST ", False),
        ("POSTX", False),
        ("", False),
        ("PO\0ST", False),
    ],
)
def test_method(method: str, allowed: bool) -> None:
    text = "allow: [{id: x, host: a.com, methods: [POST, PUT]}]\n"
    assert outcome(ask(policy(text), head(URL, method))) == ("allow x" if allowed else "deny method_denied method")


FITS = {
    "/v1/files": (["/v1/files"], ["/v1/files/", "/v1/file", "/v1/filesx", "/v1", "/V1/files"]),
    "/v1/files/*": (["/v1/files/a", "/v1/files/a.b"], ["/v1/files", "/v1/files/", "/v1/files/a/b", "/v1/files/a/"]),
    "/*/x": (["/a/x"], ["/x", "//x", "/a/b/x", "/a/xx"]),
    "/v1/**": (["/v1/", "/v1/a", "/v1/a/b/c"], ["/v1", "/v12/a", "/"]),
    "/**": (["/", "/a", "/a/b"], []),
    "/a/**/z": (["/a/z", "/a/b/z", "/a/b/c/z", "/a/z/z"], ["/a/b", "/a", "/z", "/a/zz", "/a/z/y"]),
    "/a/**/b/*/c": (["/a/b/x/c", "/a/q/b/x/c", "/a/b/b/x/c", "/a/b/x/b/y/c"], ["/a/b/c", "/a/b/x/d", "/a/b/x/y/c"]),
    "/**/b/**": (["/b/c", "/a/b/c/d", "/b/b"], ["/b", "/a/b", "/a/c"]),
    "/": (["/"], ["", "/a"]),
}


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        (pattern, path, fits)
        for pattern, (yes, no) in FITS.items()
        for paths, fits in ((yes, True), (no, False))
        for path in paths
    ],
)
def test_path_patterns(pattern: str, path: str, fits: bool) -> None:
    assert matches(pattern, path) is fits


SEGMENT = st.sampled_from(["a", "b", "*", "**"])


@given(st.lists(SEGMENT, min_size=1, max_size=6), st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=8))
def test_path_patterns_mean_what_the_equivalent_expression_means(pattern: list[str], path: list[str]) -> None:
    parts = []
    for index, segment in enumerate(pattern):
        last = index == len(pattern) - 1
        parts.append({"*": "/[^/]+", "**": "(?:/[^/]*)+" if last else "(?:/[^/]*)*"}.get(segment, f"/{segment}"))
    expected = re.fullmatch("".join(parts), "/" + "/".join(path)) is not None
    assert matches("/" + "/".join(pattern), "/" + "/".join(path)) is expected


def test_no_pattern_makes_matching_slow() -> None:
    pattern, path = "/**/a" * 100 + "/b", "/a" * 8000
    assert matches(pattern, path) is False


TIERS = PLATFORM + "models: {gold-1: {provider: p, tier: gold}, iron-1: {provider: p, tier: iron}}\n"
MODELS = [
    ("models: [m-1]", "m-1", True), ("models: [m-1]", "m-2", False), ("models: [m-1]", "M-1", False), ("models: [m-1]", None, False),
    ("tiers: [gold]", "gold-1", True), ("tiers: [gold]", "iron-1", False), ("tiers: [gold]", "unknown", False), ("tiers: [gold]", None, False),
    ("", "anything", True), ("", None, True),
]  # fmt: skip


@pytest.mark.parametrize(("key", "model", "allowed"), MODELS)
def test_model(key: str, model: str | None, allowed: bool) -> None:
    text = f"allow: [{{id: x, host: a.com{', ' if key else ''}{key}}}]\n"
    ruling = ask(policy(text, TIERS), head(URL), "body", model=model)
    assert outcome(ruling) == ("allow x" if allowed else "deny model_denied model")
    assert allowed or "gold-1" in ruling.decision.detail or "m-1" in ruling.decision.detail


def digest(value: bytes) -> str:
    return "hmac-sha256:" + hmac.new(b"key of the test", value, hashlib.sha256).hexdigest()


PIN = f"{{headers: [authorization, x-api-key], pins: ['{digest(b'sk-own')}', '{digest(b'Bearer sk-whole')}']}}"
FREE = "{headers: [authorization, x-api-key]}"
OWN_OPENAI = "sk-proj-" + "a" * 20
KEYS = {
    "no key": (FREE, "api.openai.com", {}, True),
    "own form": (FREE, "api.openai.com", {"Authorization": f"Bearer {OWN_OPENAI}"}, True),
    "own form, any case": (FREE, "api.openai.com", {"AUTHORIZATION": f"bearer {OWN_OPENAI}"}, True),
    "another provider's": (FREE, "api.openai.com", {"Authorization": "Bearer sk-ant-api03-abc"}, False),
    "no key at all": (FREE, "api.openai.com", {"Authorization": "Bearer hello world"}, False),
    "own and another's": (FREE, "api.openai.com", {"Authorization": f"Bearer {OWN_OPENAI}", "x-api-key": "sk-ant-api03-abc"}, False),
    "anthropic": (FREE, "api.anthropic.com", {"x-api-key": "sk-ant-api03-abc"}, True),
    "openai at anthropic": (FREE, "api.anthropic.com", {"x-api-key": OWN_OPENAI}, False),
    "unknown host, unknown form": (FREE, "in.corp", {"Authorization": "Bearer abc"}, True),
    "unknown host, gateway form": (FREE, "in.corp", {"Authorization": "Bearer sk-litellm"}, True),
    "unknown host, a provider's key": (FREE, "in.corp", {"Authorization": f"Bearer {OWN_OPENAI}"}, False),
    "unknown host, a github token": (FREE, "in.corp", {"Authorization": "token ghp_abcdefghijklmnop"}, False),
    "unlisted field is the inspector's": (FREE, "in.corp", {"x-other": OWN_OPENAI}, True),
    "pinned": (PIN, "api.openai.com", {"Authorization": "Bearer sk-own"}, True),
    "pinned, bare field": (PIN, "api.openai.com", {"x-api-key": "sk-own"}, True),
    "pinned whole value": (PIN, "api.openai.com", {"Authorization": "Bearer sk-whole"}, True),
    "pinned whole value, bare": (PIN, "api.openai.com", {"x-api-key": "sk-whole"}, False),
    "another account": (PIN, "api.openai.com", {"Authorization": "Bearer sk-own2"}, False),
    "another account beside": (PIN, "api.openai.com", {"Authorization": "Bearer sk-own", "x-api-key": "sk-other"}, False),
    "empty": (PIN, "api.openai.com", {"Authorization": ""}, False),
}  # fmt: skip


@pytest.mark.parametrize(("credentials", "host", "fields", "allowed"), KEYS.values(), ids=KEYS)
def test_credentials(credentials: str, host: str, fields: dict[str, str], allowed: bool) -> None:
    text = f"allow:\n  - id: x\n    host: {host}\n    credentials: {credentials}\n"
    ruling = ask(policy(text), head(f"https://{host}/x", headers=fields), credential_digest=digest)
    assert outcome(ruling) == ("allow x" if allowed else "deny credential_denied credentials")
    for value in fields.values():
        assert not value or value not in ruling.decision.detail + ruling.decision.remedy


def test_pins_that_cannot_be_verified_admit_nothing() -> None:
    text = f"allow:\n  - id: x\n    host: a.com\n    credentials: {PIN}\n"
    assert (
        outcome(ask(policy(text), head(URL, headers={"x-api-key": "sk-own"}))) == "deny credential_denied credentials"
    )


def test_a_second_entry_may_pin_the_other_account() -> None:
    pins = [f"{{headers: [x-api-key], pins: ['{digest(key)}']}}" for key in (b"k1", b"k2")]
    text = "allow:\n" + "".join(
        f"  - {{id: e{number}, host: a.com, credentials: {pin}}}\n" for number, pin in enumerate(pins)
    )
    for number, key in enumerate(("k1", "k2")):
        assert (
            outcome(ask(policy(text), head(URL, headers={"x-api-key": key}), credential_digest=digest))
            == f"allow e{number}"
        )


@pytest.mark.parametrize("module", rules.modules())
def test_every_code_that_a_rule_may_give_is_in_the_table(module: str) -> None:
    source = (Path(rules.__file__).parent / f"{module}.py").read_text()
    codes = set(re.findall(r'Verdict\(\s*"([a-z_]+)"', source))
    assert codes
    assert codes <= set(REASONS)


def test_words_for_sentences() -> None:
    assert listed([3, 1, 1, 2]) == "1, 2, 3"
    assert listed(range(10), limit=2) == "0, 1 and 8 more"
    assert printable("a\r\n\x1b[31m\u202eb") == "'a???[31m?b'"
    assert printable("x" * 100, limit=5) == "'xxxxx…'"
    assert isinstance(rules.of_module("host"), Rule)


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("abc.DEF-123_~+/==", True),
        ("Token abc123", True),
        ("Basic dXNlcjpwYXNz", True),
        ("AWS4-HMAC-SHA256 Credential=AK/2026/s3, SignedHeaders=host;x-amz-date, Signature=ab12", True),
        ("session=abc; csrf=def", True),
        ("John Smith SSN 123-45-6789 whole customer list", False),
        ("John, Smith, Elm", False),
        ("x" * 5000, False),
    ],
)
def test_a_credential_of_unknown_form_is_a_key_and_no_text(value: str, allowed: bool) -> None:
    text = "allow:\n  - id: x\n    host: a.com\n    credentials: {headers: [x-key]}\n"
    ruling = ask(policy(text), head(URL, headers={"x-key": value}), credential_digest=digest)
    assert outcome(ruling) == ("allow x" if allowed else "deny credential_denied credentials")
