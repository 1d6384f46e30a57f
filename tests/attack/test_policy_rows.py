"""Every policy row of the corpora stands in our table, and is refused for its own reason at its own line."""

from pathlib import Path
from typing import Any

import pytest

from tests import shared_data
from tests.attack.policyrows import ROWS, misjudged


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['of']} {row['name']}")
def test_row(tmp_path: Path, row: dict[str, Any]) -> None:
    assert misjudged(row, tmp_path / "policy") == ""


def named(of: str) -> set[str]:
    return {str(row["name"]) for row in ROWS if row["of"] == of}


@shared_data.needs("security/own/yaml_policy_cases.jsonl")
def test_the_own_rows_are_whole() -> None:
    assert named("own") == {row["name"] for row in shared_data.rows("security/own/yaml_policy_cases.jsonl")}


@shared_data.needs("security/pipelock")
def test_the_rows_of_pipelock_are_whole() -> None:
    folder = shared_data.ROOT / "security/pipelock/internal/contract/testdata/invalid"
    assert named("pipelock") == {file.stem for file in folder.glob("*.yaml")}


@shared_data.needs("security/smokescreen-acl")
def test_the_rows_of_smokescreen_are_whole() -> None:
    assert named("smokescreen") == {
        file.stem for file in (shared_data.ROOT / "security/smokescreen-acl/yaml").glob("*")
    }
