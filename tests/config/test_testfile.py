"""Policy tests as files: what they say, and what is wrong with them."""
# ruff: noqa: E501 - one row of a table, one line

from pathlib import Path

import orjson
import pytest

from proxy.config.errors import ConfigErrors
from proxy.config.testfile import CaseAnswer, CaseRequest, Expectation, parse_tests

HEAD = "version: 1\napp: a\ntests:\n"
ALLOWLISTS = Path(__file__).parents[2] / "allowlists"


def test_a_test_says_everything() -> None:
    text = (
        HEAD
        + """  - name: full
    given: {now: 2026-12-01, spent_today_usd: 1.5, spent_this_month_usd: 20}
    request:
      method: PUT
      url: https://a.com/x
      headers: {X-A: 1}
      text: "a,b"
      content_type: text/csv
    answer: {status: 201, json: {ok: true}}
    expect:
      decision: redact
      rule: openai
      status: 201
      entities: [PERSON]
      upstream: {contains: ["<PERSON_"], lacks: [Maria]}
      answer: {contains: [Maria], lacks: ["<"]}
"""
    )
    (case,) = parse_tests(text.encode(), "t.yaml")
    assert case.request == CaseRequest("PUT", "https://a.com/x", (("x-a", "1"),), b"a,b", "text/csv")
    assert case.answer == CaseAnswer(201, (), b'{"ok":true}', "application/json", echo=False)
    assert (case.now_s, case.spent_today_usd_nanos, case.spent_this_month_usd_nanos) == (
        1796083200.0,
        1_500_000_000,
        20_000_000_000,
    )
    assert case.expect == Expectation(
        "redact", None, "openai", None, 201, ("PERSON",), ("<PERSON_",), ("Maria",), ("Maria",), ("<",)
    )
    assert (case.app, case.name, case.at) == ("a", "full", "t.yaml:4:5")


def test_defaults() -> None:
    (case,) = parse_tests(
        (HEAD + "  - {name: n, request: {url: 'https://a.com/'}, expect: {decision: allow}}\n").encode(), "t"
    )
    assert case.request == CaseRequest("GET", "https://a.com/")
    assert case.answer == CaseAnswer(echo=True)
    assert case.now_s is None


def test_json_scalars_are_json() -> None:
    text = (
        HEAD
        + "  - {name: n, expect: {decision: allow}, request: {url: 'https://a.com/', json: {a: 1, b: 1.5, c: true, d: null, e: '1', f: yes, g: 2027-01-01, h: ~, i: [x], j: 0777}}}\n"
    )
    (case,) = parse_tests(text.encode(), "t")
    assert orjson.loads(case.request.body) == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": None,
        "e": "1",
        "f": "yes",
        "g": "2027-01-01",
        "h": "~",
        "i": ["x"],
        "j": "0777",
    }
    assert case.request.method == "POST"


MISTAKES = {
    "denial without code": ("request: {url: 'https://a.com'}, expect: {decision: deny}", "a denial needs its reason"),
    "code without denial": (
        "request: {url: 'https://a.com'}, expect: {decision: allow, code: pii}",
        "a code belongs to a denial",
    ),
    "unknown code": ("request: {url: 'https://a.com'}, expect: {decision: deny, code: pi}", "is not a reason code"),
    "denied and reached": (
        "request: {url: 'https://a.com'}, expect: {decision: deny, code: pii, reached: true}",
        "lets nothing out",
    ),
    "two bodies": (
        "request: {url: 'https://a.com', json: 1, text: x}, expect: {decision: allow}",
        "`json:` and `text:` together",
    ),
    "url": ("request: {url: a.com/x}, expect: {decision: allow}", "is not a URL"),
    "no request": ("expect: {decision: allow}", "`request:` is missing"),
    "no expectation": ("request: {url: 'https://a.com'}", "`expect:` is missing"),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse_tests(f"{HEAD}  - {{name: n, {text}}}\n".encode(), "t")
    assert message in str(caught.value)


def test_the_shipped_story_reads() -> None:
    path = ALLOWLISTS / "apps" / "expense-triage.test.yaml"
    cases = parse_tests(path.read_bytes(), path.name)
    assert {case.expect.code for case in cases} >= {"pii", "budget_exceeded", "model_denied", "host_denied", "expired"}
    assert len({case.name for case in cases}) == len(cases) == 10
