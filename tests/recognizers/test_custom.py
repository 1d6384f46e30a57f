"""The open door: recognisers and profiles of an installation, and ours in presidio's place and inside presidio."""

from pathlib import Path

import pytest

from proxy.recognizers import of_module
from proxy.recognizers._custom import profiles_of, recognizers_of
from proxy.recognizers.base import ModelUnavailable, RecognizerFailed
from proxy.recognizers.engine import Engine
from proxy.recognizers.profiles import PROFILES

YAML = """
recognizers:
  - name: Ticket
    supported_entity: TICKET
    patterns: [{name: ticket, regex: "TCK-[0-9]{6}", score: 0.3}]
    context: [ticket]
  - name: Codename
    supported_languages: [en]
    supported_entity: CODENAME
    deny_list: [Bluebird, Redwing]
  - name: Off
    enabled: false
    supported_entity: OFF
    deny_list: [off]
"""
PYTHON = """
from presidio_analyzer import EntityRecognizer, RecognizerResult

class Shouting(EntityRecognizer):
    def __init__(self):
        super().__init__(supported_entities=["SHOUT"], name="Shouting")
    def load(self): pass
    def analyze(self, text, entities, nlp_artifacts):
        if "boom" in text:
            raise KeyError(text)
        at = text.find("HELP")
        return [RecognizerResult("SHOUT", at, at + 4, 0.9)] if at >= 0 else []
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "ours.yaml").write_text(YAML)
    (tmp_path / "shout.py").write_text(PYTHON)
    return tmp_path


def _found(engine: Engine, text: str, profile: str = "balanced") -> list[tuple[str, str]]:
    return [(item.entity, text[item.start : item.end]) for item in engine.detect([text], profile)[0]]


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_admin_written_recognisers_run_in_every_profile(directory: Path, profile: str) -> None:
    engine = Engine(recognizers_of(directory))
    assert _found(engine, "ticket TCK-123456 of Bluebird: HELP", profile) == [
        ("TICKET", "TCK-123456"), ("CODENAME", "Bluebird"), ("SHOUT", "HELP"),
    ]  # fmt: skip
    assert _found(engine, "TCK-123456 and off", "balanced") == []  # no context word; switched off


def test_what_a_class_raises_fails_the_inspection_without_its_text(directory: Path) -> None:
    engine = Engine(recognizers_of(directory))
    with pytest.raises(RecognizerFailed) as failed:
        engine.detect(["boom 4111"])
    assert "4111" not in str(failed.value)
    assert "KeyError" in str(failed.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.yaml", "recognizers: [{name: x}]"), ("x.yaml", "{"), ("x.yaml", "a: 1"), ("x.py", "import nothing_like_it"),
     ("x.yaml", "recognizers: [{supported_entity: X, patterns: [{name: x, regex: '(', score: 1}]}]")],
)  # fmt: skip
def test_a_broken_file_is_named_and_nothing_starts(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelUnavailable, match=name):
        recognizers_of(tmp_path)


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no directory"):
        recognizers_of(tmp_path / "absent")


def test_profiles_are_changed_by_data(tmp_path: Path) -> None:
    (tmp_path / "profiles.yaml").write_text("balanced: {models: [rampart_full], threshold: 0.6}")
    changed = profiles_of(tmp_path)
    assert changed["balanced"].models == {"rampart_full"}
    assert changed["balanced"].threshold == 0.6
    assert changed["strict"] == PROFILES["strict"]


@pytest.mark.parametrize(
    "content", ["lenient: {threshold: 0}", "balanced: {gate: off}", "balanced: {threshold: high}", "["]
)
def test_a_mistake_in_profiles_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "profiles.yaml").write_text(content)
    with pytest.raises(ModelUnavailable, match=r"profiles\.yaml"):
        profiles_of(tmp_path)


def test_our_engine_answers_like_presidios(engine: Engine) -> None:
    from presidio_analyzer import Pattern, PatternRecognizer

    from proxy.recognizers.presidio_api import EgressAnalyzerEngine

    analyzer = EgressAnalyzerEngine(engine=engine)
    text = "Jane Roe pays with 4111 1111 1111 1111, see https://example.com, zz-1"
    found = [(item.entity_type, text[item.start : item.end]) for item in analyzer.analyze(text, language="en")]
    assert ("CREDIT_CARD", "4111 1111 1111 1111") in found
    only = analyzer.analyze(text, "en", entities=["URL"], allow_list=["nothing"])
    assert [item.entity_type for item in only] == ["URL"]
    assert analyzer.analyze(text, "en", entities=["CREDIT_CARD"], allow_list=["4111 1111 1111 1111"]) == []
    extra = PatternRecognizer("ZZ", patterns=[Pattern("zz", "zz-[0-9]", 0.5)])
    assert "ZZ" in {item.entity_type for item in analyzer.analyze(text, "en", ad_hoc_recognizers=[extra])}
    assert "CREDIT_CARD" in analyzer.get_supported_entities()


def test_our_recognisers_inside_a_presidio_registry() -> None:
    from presidio_analyzer import RecognizerRegistry

    from proxy.recognizers.presidio_api import EgressRecognizer

    registry = RecognizerRegistry(supported_languages=["en"])
    registry.add_recognizer(EgressRecognizer(of_module("iban")[0]))
    (ours,) = registry.get_recognizers(language="en", entities=["IBAN_CODE"])
    text = "pay GB82 WEST 1234 5698 7654 32 today"
    (result,) = ours.analyze(text, ["IBAN_CODE"])
    assert (text[result.start : result.end], result.score) == ("GB82 WEST 1234 5698 7654 32", 1.0)
