"""Nothing that a user meets is undocumented: reason codes, verbs and their options, metrics."""

import argparse
from functools import cache

import pytest

from proxy import cli
from proxy.dataplane.counters import METRICS
from proxy.errors import REASONS
from tests.architecture.tree import ROOT


@cache
def _docs() -> str:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text() for page in pages if page.exists())


@pytest.mark.parametrize("code", sorted(REASONS))
def test_a_reason_code_is_documented(code: str) -> None:
    assert f"`{code}`" in _docs()


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_metric_is_documented(name: str) -> None:
    assert f"egress_{name}" in _docs()


@pytest.mark.parametrize("name", cli.verb_names())
def test_a_verb_and_its_options_are_documented(name: str) -> None:
    parser = argparse.ArgumentParser()
    cli.load_verb(name).configure(parser)
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    missing = [option for option in sorted(options - {"--help"}) if option not in _docs()]
    assert f"egress {name}" in _docs()
    assert not missing


@pytest.mark.parametrize("name", cli.verb_names())
def test_a_verb_module_declares_itself(name: str) -> None:
    verb = cli.load_verb(name)
    assert verb.name == name
    assert verb.help
    assert verb.help[0].islower()
    assert not verb.help.endswith(".")
