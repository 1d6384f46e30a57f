"""What a recogniser is. A module of this package exports one `RECOGNIZER` (or `RECOGNIZERS`) and is found by listing.

Scores follow Presidio's habit: 1.0 checked by a checksum or an unmistakable form, 0.85 a sure pattern, below 0.4 only
with a context word beside it (`CONTEXT_RAISE`). Findings carry offsets only; the matched text is never kept.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from proxy.model import Finding

SURE: Final = 1.0
LIKELY: Final = 0.85
POSSIBLE: Final = 0.5
WITH_CONTEXT_ONLY: Final = 0.25
CONTEXT_RAISE: Final = 0.35
"""Presidio's `context_similarity_factor`."""

CONTEXT_BEFORE_CHARS: Final = 64
CONTEXT_AFTER_CHARS: Final = 32

type Layer = Literal["checksum", "pattern", "model"]
LAYERS: Final[tuple[Layer, ...]] = ("checksum", "pattern", "model")
"""Strongest first: on overlap the stronger layer keeps its span, the weaker one what is left of its own."""


class ModelUnavailable(Exception):
    """A model or library that a recogniser needs is missing or corrupt: the process must not start (FLT-04).

    `what` names the part, `fix` what the operator can do.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}; {fix}")
        self.what = what
        self.fix = fix


class RecognizerFailed(Exception):
    """A recogniser could not finish on a text, so that text counts as not inspected. The message holds no text."""


def _always(text: str) -> bool:
    return bool(text)


def _nothing() -> None:
    return None


def _find_nothing(text: str) -> Iterable[Finding]:  # noqa: ARG001 - the shape of `find`
    return ()


@dataclass(frozen=True, slots=True)
class Recognizer:
    """One way of finding entities.

    `find`: spans in one text, in any order, overlaps allowed; linear in the text's length.
    `find_many`: the batched form, used instead of `find` when given (models).
    `trigger`: a test far cheaper than `find`; False means `find` would yield nothing.
    `context`: lower-case words; one of them near a finding raises its score by CONTEXT_RAISE.
    `load`: fetches what is needed before first use; raises ModelUnavailable.
    `custom`: brought by the installation; its entities are looked for in every profile.
    `languages`: ISO 639-1 codes, or `*` where the language does not matter.
    """

    name: str
    entities: frozenset[str]
    layer: Layer
    find: Callable[[str], Iterable[Finding]] = _find_nothing
    trigger: Callable[[str], bool] = _always
    context: frozenset[str] = frozenset()
    languages: frozenset[str] = frozenset({"*"})
    find_many: Callable[[Sequence[str]], list[list[Finding]]] | None = None
    load: Callable[[], None] = _nothing
    custom: bool = False


def digit_runs(text: str) -> Iterator[tuple[int, int]]:
    """Stretches that hold nine or more digits with at most five other characters between two of them, and what follows
    each as far as a look ahead goes. Far cheaper than a pattern for a long number, which must lie within one."""
    for run in _DIGIT_RUN.finditer(text):
        yield run.start(), min(len(text), run.end() + _LOOK_AHEAD_CHARS)


def has_digit(text: str) -> bool:
    """Trigger of everything that is made of digits (ASCII; other scripts are normalised before)."""
    return _DIGIT.search(text) is not None


_DIGIT: Final = re.compile(r"[0-9]")
_DIGIT_RUN: Final = re.compile(r"[0-9](?:[^0-9]{0,5}[0-9]){8,}")
_LOOK_AHEAD_CHARS: Final = 8
_FOLDS_ODDLY: Final = re.compile("[\u0130\u0131\u017f\u212a\ud800-\udfff]")
"""What `re` takes for ASCII letters where case does not matter, and `str.lower` does not make them; and what an
automaton over UTF-8 cannot read."""


def mentions(text: str, parts: Iterable[str]) -> bool:
    """Whether a pattern that ignores case and needs one of `parts` (lower case) could match. Far cheaper than it."""
    lower = text.lower()
    return any(part in lower for part in parts) or folds_oddly(text)


def folds_oddly(text: str) -> bool:
    """Whether it holds what a pattern that ignores case takes for other letters than `str.lower` makes of it."""
    return not text.isascii() and _FOLDS_ODDLY.search(text) is not None


@lru_cache(maxsize=512)
def word_pattern(words: frozenset[str]) -> re.Pattern[str]:
    """One case-insensitive pattern for whole words; `_`, `-` and digits separate words as spaces do."""
    choice = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<![^\W\d_])(?:{choice})(?![^\W\d_])", re.IGNORECASE)


def near(text: str, start: int, end: int, words: frozenset[str]) -> bool:
    """True when one of `words` stands within the context window around [start, end). Constant cost."""
    if not words:
        return False
    pattern = word_pattern(words)
    before = text[max(0, start - CONTEXT_BEFORE_CHARS) : start]
    return bool(pattern.search(before) or pattern.search(text[end : end + CONTEXT_AFTER_CHARS]))


_DOUBLED: Final = str.maketrans("0123456789", "0246813579")


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1 annex B check."""
    doubled = digits[-2::-2].translate(_DOUBLED)
    return sum(map(int, digits[-1::-2] + doubled)) % 10 == 0
