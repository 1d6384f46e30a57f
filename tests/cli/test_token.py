"""`egress token`, against a real store."""

import asyncio
import time
from collections.abc import Callable

import pytest

from proxy.cli import main
from proxy.keys.root import RootKey
from proxy.keys.tokens import verify
from proxy.paths import Paths
from proxy.stores.embedded import EmbeddedStore
from tests.cli._trust import Run, runner, start_once


@pytest.fixture
def run(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(paths, capsys)


@pytest.fixture
def root(paths: Paths) -> RootKey:
    return start_once(paths)


def _with_store(paths: Paths, steps: Callable[[], None]) -> None:
    """Runs a test's steps while the embedded store is up."""

    async def inside() -> None:
        store = await EmbeddedStore.start(paths)
        try:
            await asyncio.to_thread(steps)
        finally:
            await store.stop()

    asyncio.run(inside())


def test_issue_list_revoke(run: Run, root: RootKey, paths: Paths) -> None:
    """The life of a token; only the token itself is on standard output, so that $(…) works."""

    def steps() -> None:
        issued = run("token", "issue", "--app", "expense-triage", "--ttl", "10m", "--note", "for ci")
        token = issued.out.strip()
        assert (issued.code, issued.out) == (0, token + "\n")
        claims = verify(root, token, time.time())
        assert claims.app == "expense-triage"
        assert 590 < claims.expires_at_s - time.time() <= 600
        run("token", "issue", "--app", "other")
        rows = run("token", "list", "--app", "expense-triage", "--json").value
        assert [(row["id"], row["state"], row["note"]) for row in rows] == [(claims.id, "valid", "for ci")]
        assert run("token", "revoke", token).code == 0
        text = run("token", "list").out
        assert "revoked" in text
        assert "other" in text
        assert token not in text
        assert "no such token" in run("token", "revoke", "0123456789abcdef").out

    _with_store(paths, steps)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("issue", "--app", "a", "--ttl", "8d"), "between 1 and"),
        (("issue", "--app", "a", "--ttl", "soon"), "not a duration"),
        (("issue", "--app", "a", "--ttl", "0"), "not a duration"),
        (("issue", "--app", "x" * 700), "too long"),
        (("issue",), "--app"),
        (("revoke", "egp1.e30." + "A" * 43), "nothing to revoke"),
        (("issue", "--app", "a", "--store", "http://x"), ""),
        (("burn",), "invalid choice"),
        ((), "ACTION"),
    ],
)
def test_bad_input_is_three_lines(run: Run, arguments: tuple[str, ...], what: str) -> None:
    """What, where, fix; exit 2."""
    outcome = run("token", *arguments)
    assert outcome.code == 2
    assert what in outcome.err
    assert "  fix: " in outcome.err
    assert outcome.out == ""


@pytest.mark.usefixtures("root")
def test_without_a_store_nothing_is_issued(run: Run) -> None:
    """A token that no list shows could not be revoked by those who need to."""
    outcome = run("token", "issue", "--app", "a")
    assert (outcome.code, outcome.out) == (2, "")
    assert "make run" in outcome.err


def test_without_a_root_key(run: Run) -> None:
    """Says where to start."""
    outcome = run("token", "issue", "--app", "a")
    assert outcome.code == 2
    assert "root key" in outcome.err


def test_unsafe_root_key(run: Run, root: RootKey, paths: Paths) -> None:
    """CRY-01 at the command line."""
    paths.root_key.chmod(0o644)
    outcome = run("token", "issue", "--app", "a")
    assert outcome.code == 2
    assert "chmod 600" in outcome.err
    assert root.active.secret.hex() not in outcome.err


def test_help_names_the_actions(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` ends with exit 0."""
    with pytest.raises(SystemExit) as caught:
        main(["token", "--help"])
    assert caught.value.code == 0
    assert "revoke" in capsys.readouterr().out
