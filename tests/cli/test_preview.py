"""A fresh clone: what is made at the first start is missing, and the policy can be looked at all the same."""

import argparse
import getpass
import json
import ssl
from pathlib import Path

import pytest

from proxy.cli import _policy, main
from proxy.config.compile import compile_snapshot, load_content
from proxy.config.errors import ConfigErrors
from proxy.dataplane.verifier import upstream_context
from proxy.stores.publish import this_user
from tests.config.kit import HEAD, write

ALLOWLISTS = Path(__file__).parents[2] / "allowlists"
TWO = HEAD + "allow:\n" + "".join(
    f"  - {{id: {name}, host: a.com, paths: [/{name}], addresses: [127.0.0.0/8], upstream_ca: 'state:demo/ca.pem'}}\n"
    for name in ("x", "y")
)  # fmt: skip


@pytest.fixture
def state(tmp_path: Path) -> list[str]:
    return ["--state", str(tmp_path / "state")]


def test_check_warns_and_is_content(state: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(ALLOWLISTS), *state]) == 0
    out = capsys.readouterr().out
    assert "warning: the CA file 'state:demo/ca.pem' does not exist yet\n  at:  " in out
    assert "made at the first start" in out
    assert out.splitlines()[-1].startswith("ok: ")
    assert main(["check", str(ALLOWLISTS), *state, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"]


def test_the_other_verbs_that_look_go_on(state: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://openai.demo.test:9443/v1/chat/completions"
    where = ["--directory", str(ALLOWLISTS)]
    assert main(["explain", "--app", "demo", "--method", "POST", "--url", url, *where, *state]) == 0, (
        capsys.readouterr().err
    )
    assert "warning: the CA file" in capsys.readouterr().err
    assert main(["list", "apps", *where, *state]) == 0
    assert "demo" in capsys.readouterr().out


def test_a_push_is_refused(state: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(ALLOWLISTS), *state]) == 2
    assert capsys.readouterr().err.startswith("error: the CA file 'state:demo/ca.pem' does not exist yet\n  at:  ")


def test_a_preview_is_no_policy(tmp_path: Path) -> None:
    """Entries of one host agree on what is missing; nothing that sends accepts it."""
    directory = write(tmp_path, TWO)
    with pytest.raises(ConfigErrors) as caught:
        load_content(directory, tmp_path / "state")
    assert len(caught.value.errors) == 1
    content = load_content(directory, tmp_path / "state", preview=True)
    assert [one.message for one in content.warnings] == ["the CA file 'state:demo/ca.pem' does not exist yet"]
    with pytest.raises(ConfigErrors, match="a revision holds certificates"):
        compile_snapshot(content.canonical, seq=1)
    (entry, _) = compile_snapshot(content.canonical, seq=0, preview=True).apps["a"].entries
    with pytest.raises(ssl.SSLError):
        upstream_context(entry.upstream_ca)


def test_a_file_that_is_there_and_unusable_is_still_a_mistake(tmp_path: Path) -> None:
    directory = write(tmp_path, TWO)
    (tmp_path / "state" / "demo").mkdir(parents=True)
    (tmp_path / "state" / "demo" / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigErrors):
        load_content(directory, tmp_path / "state", preview=True)


def test_a_user_without_a_name_can_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with `--user 1234` has no entry in the password file."""

    def nobody() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr(getpass, "getuser", nobody)
    parser = argparse.ArgumentParser()
    _policy.add_signer(parser)
    assert parser.parse_args([]).author is None
    assert this_user().startswith("uid ")
