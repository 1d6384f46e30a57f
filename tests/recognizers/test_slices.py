"""Long texts are shown to models in slices: nothing is missed at an edge, nothing is found twice."""

import hashlib
import random
import re
from collections.abc import Sequence

import pytest
from ahocorasick_rs import AhoCorasick
from hypothesis import given
from hypothesis import strategies as st

from proxy.model import Finding
from proxy.recognizers import national_id, secret_token, seed_phrase
from proxy.recognizers._hints import holds, occurrences
from proxy.recognizers._slices import OVERLAP_CHARS, SLICE_CHARS, slices
from proxy.recognizers.base import Recognizer
from proxy.recognizers.engine import Engine


@given(st.integers(0, 5000), st.integers(20, 400), st.integers(2, 9))
def test_own_parts_join_and_stand_away_from_the_edges(size: int, slice_chars: int, half: int) -> None:
    made = list(slices(size, slice_chars, 2 * half))
    assert [each.first for each in made] == [0, *(each.last for each in made[:-1])]
    assert made[-1].last == made[-1].end == size
    for each in made:
        assert each.end - each.start <= slice_chars
        assert each.start == 0 or each.first - each.start == half
        assert each.end == size or each.end - each.last == half


class Names:
    """A model that finds names of any length, and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[int] = []

    def find_many(self, texts: Sequence[str]) -> list[list[Finding]]:
        self.shown += map(len, texts)
        return [
            [Finding("PERSON", found.start(), found.end(), 0.9, "m") for found in re.finditer(r"Anna( Meyer)?", text)]
            for text in texts
        ]

    def engine(self) -> Engine:
        return Engine([Recognizer("m", frozenset({"PERSON"}), "pattern", find_many=self.find_many)])


@pytest.mark.parametrize("shift", [-11, -10, -5, -1, 0, 1])
@pytest.mark.parametrize("edge", ["first", "last", "start", "end"])
def test_a_name_at_any_edge_is_found_once_and_whole(edge: str, shift: int) -> None:
    second = list(slices(3 * SLICE_CHARS))[1]
    place = getattr(second, edge) + shift
    text = "." * place + "Anna Meyer" + "." * (3 * SLICE_CHARS - place - 10)
    names = Names()
    (found,) = names.engine().detect([text])
    assert [(each.start, each.end) for each in found] == [(place, place + 10)]
    assert max(names.shown) <= SLICE_CHARS


def test_short_texts_before_and_after_a_long_one_keep_their_places() -> None:
    long = "." * SLICE_CHARS + "Anna"
    found = Names().engine().detect(["Anna", "x", long, "Anna Meyer", "", long + "!"])
    assert [[(each.start, each.end) for each in one] for one in found] == [
        [(0, 4)], [], [(SLICE_CHARS, SLICE_CHARS + 4)], [(0, 10)], [], [(SLICE_CHARS, SLICE_CHARS + 4)],
    ]  # fmt: skip


def test_what_the_real_models_find_in_a_long_text_is_what_they_find_in_a_short_one(engine: Engine) -> None:
    line = "Please ask Jane Roe of Springfield about the invoice.\n"
    filler = "the quick brown fox jumps over the lazy dog and rests.\n"
    chosen = random.Random(5)
    text = "".join(line if chosen.random() < 0.01 else filler for _ in range(3 * SLICE_CHARS // len(filler)))
    assert len(text) > 2 * SLICE_CHARS
    expected = [each.start() for each in re.finditer("Jane Roe", text)]
    found = [each.start for each in engine.detect([text])[0] if each.entity == "PERSON"]
    assert found == expected


def _phrase() -> str:
    words = list(seed_phrase._places())
    entropy = bytes(range(16))
    bits = "".join(f"{byte:08b}" for byte in entropy) + f"{hashlib.sha256(entropy).digest()[0]:08b}"[:4]
    return " ".join(words[int(bits[at : at + 11], 2)] for at in range(0, 132, 11))


@pytest.mark.parametrize("place", [0, SLICE_CHARS - 40, SLICE_CHARS - OVERLAP_CHARS, 2 * SLICE_CHARS])
def test_a_seed_phrase_across_slices_is_found(place: int) -> None:
    text = "1" * place + " " + _phrase() + " " + "1" * SLICE_CHARS
    assert seed_phrase.RECOGNIZER.trigger(text)
    assert [each.entity for each in seed_phrase.RECOGNIZER.find(text)] == ["SEED_PHRASE"]
    assert not seed_phrase.RECOGNIZER.trigger("a quick brown fox and " * SLICE_CHARS)


@pytest.mark.parametrize("shift", [-3, -1, 0, 1])
@pytest.mark.parametrize("edge", ["first", "last", "start", "end"])
def test_a_piece_at_any_edge_occurs_once(edge: str, shift: int) -> None:
    pieces = AhoCorasick(["sk-", "sk-ant-", "k-"])
    place = getattr(list(slices(3 * SLICE_CHARS))[1], edge) + shift
    text = "." * place + "sk-ant-" + "." * (3 * SLICE_CHARS - place)
    assert sorted(occurrences(pieces, text)) == sorted(pieces.find_matches_as_indexes(text, overlapping=True))
    assert holds(text, pieces)
    assert not holds("." * 3 * SLICE_CHARS, pieces)


def test_pieces_are_shorter_than_half_of_what_slices_share() -> None:
    longest = max(map(len, (*secret_token._LITERALS, *(word for kind in national_id.KINDS for word in kind.context))))
    assert longest < OVERLAP_CHARS // 2
