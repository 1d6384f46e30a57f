"""`egress test`: the shipped story holds, and a test that does not hold says what differs and where."""

import json
from pathlib import Path

import pytest

from proxy.cli import main
from proxy.demo.certificates import server_context

ALLOWLISTS = Path(__file__).parents[2] / "allowlists"
CASE = """
version: 1
app: shop
tests:
  - name: {name}
    request: {{url: "{url}", json: {{a: "{text}"}}}}
    expect: {expect}
"""
APP = """
version: 1
app: shop
owner: a@example.com
cost_center: CC-1
stage: production
identify: {token: true}
allow:
  - {id: files, host: files.example.com, methods: [POST], reason: test}
dlp: {profile: balanced, rules: [{entities: [EMAIL_ADDRESS], action: tokenize}], otherwise: block}
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    server_context(folder)  # the example policy trusts the demo's root
    return folder


def run(state: Path, *words: str) -> int:
    return main(["--state", str(state), "--json", "test", *words])


def test_the_story_holds(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(state, str(ALLOWLISTS))
    result = json.loads(capsys.readouterr().out)
    assert [row for row in result["tests"] if row["problems"]] == []
    assert (code, result["failed"]) == (0, 0)
    assert result["passed"] >= 10


def policy(folder: Path, **case: str) -> Path:
    (folder / "apps").mkdir()
    (folder / "platform.yaml").write_text("version: 1\n")
    (folder / "apps" / "shop.yaml").write_text(APP)
    (folder / "apps" / "shop.test.yaml").write_text(CASE.format(**case))
    return folder


@pytest.mark.parametrize(
    ("url", "text", "expect", "problem"),
    [
        ("https://files.example.com/", "hi", "{decision: allow, rule: files, reached: true}", None),
        ("https://files.example.com/", "a@b.com", "{decision: redact, answer: {contains: [a@b.com]}}", None),
        ("https://files.example.com/", "a@b.com", "{decision: allow}", "decision: expected allow, got redact"),
        ("https://files.example.com/", "4111111111111111", "{decision: allow}", "denied because"),
        ("https://evil.test/", "hi", "{decision: deny, code: pii}", "code: expected pii, got host_denied"),
        ("https://files.example.com/", "hi", "{decision: allow, upstream: {lacks: [hi]}}", "what left holds 'hi'"),
        ("https://files.example.com/", "hi", "{decision: allow, entities: [PERSON]}", "PERSON not found"),
    ],
)
def test_what_differs(
    tmp_path: Path,
    state: Path,
    capsys: pytest.CaptureFixture[str],
    url: str,
    text: str,
    expect: str,
    problem: str | None,
) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    code = run(state, str(policy(folder, name="one", url=url, text=text, expect=expect)))
    (row,) = json.loads(capsys.readouterr().out)["tests"]
    if problem is None:
        assert row["problems"] == []
    else:
        assert any(problem in found for found in row["problems"]), row["problems"]
        assert row["at"].startswith("apps/shop.test.yaml:5:")
    assert code == (0 if problem is None else 1)
