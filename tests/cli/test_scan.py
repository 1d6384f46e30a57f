"""`egress scan`: a file, a body, many lines; findings, exit codes and three-line errors."""

import base64
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import main

CARD = "4111 1111 1111 1111"


def _json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def _feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_text_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "note.txt"
    file.write_text(f"first line\npay {CARD} now\n", encoding="utf-8")
    assert main(["scan", str(file)]) == 1
    out = capsys.readouterr().out
    assert "CREDIT_CARD" in out
    assert "2:5" in out
    assert "1 finding\n" in out
    assert CARD not in out


def test_show_text_quotes_and_disarms_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _feed(monkeypatch, b"password = 'ab\x1b]0;owned\x07Z9$k'")
    assert main(["scan", "-", "--show-text"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "Z9$k" in out


def test_clean_text_is_exit_zero(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _feed(monkeypatch, b"nothing to see")
    assert main(["scan", "-"]) == 0
    assert capsys.readouterr().out == "nothing found\n"


def test_json_offsets_are_characters(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"größer \U0001f600 {CARD}"
    _feed(monkeypatch, text.encode())
    assert main(["scan", "-", "--json", "--show-text"]) == 1
    (finding,) = _json(capsys)["findings"]
    assert text[finding["start"] : finding["end"]] == CARD == finding["text"]
    assert finding.keys() == {"entity", "start", "end", "score", "recognizer", "text"}


def test_a_coded_body_names_the_view(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": f"charge {CARD}"}]}).encode()
    _feed(monkeypatch, gzip.compress(body))
    arguments = [
        "scan",
        "-",
        "--content-type",
        "application/json",
        "--content-encoding",
        "gzip",
        "--json",
        "--show-text",
    ]
    assert main(arguments) == 1
    (finding,) = _json(capsys)["findings"]
    assert finding["entity"] == "CREDIT_CARD"
    assert finding["view"] == "body $.messages[0].content"
    assert (finding["start"], finding["text"]) == (7, CARD)


def test_a_body_that_the_proxy_refuses_is_no_clean_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _feed(monkeypatch, b"not gzip")
    assert main(["scan", "-", "--content-type", "text/plain", "--content-encoding", "gzip", "--json"]) == 1
    assert _json(capsys)["error"]["code"] == "encoding"


def test_jsonl_keeps_order_ids_and_both_kinds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    body = base64.b64encode(json.dumps({"x": CARD}).encode()).decode()
    rows = [
        {"id": "a", "text": "plain"},
        {"id": 2, "body_b64": body, "content_type": "application/json"},
        {"id": None, "text": f"card {CARD}"},
    ]
    _feed(monkeypatch, b"\n".join(json.dumps(row).encode() for row in rows) + b"\n\n")
    assert main(["scan", "-", "--jsonl"]) == 1
    out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in out] == ["a", 2, None]
    assert [[item["entity"] for item in row["findings"]] for row in out] == [[], ["CREDIT_CARD"], ["CREDIT_CARD"]]
    assert "text" not in out[2]["findings"][0]


@pytest.mark.parametrize(
    "line",
    [
        b"nope",
        b"[]",
        b'{"text": "no id"}',
        b'{"id": 1}',
        b'{"id": 1, "text": 5}',
        b'{"id": 1, "body_b64": "%"}',
        b"[" * 9999,
    ],
)
def test_a_bad_line_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: bytes) -> None:
    _feed(monkeypatch, b'{"id": 1, "text": "fine"}\n' + line)
    assert main(["scan", "-", "--jsonl"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 3
    assert "line 2" in error


def test_bytes_that_are_no_text_ask_for_the_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _feed(monkeypatch, b"\xff\xfe\x00")
    assert main(["scan", "-"]) == 2
    assert "--content-type" in capsys.readouterr().err


def test_a_missing_file_is_three_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "/no/such/file"]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_profiles_differ(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for profile in ("balanced", "paranoid"):
        _feed(monkeypatch, b"see https://example.com/path")
        found[profile] = main(["scan", "-", "--profile", profile])
        capsys.readouterr()
    assert found == {"balanced": 0, "paranoid": 1}
