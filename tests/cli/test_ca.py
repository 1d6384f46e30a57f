"""`egress ca`."""

from pathlib import Path

import pytest
from cryptography import x509

from proxy.keys.root import RootKey
from proxy.paths import Paths
from tests.cli._trust import Run, runner, start_once


@pytest.fixture
def run(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(paths, capsys)


@pytest.fixture(autouse=True)
def root(paths: Paths) -> RootKey:
    return start_once(paths)


def test_show(run: Run) -> None:
    """Fingerprint, dates, state; no key."""
    (facts,) = run("ca", "show", "--json").value
    assert facts["state"] == "signing"
    assert facts["sha256"].count(":") == 31
    text = run("ca", "show").out
    assert facts["sha256"] in text
    assert "PRIVATE" not in text


def test_export(run: Run, state_dir: Path) -> None:
    """To standard output or a file; public roots only when asked for."""
    own = x509.load_pem_x509_certificates(run("ca", "export").out.encode())
    assert len(own) == 1
    file = state_dir / "out.pem"
    assert run("ca", "export", "--with-public-roots", "--out", file).code == 0
    assert file.read_text().count("BEGIN CERTIFICATE") > 50
    assert "PRIVATE" not in file.read_text()
    assert run("ca", "export", "--out", state_dir / "no" / "x.pem").code == 2


def test_rotate(run: Run) -> None:
    """Next authority, refusal of a second, switch."""
    assert run("ca", "rotate", "--overlap", "3d").code == 0
    assert [row["state"] for row in run("ca", "show", "--json").value] == ["signing", "next"]
    again = run("ca", "rotate")
    assert again.code == 2
    assert "--now" in again.err
    assert run("ca", "rotate", "--now").code == 0
    assert [row["state"] for row in run("ca", "show", "--json").value] == ["former", "signing"]
    assert run("ca", "export").out.count("BEGIN CERTIFICATE") == 2


def test_a_lost_ca_is_refused_until_told(run: Run, paths: Paths) -> None:
    """FLT-12: the refusal names the one command that starts over."""
    next(paths.ca_dir.glob("*.key")).unlink()
    refused = run("ca", "show")
    assert refused.code == 2
    assert "egress ca rotate --lost" in refused.err
    assert run("ca", "rotate", "--lost").code == 0
    assert run("ca", "show").code == 0


def test_keys_rotate_keeps_the_ca(run: Run) -> None:
    """Root rotation re-encrypts; retiring the old root key does not lose the CA."""
    before = run("ca", "show", "--json").value[0]["sha256"]
    (first,) = run("keys", "show", "--json").value
    assert run("keys", "rotate").code == 0
    states = {row["id"]: row["state"] for row in run("keys", "show", "--json").value}
    assert states.pop(first["id"]) == "accepted"
    assert list(states.values()) == ["active"]
    assert run("keys", "retire", next(iter(states))).code == 2
    assert run("keys", "retire", first["id"]).code == 0
    assert run("ca", "show", "--json").value[0]["sha256"] == before
