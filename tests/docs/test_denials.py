"""Every denial tells a person what, where and the next step: the table's own words, and those of the rules."""

import ast
import json
import re

import pytest

from proxy import providers, rules
from proxy.denials import render, render_connect, sentence
from proxy.errors import REASONS, Denied
from proxy.model import Authority
from proxy.policy import Stage
from tests.architecture.tree import sources
from tests.config.kit import PLATFORM
from tests.policy.kit import NOW_S, ask, head, policy

# What a remedy begins with: somebody is told to do something.
IMPERATIVES = {
    "Ask", "Call", "Check", "Choose", "Correct", "Have", "Leave", "List", "Name", "Remove", "Request", "Send", "Speak",
    "Spell", "Tell", "Try", "Use", "Wait", "Write",
}  # fmt: skip


def tells_what_to_do(remedy: str) -> bool:
    """A whole sentence with an order in it."""
    words = re.findall(r"[A-Za-z]+", remedy)
    return remedy.endswith(".") and any(word.capitalize() in IMPERATIVES for word in words)


WHO = {
    "maker": "",
    "admin": r"admin|owner|entry|pins|Ask",
    "operator": r"operator|security team|Try again|unkill",
}


@pytest.mark.parametrize("code", sorted(REASONS))
def test_a_row_of_the_table(code: str) -> None:
    reason = REASONS[code]
    assert re.match(r"[A-Z]", reason.title)
    assert not reason.title.endswith(".")
    assert len(reason.title.split()) >= 4, "the title names what happened, with its subject"
    assert tells_what_to_do(reason.remedy), reason.remedy
    assert re.search(WHO[reason.who], reason.remedy), f"it is the {reason.who}'s move: {reason.remedy}"
    assert len(reason.title) + len(reason.remedy) < 260, "it fits a status line with its detail"


@pytest.mark.parametrize("code", sorted(REASONS))
def test_an_answer_is_never_empty_and_says_all_three(code: str) -> None:
    denied = Denied(code, "this and that was sent", where="apps/a.yaml:3:1", rule_id="x")
    for provider in (None, providers.match(Authority("https", "api.openai.com", 443), "POST", "/v1/chat/completions")):
        answer = render(denied, decision_id="d-1", revision="r" * 64, provider=provider)
        told = json.loads(answer.body)
        for text in (denied.reason.title, "this and that was sent", "apps/a.yaml:3:1", denied.remedy, code, "d-1"):
            assert text in told["error"]["message"], text
        assert told["where"] == "apps/a.yaml:3:1"
        fields = dict(answer.head.headers)
        assert fields[b"X-Egress-Code"] == code.encode()
        assert b"Proxy-Status" in fields
    phrase = render_connect(denied, decision_id="d-1", revision="").head.reason
    assert code in phrase
    assert "this and that was sent" in phrase
    assert phrase.isascii()


ENTRY = "allow: [{id: x, host: a.com, ports: [443], methods: [POST], paths: [/v1], models: [m1]%s}]\n"
PASSTHROUGH = "allow: [{id: x, host: a.com, tls: passthrough}]\n"
type Case = tuple[str, str, str, Stage, dict[str, object]]
CASES: dict[str, Case] = {
    "always_denied": (ENTRY % "", "https://a.com/v1", "POST", "head", {"platform": "version: 1\ndeny: [a.com]\n"}),
    "authority": (ENTRY % "", "https://a.com/v1", "POST", "head", {"sni": "b.com"}),
    "credentials": (
        ENTRY % (", credentials: {headers: [authorization], pins: ['hmac-sha256:" + "0" * 64 + "']}"),
        "https://a.com/v1", "POST", "head", {"credential_digest": lambda _: "hmac-sha256:" + "1" * 64},
    ),
    "expiry": (ENTRY % ", expires: 2026-01-01", "https://a.com/v1", "POST", "head", {}),
    "host": (ENTRY % "", "https://b.com/v1", "POST", "head", {}),
    "kill_switch": (ENTRY % "", "https://a.com/v1", "POST", "head", {"kills": {"a": {"reason": "INC-7"}}}),
    "method": (ENTRY % "", "https://a.com/v1", "DELETE", "head", {}),
    "model": (ENTRY % "", "https://a.com/v1", "POST", "body", {"model": "m2"}),
    "path": (ENTRY % "", "https://a.com/v2", "POST", "head", {}),
    "port": (ENTRY % "", "https://a.com:8443/v1", "POST", "head", {}),
    "protocol": (PASSTHROUGH, "https://a.com/v1", "POST", "head", {}),
    "scheme": (ENTRY % "", "http://a.com/v1", "POST", "head", {}),
}  # fmt: skip
# Rules that a request of this kit cannot meet, and where their words are tested.
ELSEWHERE = {"lifecycle": "tests/rules/test_rules.py", "subdomain": "tests/rules/test_subdomain.py",
             "dns_over_https": "tests/rules/test_dns_over_https.py"}  # fmt: skip


# An operator's order and a contradiction within the request stand in no file.
WITHOUT_PLACE = frozenset({"kill_switch", "authority"})


def test_every_rule_has_a_case() -> None:
    assert {rule.name for rule in rules.discover()} == CASES.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_denial_of_a_rule(name: str) -> None:
    text, url, method, stage, facts = CASES[name]
    fields = {"Authorization": "Bearer sk-secret-of-the-client"} if name == "credentials" else {}
    request = head(url, method, fields)
    facts = {"now_s": NOW_S, "platform": PLATFORM, **facts}
    decision = ask(policy(text, str(facts.pop("platform"))), request, stage, **facts).decision
    assert decision.action == "deny"
    assert decision.rule_id == name
    subject = {"kill_switch": "the app a"}.get(name, request.authority.host)
    assert subject in decision.detail, "it says what was refused"
    denied = Denied(decision.code, decision.detail, where=decision.where, rule_id=name, remedy=decision.remedy)
    place = r"(apps/a|platform)\.yaml:\d+:\d+"
    assert re.fullmatch("" if name in WITHOUT_PLACE else place, decision.where), decision.where
    assert tells_what_to_do(denied.remedy), denied.remedy
    assert decision.where in sentence(denied, "d-1")
    assert "sk-secret" not in sentence(denied, "d-1"), "never the key itself"


def _raised() -> list[tuple[str, str, bool]]:
    """(place, code, says more than the table) of every denial in the source whose code is written out."""
    return [
        (f"{path}:{node.lineno}", node.args[0].value, len(node.args) > 1 or bool(node.keywords))
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Denied" and node.args
        if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    ]


def test_every_denial_has_a_row_and_says_more_unless_it_is_our_own_fault() -> None:
    assert [(place, code) for place, code, _ in _raised() if code not in REASONS] == []
    bare = [(place, code) for place, code, more in _raised() if not more and REASONS[code].who != "operator"]
    assert bare == [], "say what was sent"


def test_no_row_without_a_denial() -> None:
    text = "\n".join(ast.unparse(tree) for path, tree in sources().items() if path != "proxy/errors.py")
    assert [code for code in REASONS if f"'{code}'" not in text] == []
