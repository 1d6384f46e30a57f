"""Data that policy files refer to: word lists, which a revision holds whole, and indexes, which it holds by digest."""

import re
from dataclasses import dataclass

from proxy.config.types import BadValue
from proxy.customdata.words import KINDS

MAX_WORDS_BYTES = 1 << 20  # some 100,000 words; every worker and inspector keeps them
MAX_WORD_CHARS = 200
LEAST_WORD_CHARS = 2
_INDEX = re.compile(r"sha256:([0-9a-f]{64}) ([1-9][0-9]{0,9}) rows ((?:[A-Za-z0-9_.-]+:[a-z]+,?)+)")


@dataclass(frozen=True, slots=True)
class IndexRef:
    """An index as a revision names it. `columns`: name -> kind."""

    digest: str
    rows: int
    columns: dict[str, str]

    def __str__(self) -> str:
        columns = ",".join(f"{name}:{kind}" for name, kind in self.columns.items())
        return f"sha256:{self.digest} {self.rows} rows {columns}"


def parse_words(text: str) -> tuple[str, str]:
    """One word or phrase a line; `#` begins a comment line. Gives them so, without comments. Raises BadValue."""
    words = [line.strip() for line in text.splitlines()]
    words = list(dict.fromkeys(word for word in words if word and not word.startswith("#")))
    if not words:
        raise BadValue("the word list is empty", "one word or phrase a line")
    for word in words:
        check_word(word)
    return "\n".join(words), "\n".join(words)


def check_word(word: str) -> None:
    """Raises BadValue for what would be found everywhere, or is no word."""
    if len(word) < LEAST_WORD_CHARS or not any(char.isalnum() for char in word):
        raise BadValue(f"{word!r} would be found everywhere", f"words of {LEAST_WORD_CHARS} characters or more")
    if len(word) > MAX_WORD_CHARS:
        raise BadValue(f"a word has more than {MAX_WORD_CHARS} characters", "one word or phrase a line")


def parse_index(text: str) -> tuple[IndexRef, str]:
    """An index reference of a revision. Raises BadValue."""
    found = _INDEX.fullmatch(text)
    columns = dict(item.split(":") for item in found[3].split(",")) if found and not found[3].endswith(",") else {}
    if found is None or not columns or not set(columns.values()) <= set(KINDS):
        raise BadValue("a revision names indexes by digest", "publish it again with `egress push`")
    ref = IndexRef(found[1], int(found[2]), columns)
    return ref, str(ref)
