"""Doubts about model hits: how sure the model must be for which form, one row each."""

import pytest

from proxy.model import Finding
from proxy.recognizers.profiles import PROFILES
from proxy.recognizers.prose import plausible


def _least(text: str, value: str, entity: str, profile: str) -> float:
    """The least probability, in hundredths, at which the finding is believed; 2 when it never is."""
    start = text.index(value)
    for hundredths in range(101):
        finding = Finding(entity, start, start + len(value), hundredths / 100, "rampart")
        if plausible(text, finding, PROFILES[profile].floors):
            return hundredths / 100
    return 2.0


@pytest.mark.parametrize(
    ("text", "value", "entity", "usual", "hard"),
    [
        ("I met Jane Roe there", "Jane Roe", "PERSON", 0.5, 0.7),
        ("I met (Jane Roe) there", "Jane Roe", "PERSON", 0.5, 0.7),
        ("I met Ronald McDonald there", "Ronald McDonald", "PERSON", 0.5, 0.7),
        ("I met Jane there", "Jane", "PERSON", 0.65, 0.92),
        ("jane was", "jane", "PERSON", 0.9, 2.0),
        ("jane roe was", "jane roe", "PERSON", 0.8, 0.97),
        ("in paris we", "paris", "LOCATION", 0.85, 0.98),
        ("at 12 Main St we", "12 Main St", "LOCATION", 0.6, 0.75),
        ("zip 90210 is", "90210", "LOCATION", 0.72, 0.8),
        (">Jane Roe wrote", "Jane Roe", "PERSON", 0.5, 0.7),
        ("List<Jane Roe", "Jane Roe", "PERSON", 0.97, 2.0),
        ("self.Smith Jones = 1", "Smith Jones", "PERSON", 0.97, 2.0),
        ("f(Smith)", "Smith", "PERSON", 0.97, 2.0),
        ("using ALSA and", "ALSA", "PERSON", 0.98, 2.0),
        ("for Linux and", "Linux", "LOCATION", 2.0, 2.0),
        ("  # Spacing of", "Spacing", "PERSON", 2.0, 2.0),
        ("# Jane Roe wrote", "Jane Roe", "PERSON", 0.5, 0.7),
    ],
)
def test_how_sure_the_model_must_be(text: str, value: str, entity: str, usual: float, hard: float) -> None:
    assert _least(text, value, entity, "balanced") == pytest.approx(usual)
    assert _least(text, value, entity, "strict") == pytest.approx(hard)
    assert _least(text, value, entity, "paranoid") == 0.0


def test_other_entities_are_not_doubted() -> None:
    assert _least("on 3 March", "3 March", "DATE_TIME", "strict") == 0.0


def test_strict_never_asks_for_less_than_balanced() -> None:
    usual, hard = PROFILES["balanced"].floors, PROFILES["strict"].floors
    assert {entity: set(forms) for entity, forms in usual.items()} == {key: set(forms) for key, forms in hard.items()}
    assert all(hard[entity][form] >= floor for entity, forms in usual.items() for form, floor in forms.items())
