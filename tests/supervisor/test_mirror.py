"""`egress run --audit-mirror stdout`: every audit line of all processes, and nothing else, on standard output."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import cli
from tests.lab.fixtures import Lab

type Factory = Callable[..., Lab]


def test_all_audit_lines_and_nothing_else_are_on_standard_output(lab_factory: Factory, tmp_path: Path) -> None:
    output = tmp_path / "stdout"
    lab = lab_factory(workers=2, extra=["--audit-mirror", "stdout"], stdout=output)
    with lab.product.httpx("alpha") as client:
        assert client.get(lab.url).status_code == 200
    lab.policy.app("gamma", lab.policy.entry("api", lab.api))
    lab.push()
    with lab.product.httpx("gamma") as client:
        assert client.get(lab.url).status_code == 200
    assert lab.product.stop() == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted(line["mac"] for line in lines) == sorted(record["mac"] for record in lab.product.records())
    assert {line["app"] for line in lines if line.get("outcome") == "allowed"} == {"alpha", "gamma"}
    assert any(line["writer"] == "supervisor" for line in lines)


@pytest.mark.parametrize("name", ["file", "nowhere"])
def test_only_mirrors_can_be_mirrors(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--audit-mirror", name]) == cli.EXIT_USAGE
    assert "stdout" in capsys.readouterr().err
