"""Builds an index from the rows of a table. Cells are hashed as they come; none is kept."""

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from proxy.customdata.index import (
    COLUMN_SHIFT,
    FIRST_LINE_BYTES,
    MAGIC,
    MAX_COLUMNS,
    MAX_ROWS,
    TEXT_SHIFT,
    BadIndex,
    Header,
    Tagger,
    index_key,
)
from proxy.customdata.words import Kind, spelled

_WORDY: Final[Mapping[str, int]] = {"name": 0, "text": TEXT_SHIFT}


@dataclass(slots=True)
class Builder:
    """Takes rows one by one; `finish` gives the file. `left_out`: cells per column that say too little (empty, too
    short, no address)."""

    columns: Sequence[tuple[str, Kind]]
    master: bytes
    key_id: str
    salt: str
    left_out: list[int] = field(init=False)
    rows: int = 0
    _tagger: Tagger = field(init=False)
    _tags: "array[int]" = field(default_factory=lambda: array("Q"))
    _cells: "array[int]" = field(default_factory=lambda: array("I"))
    _words: dict[bytes, int] = field(default_factory=dict)
    _lengths: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not 0 < len(self.columns) <= MAX_COLUMNS:
            raise BadIndex(f"an index has one to {MAX_COLUMNS} columns")
        self.left_out = [0] * len(self.columns)
        self._tagger = Tagger(index_key(self.master, self.salt))

    def add(self, row: Sequence[str]) -> None:
        """One row, its cells in the order of `columns`. Raises BadIndex for one row too many."""
        if self.rows >= MAX_ROWS:
            raise BadIndex(f"an index holds at most {MAX_ROWS} rows")
        seen: set[int] = set()
        for column, ((_, kind), cell) in enumerate(zip(self.columns, row, strict=True)):
            value = spelled(kind, cell)
            if value is None:
                self.left_out[column] += 1
                continue
            tag = self._tagger.cell(kind, value)
            if tag in seen:  # one number in two columns is one fact, not two
                continue
            seen.add(tag)
            self._tags.append(tag)
            self._cells.append(column << COLUMN_SHIFT | self.rows)
            self._note(kind, value)
        self.rows += 1

    def _note(self, kind: Kind, value: str) -> None:
        if kind == "number":
            self._lengths.add(len(value))
        if kind not in _WORDY:
            return
        words = value.split(" ")
        bit = 1 << (len(words) - 1 + _WORDY[kind])
        tags = self._tagger.words(words)
        for at in range(0, len(tags), 8):
            tag = tags[at : at + 8]
            self._words[tag] = self._words.get(tag, 0) | bit

    def finish(self) -> Iterable[bytes]:
        """The file in pieces. Raises BadIndex when there is nothing in it."""
        import numpy as np

        if not self._tags:
            raise BadIndex("no cell says enough to be looked for")
        tags = np.frombuffer(self._tags, np.uint64)
        cells = np.frombuffer(self._cells, np.uint32)
        order = np.lexsort((cells, tags))
        words = np.frombuffer(b"".join(self._words), "<u8")
        reaches = np.fromiter(self._words.values(), np.uint16, len(self._words))
        by_word = np.argsort(words)
        header = Header(
            self.key_id, self.salt, tuple(self.columns), self.rows, len(tags), len(words), tuple(sorted(self._lengths))
        )
        parts = [
            header.line(), tags[order].astype("<u8").tobytes(), cells[order].astype("<u4").tobytes(),
            words[by_word].tobytes(), reaches[by_word].astype("<u2").tobytes(),
        ]  # fmt: skip
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        first = MAGIC + digest.hexdigest().encode() + b"\n"
        if len(first) != FIRST_LINE_BYTES:
            raise BadIndex("the first line has another length")
        return [first, *parts]
