"""Every recogniser module has a corpus of positives and near-misses, and does what it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.model import Finding
from proxy.recognizers import discover, modules, of_module
from proxy.recognizers.base import LAYERS, LIKELY, Recognizer
from proxy.recognizers.engine import Engine
from proxy.recognizers.profiles import ON_REQUEST, PROSE, STRUCTURED

CORPUS = Path(__file__).parent / "corpus"


def _corpus(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CORPUS / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def _cases(kind: str) -> list[Any]:
    files = sorted(CORPUS.glob("*.yaml"))
    return [
        pytest.param(path.stem, case, id=f"{path.stem}-{number}")
        for path in files
        for number, case in enumerate(_corpus(path.stem)[kind])
    ]


def _found(name: str, text: str) -> list[list[str]]:
    engine = Engine(of_module(name))
    corpus = _corpus(name)
    named = frozenset(corpus.get("named", ()))  # as by a rule of policy
    (findings,) = engine.detect([text], corpus.get("profile", "balanced"), named)
    return [[finding.entity, text[finding.start : finding.end]] for finding in findings]


@pytest.mark.parametrize("name", modules())
def test_module_has_a_corpus_with_both_kinds(name: str) -> None:
    corpus = _corpus(name)
    assert len(corpus["positives"]) >= 2
    assert len(corpus["near_misses"]) >= 3


def test_no_corpus_without_a_module() -> None:
    assert {path.stem for path in CORPUS.glob("*.yaml")} == set(modules())


@pytest.mark.parametrize(("name", "case"), _cases("positives"))
def test_positive(name: str, case: dict[str, Any]) -> None:
    assert _found(name, case["text"]) == case["found"]


@pytest.mark.parametrize(("name", "text"), _cases("near_misses"))
def test_near_miss(name: str, text: str) -> None:
    assert _found(name, text) == []


def test_every_placed_entity_is_found_by_some_recogniser() -> None:
    declared = frozenset[str]().union(*(item.entities for item in discover()))
    assert declared >= STRUCTURED | PROSE | ON_REQUEST


@pytest.mark.parametrize("profile", ["strict", "balanced", "paranoid"])
def test_a_possible_secret_is_no_finding_unless_a_policy_names_it(profile: str) -> None:
    engine = Engine(of_module("possible_secret"))
    for case in _corpus("possible_secret")["positives"]:
        assert engine.detect([case["text"]], profile) == [[]]


@pytest.mark.parametrize("profile", ["strict", "balanced", "paranoid"])
def test_an_entity_that_nobody_placed_is_looked_for(profile: str) -> None:
    def find(text: str) -> Iterator[Finding]:
        at = text.find("ST-4711")
        if at >= 0:
            yield Finding("STAFF_NUMBER", at, at + 7, LIKELY, "staff_number")

    engine = Engine([Recognizer("staff_number", frozenset({"STAFF_NUMBER"}), "pattern", find=find)])
    (findings,) = engine.detect(["ask ST-4711"], profile)
    assert [(found.entity, found.start) for found in findings] == [("STAFF_NUMBER", 4)]


def test_names_are_unique_and_layers_known() -> None:
    names = [item.name for item in discover()]
    assert len(names) == len(set(names))
    assert all(item.layer in LAYERS for item in discover())


@pytest.mark.parametrize("name", modules())
def test_trigger_never_hides_a_positive(name: str) -> None:
    for case in _corpus(name)["positives"]:
        assert any(item.trigger(case["text"]) for item in of_module(name)), case["text"]


@pytest.mark.parametrize("name", modules())
def test_spans_lie_inside_texts_that_surround_the_positive(name: str) -> None:
    """Offsets hold behind astral characters and line ends (they are characters, not bytes)."""
    prefix = "\U0001f600 ünïcode\r\n\n"
    for case in _corpus(name)["positives"]:
        if name == "spacy_ner":
            continue
        assert _found(name, prefix + case["text"]) == case["found"]
