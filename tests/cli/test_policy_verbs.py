"""check, fmt, explain, list, suggest: exit codes, three-line errors, and what they say."""

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import main
from proxy.cli.suggest import entry_of, gather, yaml_of
from proxy.config.compile import load_content
from tests.config.kit import HEAD, PLATFORM, write

GOOD = HEAD + "allow: [{id: x, host: a.com, methods: [POST], paths: [/v1/chat/completions], models: [m]}]\n"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(one) for one in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_check_of_a_good_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "check", write(tmp_path, GOOD))
    assert (code, err) == (0, "")
    assert out.startswith("ok: 1 apps, 1 entries, revision ")


def test_check_of_a_bad_policy_says_everything_in_three_lines_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, GOOD.replace("stage: production", "stage: prod") + "limts: {}\n")
    (tmp_path / "apps" / "a.test.yaml").write_text("version: 1\napp: a\ntests: [{name: x}]\n")
    code, out, err = run(capsys, "check", tmp_path)
    lines = err.splitlines()
    assert (code, out) == (2, "")
    assert lines[:3] == [
        "error: 'prod' is not a stage",
        f"  at:  {tmp_path}/apps/a.yaml:4:8",
        "  fix: one of: suspended, draft, sandbox, production",
    ]
    assert any("unknown key 'limts'" in line for line in lines)
    assert any("a.test.yaml:3:9" in line for line in lines)
    assert lines[-1] == "4 mistakes; nothing of this would load"


def test_check_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", write(tmp_path, "version: 2\n"), "--json")
    errors = json.loads(out)["errors"]
    assert code == 2
    assert all(set(error) == {"file", "line", "col", "message", "fix"} for error in errors)


NOTES = {
    "expired app": (HEAD + "expires: 2020-01-01\n", 1, "warning: the app a expired on 2020-01-01"),
    "expired entry": (
        HEAD + "allow: [{id: x, host: a.com, expires: 2020-01-01}]\n",
        1,
        "warning: a: the entry x expired",
    ),
    "report mode over": (HEAD + "mode: report\nreport_until: 2020-01-01\n", 1, "warning: the report mode of a ended"),
    "report mode": (HEAD + "mode: report\nreport_until: 2990-01-01\n", 0, "note: a only reports until 2990"),
    "draft": (HEAD.replace("production", "draft"), 0, "note: the app a is in stage draft"),
}


@pytest.mark.parametrize(("text", "code", "message"), NOTES.values(), ids=NOTES)
def test_check_notes_what_is_legal_and_worth_a_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, message: str
) -> None:
    got, out, _ = run(capsys, "check", write(tmp_path, text))
    assert got == code
    assert message in out


def test_check_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "check", tmp_path / "nowhere")
    assert code == 2
    assert [line.split(":")[0].strip() for line in err.splitlines()] == ["error", "at", "fix"]


UNTIDY = GOOD + "\n\n\n# end  \n"


def test_fmt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, UNTIDY) / "apps" / "a.yaml"
    file.chmod(0o640)
    assert run(capsys, "fmt", "--check", tmp_path)[:2] == (1, f"would change {file}\n")
    code, out, _ = run(capsys, "fmt", "--diff", tmp_path)
    assert code == 1
    assert "-# end  " in out
    assert file.read_text() == UNTIDY
    assert run(capsys, "fmt", tmp_path)[:2] == (0, f"changed {file}\n")
    assert file.read_text() == GOOD + "\n# end\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert run(capsys, "fmt", "--check", tmp_path)[:2] == (0, "nothing to do\n")
    assert [path.name for path in file.parent.iterdir()] == ["a.yaml"]


def test_fmt_leaves_broken_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, "a: 1\na: 2  \n") / "apps" / "a.yaml"
    code, _, err = run(capsys, "fmt", file)
    assert code == 2
    assert "second time" in err
    assert file.read_text() == "a: 1\na: 2  \n"


def explain(capsys: pytest.CaptureFixture[str], directory: Path, url: str, *more: object) -> tuple[int, dict[str, Any]]:
    code, out, err = run(
        capsys,
        "explain",
        "--app",
        "a",
        "--directory",
        directory,
        "--url",
        url,
        "--state",
        directory / "state",
        "--json",
        *more,
    )
    assert err == ""
    facts: dict[str, Any] = json.loads(out)
    return code, facts


EXPLAINED = {
    "allowed": ("https://a.com/v1/chat/completions", ["--method", "POST"], 0, "allow", None),
    "host": ("https://b.com/", [], 1, "deny", "host_denied"),
    "port": ("https://a.com:22/", [], 1, "deny", "port_denied"),
    "method": ("https://a.com/v1/chat/completions", ["--method", "PUT"], 1, "deny", "method_denied"),
    "websocket": ("wss://a.com/v1/chat/completions", ["--method", "POST"], 1, "deny", "proto_denied"),
    "plain": ("http://a.com:443/", [], 1, "deny", "proto_denied"),
}


@pytest.mark.parametrize(("url", "more", "code", "action", "reason"), EXPLAINED.values(), ids=EXPLAINED)
def test_explain(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    url: str,
    more: list[str],
    code: int,
    action: str,
    reason: str | None,
) -> None:
    got, facts = explain(capsys, write(tmp_path, GOOD), url, *more)
    assert (got, facts["action"], facts["code"]) == (code, action, reason)
    assert all(step["rule"] and step["where"] for step in facts["steps"])
    assert reason is None or (facts["remedy"] and facts["where"].startswith("apps/a.yaml:"))


