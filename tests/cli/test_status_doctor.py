"""`egress status` and `egress doctor` against a running product and an empty machine."""

import json
from pathlib import Path

import pytest

from proxy.cli import main
from proxy.supervisor import environment
from tests.lab.fixtures import Lab


def _json(lab: Lab, *arguments: str, code: int = 0) -> dict[str, object]:
    done = lab.product.cli(*arguments, "--json", check=False)
    assert done.returncode == code, done.stderr
    value: dict[str, object] = json.loads(done.stdout)
    return value


def test_status_tells_policy_workers_store_and_ca(lab: Lab) -> None:
    facts = _json(lab, "status", "--directory", str(lab.policy.directory))
    assert facts["ready"] is True
    assert facts["drift"]["state"] == "same"  # type: ignore[index]
    assert facts["policy"]["seq"] >= 1  # type: ignore[index]
    assert facts["store"] == {"kind": "embedded", "url": f"unix://{lab.product.paths.store_socket}", "fault": ""}
    assert [worker["state"] for worker in facts["workers"]] == ["serving"]  # type: ignore[attr-defined]
    text = lab.product.cli("status", "--directory", str(lab.policy.directory)).stdout
    assert "state      ready" in text
    assert "the directory holds the active policy" in text


@pytest.mark.parametrize(
    ("content", "state"), [("version: 1\n", "differs"), ("version: 1\nbogus: 2\n", "invalid"), (None, "none")]
)
def test_status_shows_drift(lab: Lab, tmp_path: Path, content: str | None, state: str) -> None:
    directory = tmp_path / "other"
    if content is not None:
        directory.mkdir()
        (directory / "platform.yaml").write_text(content)
    facts = _json(lab, "status", "--directory", str(directory))
    assert facts["drift"]["state"] == state  # type: ignore[index]


def test_status_without_a_proxy_says_how_to_start_one(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--state", str(state_dir)]) == 2
    assert "make run" in capsys.readouterr().err


def test_doctor_finds_nothing_wrong_with_a_running_product(lab: Lab) -> None:
    done = lab.product.cli("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert {"python", "import names", "root key", "CA expiry", "CA extensions", "open files", "proxy", "store"} <= set(
        checks
    )
    assert [check for check in checks.values() if check["ok"] is False] == []


def test_doctor_names_an_unsafe_state_directory(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state_dir.chmod(0o755)
    assert main(["doctor", "--state", str(state_dir)]) == 1
    assert f"chmod 700 {state_dir}" in capsys.readouterr().out


def test_doctor_names_another_owner_of_our_import_name(
    state_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "packages_distributions", lambda: {"proxy": ["proxy.py", "egress-proxy"]})
    assert main(["doctor", "--state", str(state_dir)]) == 1
    assert "proxy.py" in capsys.readouterr().out


def test_run_refuses_beside_another_owner_of_our_import_name(
    state_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "packages_distributions", lambda: {"proxy": ["proxy.py", "egress-proxy"]})
    assert main(["run", "--state", str(state_dir), "--explicit", "127.0.0.1:0", "--metrics", "off"]) == 2
    what, _, fix = capsys.readouterr().err.strip().splitlines()[-3:]
    assert "proxy.py" in what
    assert "pip uninstall proxy.py" in fix
    assert not any(state_dir.iterdir())


def test_run_refuses_a_policy_with_errors_and_leaves_nothing_behind(
    state_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "platform.yaml").write_text("version: 1\nbogus: 2\nlisten: 3\n")
    arguments = ["run", "--state", str(state_dir), "--directory", str(tmp_path), "--explicit", "127.0.0.1:0"]
    assert main([*arguments, "--metrics", "off"]) == 2
    shown = capsys.readouterr().err
    assert "platform.yaml:2:1" in shown
    assert "platform.yaml:3:" in shown
    assert not (state_dir / "run" / "store.sock").exists()


def test_doctor_store_that_is_away(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--state", str(state_dir), "--store", f"unix://{state_dir}/none.sock"]) == 1
    assert "BAD  given store" in capsys.readouterr().out
