"""Which windows the whole model reads after the small one, and what that may cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from proxy.recognizers import rampart
from proxy.recognizers._onnx import Array

PERSON, LOCATION = 1, 2


@dataclass
class Says:
    """An encoder that gives every piece of a window the kind and probability that its first piece stands for."""

    chances: dict[int, tuple[int, float]]
    seen: list[list[int]] = field(default_factory=list)

    def kinds(self, windows: Sequence[Sequence[int]]) -> Array:
        found = np.zeros((len(windows), max(map(len, windows)), 4), np.float32)
        for row, ids in enumerate(windows):
            self.seen.append(list(ids))
            kind, chance = self.chances[ids[1]]
            found[row, :, kind] = chance
            found[row, :, 0] = 1 - chance
        return found


def read(
    chances: dict[int, tuple[int, float]],
    windows: Sequence[tuple[int, ...]],
    foreign: frozenset[tuple[int, ...]] = frozenset(),
) -> tuple[list[int], set[int]]:
    """(first pieces of the windows that the whole model read, first pieces that got an answer)"""
    whole, quick = Says(dict.fromkeys(chances, (PERSON, 0.99))), Says(chances)
    loaded = replace(rampart.model(), encoder=whole, quick=quick)  # type: ignore[arg-type] - two encoders with `kinds`
    answers = dict(rampart._read_quickly(loaded, windows, foreign))
    for ids, row in answers.items():
        sure = 0.99 if [rampart.model().cls, *ids, rampart.model().sep] in whole.seen else chances[ids[0]][1]
        assert row[1:-1].shape == (len(ids), 4)
        assert row[1, 1:3].max() == pytest.approx(sure, abs=1e-3)
    return sorted(ids[1] for ids in whole.seen), {ids[0] for ids in answers}


def test_what_the_small_one_is_sure_of_is_read_once() -> None:
    # Of the two kinds asked for, one is not in doubt.
    near, far = rampart.DOUBT, 3 * rampart.DOUBT
    chances = {10: (PERSON, near), 11: (PERSON, far), 12: (LOCATION, 1 - far), 13: (LOCATION, 1 - near)}
    second, answered = read(chances, [(first, 1, 2) for first in chances])
    assert second == [11, 12]
    assert answered == set(chances)


def test_names_in_lines_alike_are_found() -> None:
    """Each line but for its name is the same, and what the model is sure of: the name must not be drowned."""
    names = ("Karen Whitlock", "Imran Desai", "Judith Novak", "Carlos Benitez", "Heather Lindqvist", "Samuel Okafor")
    text = "\n".join(
        f"Nov 12 08:1{at}:01 host7 mailerd[88]: delivered message 4417{at} for {name} via relay2"
        for at, name in enumerate(names)
    )
    found = [text[each.start : each.end] for each in rampart.find_quickly([text])[0] if each.entity == "PERSON"]
    assert sum(name in found for name in names) >= len(names) - 1


def test_second_looks_are_bounded_by_a_share_of_the_text() -> None:
    chances = dict.fromkeys(range(1000, 1400), (PERSON, 0.5))
    windows = [(first, *range(1, 10)) for first in chances]
    second, answered = read(chances, windows)
    tokens = 10 * len(windows)
    assert answered == set(chances)
    assert 10 * len(second) <= rampart.SECOND_LOOK_TOKENS + rampart.SECOND_LOOK_SHARE * tokens
    assert 10 * len(second) > rampart.SECOND_LOOK_SHARE * tokens


def test_what_is_in_another_language_is_read_by_the_whole_model_only() -> None:
    second, answered = read({10: (PERSON, 0.01), 11: (PERSON, 0.01)}, [(10, 1), (11, 1)], frozenset({(11, 1)}))
    assert second == [11]
    assert answered == {10, 11}


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("Kannst du prüfen, ob Jane Roe schon bezahlt hat?", True),
        ("El expediente de Roe está en el juzgado.", True),
        ("Le dossier de Roe est au tribunal.", True),
        ("La pratica della Roe non è al tribunale.", True),
        ("O processo de Roe não foi assinado.", True),
        ("Het dossier van Roe ligt bij de rechtbank.", True),
        ("Please ask Ludwig van der Berg in La Paz, or Les, about Das Auto.", True),
        ("Please ask Ludwig van der Berg in La Paz about the invoice from Los Angeles.", False),
        ("Jane Roe, 12 Main Street, Springfield", False),
        ("größer 4111", True),
        ("Frau Größer und Söhne", True),
        ("Müller, Núñez, ÉCOLE", False),
        ("It is not on me" + " x" * 40 + " und nicht", False),
    ],
)
def test_a_language_is_known_by_small_words_close_by(text: str, foreign: bool) -> None:
    region = rampart._region(rampart.model(), 0, text, 0, 12)
    assert region.foreign is foreign
