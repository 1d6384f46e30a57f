"""Floors on the development data, where it is at hand. Accuracy may rise; a change that lowers it must say so."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from loadtests.bench_detect import accuracy, false_hits, secrets_recall
from proxy.recognizers.engine import Engine

DATA = Path(os.environ.get("EGRESS_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
pytestmark = pytest.mark.skipif(not (DATA / "dlp" / "pii_dev.json").is_file(), reason="development data is not here")

OURS = {"CREDIT_CARD", "IBAN_CODE", "US_SSN", "EMAIL_ADDRESS", "IP_ADDRESS", "PHONE_NUMBER"}


def _json(name: str) -> Any:
    return json.loads((DATA / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("profile", "floor"), [("balanced", 0.88), ("strict", 0.84)])
def test_accuracy_floors(engine: Engine, profile: str, floor: float) -> None:
    scores = accuracy(engine, _json("dlp/pii_dev.json"), profile)
    per_entity = scores["per_entity"]
    assert scores["total"]["f2"] >= floor  # plain Presidio: 0.504
    for entity in ("CREDIT_CARD", "IBAN_CODE", "US_SSN", "EMAIL_ADDRESS", "IP_ADDRESS"):
        assert per_entity[entity]["f2"] >= 0.98, entity
    assert per_entity["PHONE_NUMBER"]["f2"] >= 0.9


CEILINGS = {  # plain Presidio: 142 to 930
    "balanced": {"python": 40, "logs": 30, "debian": 80, "pypi": 110, "docstrings": 80},
    "strict": {"python": 20, "logs": 20, "debian": 60, "pypi": 60, "docstrings": 60},
}


@pytest.mark.parametrize("profile", sorted(CEILINGS))
def test_false_hits_stay_below_plain_presidio(engine: Engine, profile: str) -> None:
    texts = _json("fp/ordinary_text.json")
    for kind, hits in false_hits(engine, texts, profile).items():
        assert hits["total"] <= CEILINGS[profile][kind], (kind, hits)
        assert sum(hits.get(entity, 0) for entity in OURS - {"PHONE_NUMBER"}) <= 4, (kind, hits)
        assert hits.get("SECRET", 0) + hits.get("PRIVATE_KEY", 0) <= 1, (kind, hits)


def test_secrets(engine: Engine) -> None:
    recall = secrets_recall(engine, DATA / "secrets")
    assert recall["vendor"] >= 0.85
    assert recall["pem"] >= 0.95


def test_presidio_s_own_cases_for_our_entities(engine: Engine) -> None:
    """Positives of presidio's unit tests for the entities that have recognisers of our own."""
    missed = []
    positives = 0
    for file, entity, text, count, _ in _json("dlp/recognizer_cases.json"):
        if entity in OURS and count:
            positives += 1
            found = {finding.entity for finding in engine.detect([text], "balanced")[0]}
            if entity not in found:
                missed.append((file, text))
    assert positives > 20
    assert len(missed) <= positives * 0.25, missed  # loopback and unspecified addresses are left alone by design
