"""docs/reference says what the code says."""

import re

from docs.generator.__main__ import PAGES, REFERENCE, pages, stale
from docs.generator.operation import OWN_VARIABLES, STATE, state_properties
from proxy.audit import ENVELOPE, FIELDS
from proxy.cli._client_env import VARIABLES
from proxy.config.schema import APP, CONNECTOR_FILE, PLATFORM
from proxy.config.testfile import TEST_FILE
from proxy.config.types import Either, ListOf, MapOf, Obj
from proxy.providers import PROVIDERS
from proxy.recognizers import discover as recognizers
from proxy.rules import discover as rules
from proxy.sinks import sinks
from tests.architecture.tree import ROOT


def test_the_pages_on_disk_are_up_to_date() -> None:
    assert stale() == [], "run `make docs`"


def test_every_page_is_listed_and_named_once() -> None:
    index = pages()["README.md"]
    assert all(f"({name}.md)" in index for name in PAGES)
    assert {path.stem for path in REFERENCE.glob("*.md")} == {*PAGES, "README"}


def test_every_key_of_the_policy_files_is_told_with_its_meaning() -> None:
    page = pages()["policy-files.md"]
    todo: list[object] = [APP, CONNECTOR_FILE, PLATFORM, TEST_FILE]
    while todo:
        kind = todo.pop()
        if isinstance(kind, Obj):
            for field in kind.fields:
                told = [line for line in page.splitlines() if line.startswith(f"| `{field.name}` |")]
                assert field.internal or any(field.doc.replace("|", "\\|") in line for line in told), field.name
                todo.append(field.type)
        elif isinstance(kind, ListOf | MapOf):
            todo.append(kind.item)
        elif isinstance(kind, Either):
            todo.append(kind.other)


def test_what_is_found_by_listing_has_its_row() -> None:
    made = pages()
    assert all(f"| `{one.name}` |" in made["rules.md"] for one in rules())
    assert all(f"| `{one.name}` |" in made["entities.md"] for one in recognizers())
    assert all(f"## {one.dialect}\n" in made["providers.md"] for one in PROVIDERS)
    assert all(f"| `{name}` |" in made["sinks.md"] for name in sinks())
    assert all(f"| `{one.name}` |" in made["audit-record.md"] for one in (*ENVELOPE, *FIELDS))
    assert all(f"| `{one.name}` |" in made["environment-variables.md"] for one in VARIABLES)


def test_every_place_of_the_state_directory_is_told() -> None:
    assert set(state_properties()) == STATE.keys()


def test_every_variable_of_ours_that_the_code_reads_is_told() -> None:
    code = "\n".join(path.read_text() for folder in ("proxy", "addons") for path in (ROOT / folder).rglob("*.py"))
    assert set(re.findall(r"EGRESS_[A-Z_]+[A-Z]", code)) == OWN_VARIABLES.keys()


def test_tables_are_whole() -> None:
    """Every row has as many cells as its heading, so no bar or line break got loose."""
    for name, text in pages().items():
        width = 0
        for line in text.splitlines():
            bars = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert not bars or not width or bars == width, f"{name}: {line}"
            width = bars
