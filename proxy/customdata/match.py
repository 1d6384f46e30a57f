"""Rows of an indexed table in a message: `columns` of them within some words of each other, in enough rows.

All texts of a message are looked at as one long row of words, because a JSON record spreads a customer over its
leaves. Costs are bounded by the text and by the table: each value is looked up once however often it stands there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.config.snapshot import DlpExactMatch
from proxy.customdata.index import COLUMN_SHIFT, ROW_MASK, TEXT_SHIFT, Index
from proxy.customdata.words import Candidate, Kind, Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_STEPS: Final = 500_000
"""Occurrences looked at for their distance, half a second's worth. Past it (a text in which a common first name and a
common city fit most rows) distances are no longer asked for: that can only find more."""


class Place(NamedTuple):
    """Where a cell stands: `word` words into the message, characters `start:end` of text `text`. Sorts by that."""

    word: int
    text: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Occurrences:
    """The cells of one index that stand in one message. `places[i]` are those of the value `tags[i]`."""

    tags: list[int]
    places: list[list[Place]]


def occurrences(index: Index, texts: Sequence[tuple[int, str]]) -> Occurrences:
    """`texts`: (leaf, text) in the order of the message; readings of one leaf share its place in the row of words."""
    read = [Text(text) for _, text in texts]
    reaches = index.reaches_of(list(dict.fromkeys(word for text in read for word in text.words)))
    found: dict[tuple[Kind, str], list[tuple[int, int, Candidate]]] = {}
    bases: dict[int, int] = {}
    words = 0
    for at, (text, (leaf, _)) in enumerate(zip(read, texts, strict=True)):
        if leaf not in bases:
            bases[leaf] = words
            words += len(text.words)
        base = bases[leaf]
        for one in _candidates(index, text, reaches):
            found.setdefault((one.kind, one.value), []).append((base, at, one))
    return _known(index, found)


def _known(index: Index, found: Mapping[tuple[Kind, str], list[tuple[int, int, Candidate]]]) -> Occurrences:
    """Those of the candidates that are cells of the table."""
    tags = [index.tagger.cell(kind, value) for kind, value in found]
    hits = set(index.known(tags))
    kept: list[int] = []
    places: list[list[Place]] = []
    for position, seen in enumerate(found.values()):
        if position in hits:
            kept.append(tags[position])
            places.append([Place(base + one.word, at, one.start, one.end) for base, at, one in seen])
    return Occurrences(kept, places)


def _candidates(index: Index, text: Text, reaches: Mapping[str, int]) -> Iterator[Candidate]:
    kinds = {kind for _, kind in index.header.columns}
    mails = list(text.mails()) if "email" in kinds else []
    yield from mails
    if "phone" in kinds:
        yield from text.phones()
    if "number" in kinds:
        yield from text.numbers(frozenset(index.header.number_lengths))
    if not reaches:
        return
    of_words = [reaches.get(word, 0) for word in text.words]
    if not any(of_words):
        return
    for mail in mails:  # the name within an address is no second fact
        for at in range(mail.word, text.word_at(mail.end)):
            of_words[at] = 0
    if "name" in kinds:
        yield from text.rows_of_words("name", [reach & (1 << TEXT_SHIFT) - 1 for reach in of_words])
    if "text" in kinds:
        yield from text.rows_of_words("text", [reach >> TEXT_SHIFT for reach in of_words])


def matches(index: Index, rule: DlpExactMatch, seen: Occurrences) -> set[Place]:
    """The cells of the rows that match `rule`; none when they are fewer than `at_least`. Rows that match by the very
    same values count once: one `Anna from Berlin` is one customer, however many Annas live there."""
    import numpy as np

    mask = index.columns_of(rule.of)
    owners: list[int] = []
    parts: list[NDArray[np.uint32]] = []
    for position, cells in index.rows_of(seen.tags):
        wanted = cells[(mask >> (cells >> COLUMN_SHIFT)) & 1 == 1]
        if len(wanted):
            owners.append(position)
            parts.append(wanted)
    if len(owners) < rule.columns:
        return set()
    all_cells = np.concatenate(parts)
    of_value = np.repeat(np.array(owners), [len(part) for part in parts])
    records: set[tuple[Place, ...]] = set()
    budget = MAX_STEPS
    for values in _rows(all_cells, of_value, rule.columns):
        steps = sum(len(seen.places[value]) for value, _ in values)
        budget -= steps
        near = _near(values, seen, rule) if budget > 0 else [p for value, _ in values for p in seen.places[value]]
        if near:
            records.add(tuple(near))
    if len(records) < rule.at_least:
        return set()
    return {place for record in records for place in record}


def _rows(
    cells: "NDArray[np.uint32]", of_value: "NDArray[np.int64]", least: int
) -> Iterator[tuple[tuple[int, int], ...]]:
    """The (value, column) pairs of each row of which `least` columns stand in the message; each set of pairs once."""
    import numpy as np

    rows = cells & ROW_MASK
    columns = cells >> COLUMN_SHIFT
    pairs = np.unique(rows.astype(np.uint64) << 4 | columns)
    with_row, counts = np.unique(pairs >> 4, return_counts=True)
    kept = np.isin(rows, with_row[counts >= least])
    order = np.argsort(rows[kept], kind="stable")
    rows, columns, of_value = rows[kept][order], columns[kept][order], of_value[kept][order]
    edges = [0, *(np.nonzero(np.diff(rows))[0] + 1).tolist(), len(rows)]
    values, cols = of_value.tolist(), columns.tolist()
    known: set[tuple[tuple[int, int], ...]] = set()
    for start, end in pairwise(edges):
        facts = tuple(sorted(zip(values[start:end], cols[start:end], strict=True)))
        if facts and facts not in known:
            known.add(facts)
            yield facts


def _near(values: Sequence[tuple[int, int]], seen: Occurrences, rule: DlpExactMatch) -> list[Place]:
    """The places of one row's cells that lie within reach of enough other columns of it."""
    placed = sorted((place, column) for value, column in values for place in seen.places[value])
    columns: dict[int, int] = {}
    stretches: dict[int, int] = {}
    stretch = _stretches([place for place, _ in placed])
    out: list[Place] = []
    left = taken = 0
    for right, (place, column) in enumerate(placed):
        columns[column] = columns.get(column, 0) + 1
        stretches[stretch[right]] = stretches.get(stretch[right], 0) + 1
        while place.word - placed[left][0].word > rule.within_tokens:
            _less(columns, placed[left][1])
            _less(stretches, stretch[left])
            left += 1
        if len(columns) >= rule.columns <= len(stretches):
            out += (near for near, _ in placed[max(left, taken) : right + 1])
            taken = right + 1
    return out


def _stretches(places: Sequence[Place]) -> list[int]:
    """Numbers the places so that those that overlap share a number: one stretch of text is evidence once."""
    out: list[int] = []
    text = end = number = -1
    for place in places:
        if place.text != text or place.start >= end:
            number += 1
            text, end = place.text, place.end
        end = max(end, place.end)
        out.append(number)
    return out


def _less(counts: dict[int, int], key: int) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
