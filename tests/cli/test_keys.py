"""`egress keys`."""

from pathlib import Path

import pytest

from proxy.keys.root import RootKey
from proxy.paths import Paths
from tests.cli._trust import Run, runner, start_once


@pytest.fixture
def run(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(paths, capsys)


@pytest.fixture(autouse=True)
def root(paths: Paths) -> RootKey:
    return start_once(paths)


def test_keys_never_prints_a_secret(run: Run, root: RootKey) -> None:
    """Ids only."""
    shown = run("keys", "show").out + run("keys", "rotate").out + run("keys", "show", "--json").out
    assert root.active.secret.hex() not in shown
    assert root.id in shown


def test_two_rotations_keep_every_secret(run: Run, root: RootKey, paths: Paths) -> None:
    """Older keys stay for the audit trail."""
    run("keys", "rotate")
    run("keys", "rotate")
    states = [row["state"] for row in run("keys", "show", "--json").value]
    assert states == ["active", "accepted", "accepted"]
    assert RootKey.load(paths.root_key).find(root.id) is not None


def test_an_unknown_key_cannot_be_retired(run: Run) -> None:
    """Three lines, exit 2."""
    outcome = run("keys", "retire", "00000000")
    assert outcome.code == 2
    assert "egress keys show" in outcome.err


@pytest.mark.parametrize("action", [("rotate",), ("retire", "00000000")])
def test_a_mounted_key_is_read_and_never_written(
    run: Run, root: RootKey, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: tuple[str, ...]
) -> None:
    """EGRESS_ROOT_KEY: every verb reads it; a rotation must happen where it is kept."""
    mounted = tmp_path / "secret" / "root.key"
    mounted.parent.mkdir(mode=0o700)
    paths.root_key.rename(mounted)
    before = mounted.read_bytes()
    monkeypatch.setenv("EGRESS_ROOT_KEY", str(mounted))
    assert run("keys", "show", "--json").value[0]["id"] == root.id
    outcome = run("keys", *action)
    assert outcome.code == 2
    assert "mounted" in outcome.err
    assert mounted.read_bytes() == before