def test_explain_at_another_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, HEAD + "allow: [{id: x, host: a.com, expires: 2027-01-01}]\n")
    assert explain(capsys, tmp_path, "https://a.com/", "--at", "2026-12-31T23:59:59Z")[0] == 0
    assert explain(capsys, tmp_path, "https://a.com/", "--at", "2027-01-01")[1]["code"] == "expired"


def test_explain_looks_into_the_body(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, GOOD + "dlp: {rules: [{entities: [CREDIT_CARD], action: block}]}\n")
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"model": "m", "messages": [{"role": "user", "content": "card 4111 1111 1111 1111"}]}))
    code, facts = explain(capsys, tmp_path, "https://a.com/v1/chat/completions", "--body", body)
    assert (code, facts["action"], facts["inspection"]["code"]) == (1, "allow", "pii")
    assert facts["inspection"]["findings"][0]["entity"] == "CREDIT_CARD"
    assert "4111" not in json.dumps(facts)
    body.write_text(json.dumps({"model": "other", "messages": []}))
    assert explain(capsys, tmp_path, "https://a.com/v1/chat/completions", "--body", body)[1]["code"] == "model_denied"


def test_explain_of_a_body_that_is_no_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = write(tmp_path, GOOD) / "body.json"
    body.write_text("[]")
    url = "https://a.com/v1/chat/completions"
    code, _, err = run(capsys, "explain", "--app", "a", "--directory", tmp_path, "--url", url, "--body", body)
    assert code == 1
    assert err.startswith("error: malformed: ")


def test_explain_as_text_ends_with_the_answer_and_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, GOOD)
    _, out, _ = run(capsys, "explain", "--app", "a", "--directory", tmp_path, "--url", "https://b.com/")
    assert out.splitlines()[-2:] == [
        "=> deny host_denied",
        "   Ask the app's admin to add an entry with `host: b.com` under `allow:` in apps/a.yaml:1:1.",
    ]


WRONG = [
    (["--app", "b", "--url", "https://a.com/"], "there is no app 'b'"),
    (["--app", "a", "--url", "a.com"], "the URL has no usable host"),
    (["--app", "a", "--url", "ftp://a.com/"], "is not a URL"),
    (["--app", "a", "--url", "https://a.com:99999/"], "the URL has no usable host"),
    (["--app", "a", "--url", "https://éa.com/"], "the URL has no usable host"),
    (["--app", "a", "--url", "https://a.com/", "--header", "nothing"], "a header is NAME: VALUE"),
    (["--app", "a", "--url", "https://a.com/", "--at", "today"], "is not a date"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[message for _, message in WRONG])
def test_explain_of_nonsense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    write(tmp_path, GOOD)
    code, _, err = run(capsys, "explain", "--directory", tmp_path, *arguments)
    assert code == 2
    assert message in err


@pytest.mark.parametrize("kind", ["apps", "codes", "providers", "recognizers", "rules", "sinks", "verbs"])
def test_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    write(tmp_path, GOOD)
    code, out, err = run(capsys, "list", kind, "--directory", tmp_path, "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert rows
    assert len({tuple(row) for row in rows}) == 1
    assert len(run(capsys, "list", kind, "--directory", tmp_path)[1].splitlines()) == len(rows) + 1


def record(**fields: object) -> dict[str, object]:
    base = {
        "app": "a",
        "time": "2026-11-24T00:00:00Z",
        "scheme": "https",
        "host": "b.com",
        "port": 443,
        "method": "POST",
        "path": "/v1/x",
    }
    return {**base, "code": "host_denied", **fields}


def test_suggestions_load_and_allow_what_was_denied(tmp_path: Path) -> None:
    records = [
        record(),
        record(path="/v1/files/*", method="GET"),
        record(path="/v1/x,/v1/y"),
        record(host="c.com", port=8443, code=None, would_deny="port_denied"),
        record(host="d.com", scheme="http", port=80),
    ]
    found = gather(records, app="a", since_s=0.0)
    entries = [entry for target, wanted in sorted(found.items()) if (entry := entry_of(target, wanted))]
    text = "\n".join(["allow:", *map(yaml_of, entries)]) + "\n"
    assert load_content(write(tmp_path, HEAD + text), entities=frozenset()).apps == ("a",)
    assert '    paths: ["/v1/files/*", /v1/x, "/v1/x,/v1/y"]' in text
    assert "    ports: [8443]" in text
    assert "    scheme: http" in text


NOT_SUGGESTED = [
    record(app="b"),
    record(code="pii"),
    record(code=None),
    record(time="2020-01-01T00:00:00Z"),
    record(host="203.0.113.5"),
    record(host="*.evil.test"),
    record(host=None),
]


@pytest.mark.parametrize("row", NOT_SUGGESTED)
def test_what_is_not_for_the_allowlist_is_not_suggested(row: dict[str, object]) -> None:
    found = gather([row], app="a", since_s=1_700_000_000.0)
    assert [entry_of(target, wanted) for target, wanted in found.items() if entry_of(target, wanted)] == []


def test_masked_parts_are_left_out() -> None:
    found = gather([record(method="*", path="/a/*;/b", **{"gen_ai.request.model": "*"})], app="a", since_s=0.0)
    ((target, wanted),) = found.items()
    assert set(entry_of(target, wanted) or {}) == {"id", "host", "reason"}


def test_the_platform_file_alone_is_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "platform.yaml").write_text(PLATFORM)
    assert run(capsys, "check", tmp_path)[0] == 0
