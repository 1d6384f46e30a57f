"""`egress denials`: what, where, why, and what to do."""

import time
from typing import Any

import pytest

from proxy.dataplane.audit_writer import AuditWriter
from proxy.errors import REASONS
from proxy.keys.root import AUDIT_CHAIN, RootKey
from proxy.model import AuditRecord
from proxy.paths import Paths
from tests.cli._trust import Run, runner, start_once


@pytest.fixture
def run(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(paths, capsys)


@pytest.fixture
def root(paths: Paths) -> RootKey:
    return start_once(paths)


def _write(paths: Paths, root: RootKey, *records: tuple[float, dict[str, Any]]) -> None:
    writer = AuditWriter(paths.audit_dir, f"w{time.monotonic_ns()}", root.derive(AUDIT_CHAIN), key_id=root.id)
    for number, (ago_s, fields) in enumerate(records):
        writer.emit(AuditRecord(f"d{number}", "terminal", time.time() - ago_s, fields))
    writer.close()


def _denied(app: str = "a", code: str = "host_denied", **fields: Any) -> dict[str, Any]:
    base = {"app": app, "outcome": "denied", "code": code, "scheme": "https", "host": "evil.test", "port": 443}
    return base | {"method": "GET", "path": "/v1/x", "rule_at": "apps/a.yaml:7:3"} | fields


def test_each_kind_once_with_its_count(run: Run, paths: Paths, root: RootKey) -> None:
    """Newest kind first; other apps, other times and allowed requests stay out."""
    _write(
        paths,
        root,
        (300, _denied(detail="evil.test is not listed")),
        (200, _denied(detail="evil.test is not listed")),
        (100, _denied(code="pii", detail="body holds US_SSN", rule_id="openai")),
        (90_000, _denied(code="expired")),
        (50, _denied(app="b")),
        (40, {"app": "a", "outcome": "allowed"}),
    )
    rows = run("denials", "--app", "a", "--json").value
    assert [(row["code"], row["count"]) for row in rows] == [("pii", 1), ("host_denied", 2)]
    text = run("denials", "--app", "a").out
    assert "evil.test is not listed" in text
    assert "apps/a.yaml:7:3" in text
    assert REASONS["host_denied"].remedy in text
    assert "2 times, last 3 min ago" in text
    assert "expired" not in text
    assert "expired" in run("denials", "--app", "a", "--since", "2d").out
    assert {row["app"] for row in run("denials", "--json").value} == {"a", "b"}
    assert run("denials", "--code", "pii", "--json").value[0]["rule_id"] == "openai"


@pytest.mark.parametrize("code", sorted(REASONS))
def test_every_code_has_what_where_and_the_next_step(run: Run, paths: Paths, root: RootKey, code: str) -> None:
    """Also without detail or remedy in the record."""
    _write(paths, root, (1, _denied(code=code)))
    text = run("denials").out
    assert f"what:  {REASONS[code].title}" in text
    assert f"fix:   {REASONS[code].remedy}" in text
    assert "rule:  apps/a.yaml:7:3" in text


def test_report_mode_is_told_apart(run: Run, paths: Paths, root: RootKey) -> None:
    """What would have been denied, without calling it so."""
    _write(paths, root, (1, {"app": "a", "outcome": "allowed", "would_deny": "host_denied", "host": "new.test"}))
    assert "report mode let it pass" in run("denials").out
    assert run("denials", "--json").value[0]["enforced"] is False


def test_the_records_own_remedy_wins(run: Run, paths: Paths, root: RootKey) -> None:
    """It is what the app was told."""
    _write(paths, root, (1, _denied(remedy="Ask Ann.")))
    assert "fix:   Ask Ann." in run("denials").out


def test_hostile_text_cannot_drive_the_terminal(run: Run, paths: Paths, root: RootKey) -> None:
    """AUD-06 on the way out."""
    _write(paths, root, (1, _denied(detail="\x1b]0;owned\x07 \u202eevil", host="e\x1b[31m.test")))
    text = run("denials").out
    assert text.isprintable() or not set(text) & set("\x1b\x07\u202e")


def test_a_refused_tunnel_is_shown_as_it_was_asked_for(run: Run, paths: Paths, root: RootKey) -> None:
    """Authority form, no path."""
    _write(paths, root, (1, _denied(method="CONNECT", path=None)))
    assert "host_denied  a  CONNECT evil.test:443\n" in run("denials").out


def test_nothing_to_tell(run: Run, paths: Paths, root: RootKey) -> None:
    """Exit 0 and a sentence."""
    _write(paths, root, (1, {"app": "a", "outcome": "allowed"}))
    outcome = run("denials", "--app", "a", "--since", "1h")
    assert (outcome.code, outcome.out) == (0, "no denials for a in the last 1h\n")
    assert run("denials", "--since", "x").code == 2
