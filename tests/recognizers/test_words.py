"""From probabilities of word pieces to spans: which neighbours become one, and which never do."""

from itertools import accumulate

import numpy as np
import pytest

from proxy.recognizers._pieces import Pieces
from proxy.recognizers._words import KINDS, Word, grouping, spans, words_of_each

PERSON, LOCATION, ID = (KINDS.index(kind) for kind in ("PERSON", "LOCATION", "ID"))


def test_labels_go_to_their_kind_and_unknown_ones_to_id() -> None:
    labels = {0: "O", 1: "B-GIVEN_NAME", 2: "I-SURNAME", 3: "B-CITY", 4: "B-PHONE", 5: "I-NEVER_HEARD_OF"}
    matrix = grouping(labels)
    assert matrix.argmax(1).tolist() == [0, PERSON, PERSON, LOCATION, ID, ID]
    assert matrix.sum(1).tolist() == [1] * 6


def part(*words: tuple[int, int, int]) -> Pieces:
    """Of (pieces, start, end) of each word."""
    firsts = list(accumulate((size for size, _, _ in words), initial=0))
    return Pieces(list(range(firsts[-1])), firsts[:-1], [start for _, start, _ in words], [end for _, _, end in words])


def test_a_word_is_the_mean_of_its_pieces_from_the_first_to_the_last() -> None:
    pieces = np.array([[0.1, 0.9, 0, 0], [0.4, 0.6, 0, 0], [0.9, 0.1, 0, 0], [0.2, 0, 0.8, 0]])
    (found,) = words_of_each(pieces, [part((2, 0, 5), (1, 6, 8), (1, 9, 12))])
    assert [(word.start, word.end, word.kind) for word in found] == [(0, 5, PERSON), (9, 12, LOCATION)]
    assert [word.probability for word in found] == pytest.approx([0.75, 0.8])


def test_pieces_that_disagree_are_decided_by_their_mean() -> None:
    pieces = np.array([[0.1, 0.9, 0, 0], [1.0, 0, 0, 0]])
    assert words_of_each(pieces, [part((2, 0, 4))]) == [[]]


def test_words_of_several_parts_are_told_apart() -> None:
    pieces = np.array([[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]], float)
    found = words_of_each(pieces, [part((1, 0, 2), (1, 3, 5)), part(), part((2, 4, 9)), part((1, 0, 3))])
    assert [[(word.start, word.end, word.kind) for word in each] for each in found] == [
        [(0, 2, PERSON), (3, 5, PERSON)], [], [], [(0, 3, PERSON)],
    ]  # fmt: skip


def test_no_pieces_no_words() -> None:
    assert words_of_each(np.zeros((0, 4)), [part(), part()]) == [[], []]


def joined(text: str, kind: int) -> list[str]:
    """What is made of `text` when its words (letters and digits) are all of one kind."""
    found, start = [], None
    for at, char in enumerate(text + " "):
        if char.isalnum() and start is None:
            start = at
        elif not char.isalnum() and start is not None:
            found.append(Word(start, at, kind, 0.9))
            start = None
    return [text[begin:end] for _, begin, end, _ in spans(text, found)]


@pytest.mark.parametrize(
    ("text", "kind", "wanted"),
    [
        ("Jane Roe", PERSON, ["Jane Roe"]),
        ("J. Roe", PERSON, ["J. Roe"]),
        ("O'Neil", PERSON, ["O'Neil"]),
        ("Jane\nRoe", PERSON, ["Jane\nRoe"]),
        ("Jane, Karl", PERSON, ["Jane", "Karl"]),
        ("Jane\n\nRoe", PERSON, ["Jane", "Roe"]),
        ("Jane   Roe", PERSON, ["Jane", "Roe"]),
        ("12 Main St, Bonn", LOCATION, ["12 Main St, Bonn"]),
        ("Main St,\r\nBonn", LOCATION, ["Main St,\r\nBonn"]),
        ("Bonn; Rome", LOCATION, ["Bonn", "Rome"]),
        ("Bonn (D) Rome", LOCATION, ["Bonn", "D", "Rome"]),
        ("123 456", ID, ["123", "456"]),
    ],
)
def test_what_stands_between_words_decides_whether_they_are_one(text: str, kind: int, wanted: list[str]) -> None:
    assert joined(text, kind) == wanted


def test_a_state_between_two_places_belongs_to_them() -> None:
    text = "Austin, TX 78701"
    found = [Word(0, 6, LOCATION, 0.8), Word(11, 16, LOCATION, 0.6)]
    ((kind, start, end, probability),) = spans(text, found)
    assert (kind, text[start:end]) == ("LOCATION", text)
    assert probability == pytest.approx(0.7)


def test_kinds_are_never_mixed() -> None:
    text = "Paris Hilton"
    found = [Word(0, 5, LOCATION, 0.8), Word(6, 12, PERSON, 0.8)]
    assert [(kind, text[start:end]) for kind, start, end, _ in spans(text, found)] == [
        ("LOCATION", "Paris"), ("PERSON", "Hilton"),
    ]  # fmt: skip
