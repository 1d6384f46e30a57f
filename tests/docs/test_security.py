"""SECURITY.md: nine invariants, each with tests that exist."""

import ast
import re

import pytest

from tests.architecture.tree import ROOT

TEXT = (ROOT / "SECURITY.md").read_text()
PROOFS = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)


def test_there_are_nine_and_each_names_a_proof() -> None:
    promises = TEXT.split("## What the proxy promises")[1].split("\n## ")[0]
    parts = re.split(r"^(\d)\. \*\*", promises, flags=re.MULTILINE)[1:]
    assert parts[::2] == [str(number) for number in range(1, 10)]
    assert all(len(re.findall(r"`tests/", part)) >= 2 for part in parts[1::2])


@pytest.mark.parametrize(("path", "name"), PROOFS, ids=[f"{path}::{name}" for path, name in PROOFS])
def test_the_named_test_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in found
