"""A recogniser, provider, rule, sink or verb is one module (and one corpus file): a copy of the tree gets one of each,
and every place that should know of it does."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT
from tests.config.kit import certificate

RECOGNIZER = '''"""Staff numbers: `ST-` and six digits."""

import re
from collections.abc import Iterator

from proxy.model import Finding
from proxy.recognizers.base import LIKELY, Recognizer, has_digit


def _find(text: str) -> Iterator[Finding]:
    for match in re.finditer(r"\\bST-[0-9]{6}\\b", text):
        yield Finding("STAFF_NUMBER", match.start(), match.end(), LIKELY, "staff_number")


RECOGNIZER = Recognizer("staff_number", frozenset({"STAFF_NUMBER"}), "pattern", find=_find, trigger=has_digit)
'''
PROVIDER = '''"""Acme's embeddings."""

import re
from dataclasses import dataclass

from proxy.providers.openai_embeddings import OpenAIEmbeddings


@dataclass(frozen=True)
class AcmeEmbeddings(OpenAIEmbeddings):
    """`POST /acme/embed`."""

    dialect = "acme_embeddings"
    paths = re.compile(r"/acme/embed")
    hosts = {"api.acme.example": "acme"}


PROVIDER = AcmeEmbeddings()
'''
RULE = '''"""Nothing leaves on a Sunday."""

from proxy.rules.base import FROM_CONNECT, Gate

RULE = Gate("sunday", 15, FROM_CONNECT, lambda facts, app, snapshot: None, "it is not Sunday")
'''
SINK = '''"""Audit lines to nowhere."""

from pathlib import Path

from proxy.sinks import Sink


class _Nowhere:
    def write(self, lines: bytes) -> None:
        pass

    def close(self) -> None:
        pass


SINK = Sink("nowhere", "drops every line", False, lambda directory, writer: _Nowhere())
'''
VERB = '''"""`egress greet`."""

import argparse

from proxy.cli import Verb


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--politely", action="store_true", help="with a bow")


VERB = Verb("greet", "say good morning", _configure, lambda args: print("good morning") or 0)
'''
MODULES = {
    "proxy/recognizers/staff_number.py": RECOGNIZER,
    "proxy/providers/acme_embeddings.py": PROVIDER,
    "proxy/rules/sunday.py": RULE,
    "proxy/sinks/nowhere.py": SINK,
    "proxy/cli/greet.py": VERB,
}
ROWS = {
    "recognizers": ("recognizer", "staff_number"),
    "providers": ("dialect", "acme_embeddings"),
    "rules": ("rule", "sunday"),
    "sinks": ("sink", "nowhere"),
    "verbs": ("verb", "greet"),
}
REFERENCE = {
    "entities.md": "| `STAFF_NUMBER` | `staff_number` |",
    "providers.md": "## acme_embeddings",
    "rules.md": "| `sunday` | gate |",
    "sinks.md": "| `nowhere` | no |",
    "command-line.md": "| `--politely` | with a bow |",
}

type Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with one new module of each kind, and the provider's corpus."""
    copy = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__", "state")
    for name in ("proxy", "addons", "docs", "allowlists", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", copy)
    for path, text in MODULES.items():
        assert not (copy / path).exists(), "the test's own name is taken"
        (copy / path).write_text(text)
    corpus = copy / "tests/providers/corpus"
    known = (corpus / "openai_embeddings.yaml").read_text()
    for old, new in (
        ("openai_embeddings", "acme_embeddings"),
        ("api.openai.com", "api.acme.example"),
        ("/v1/embeddings", "/acme/embed"),
    ):
        known = known.replace(old, new)
    (corpus / "acme_embeddings.yaml").write_text(known)
    return copy


@pytest.fixture(scope="module")
def run(tree: Path) -> Run:
    """`python -m MODULE ARGUMENTS` in the copy."""

    def go(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments], cwd=tree, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(tree), "EGRESS_STATE_DIR": str(tree / "state")},
        )  # fmt: skip

    return go


@pytest.mark.parametrize("kind", ROWS)
def test_it_is_listed(run: Run, kind: str) -> None:
    column, name = ROWS[kind]
    done = run("proxy.cli", "list", kind, "--json")
    assert done.returncode == 0, done.stderr
    assert name in {row[column] for row in json.loads(done.stdout)}


def test_it_is_documented(run: Run, tree: Path) -> None:
    """The pages as they are know nothing of it; one command mends that."""
    old = run("docs.generator", "--check")
    assert old.returncode == 1
    assert all(page in old.stderr for page in REFERENCE)
    done = run("docs.generator")
    assert done.returncode == 0, done.stderr
    for page, text in REFERENCE.items():
        assert text in (tree / "docs/reference" / page).read_text(), page
    assert run("docs.generator", "--check").returncode == 0


def test_a_verb_runs(run: Run) -> None:
    assert run("proxy.cli", "greet", "--politely").stdout == "good morning\n"
    assert "say good morning" in run("proxy.cli", "--help").stdout


def test_policy_knows_a_new_entity_and_it_is_found(run: Run, tree: Path) -> None:
    app = tree / "allowlists/apps/demo.yaml"
    text = app.read_text()
    app.write_text(text.replace("[PERSON, EMAIL_ADDRESS, PHONE_NUMBER]", "[PERSON, STAFF_NUMBER]"))
    (tree / "state/demo").mkdir(parents=True, exist_ok=True)
    (tree / "state/demo/ca.pem").write_bytes(certificate())
    done = run("proxy.cli", "check")
    assert (done.returncode, done.stderr) == (0, "")
    body = tree / "body.json"
    body.write_text('{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "ask ST-004711"}]}')
    url = "https://openai.demo.test:9443/v1/chat/completions"
    explained = run("proxy.cli", "explain", "--app", "demo", "--url", url, "--body", str(body))
    assert "STAFF_NUMBER" in explained.stdout, explained.stdout + explained.stderr
    app.write_text(text.replace("[PERSON, EMAIL_ADDRESS, PHONE_NUMBER]", "[PERSON, STUFF_NUMBER]"))
    misspelt = run("proxy.cli", "check")
    assert misspelt.returncode == 2
    assert "STAFF_NUMBER" in misspelt.stderr, "the mistake names what was meant"


def test_a_provider_passes_the_conformance_tests_with_its_corpus_alone(run: Run) -> None:
    done = run("pytest", "-p", "no:cacheprovider", "-n0", "-q", "tests/providers/test_conformance.py", "-k", "acme")
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
