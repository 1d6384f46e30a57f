"""Presidio recognisers in our engine: those that presidio ships and those that an admin wrote, as YAML or as classes.

Patterns are run here rather than by `PatternRecognizer.analyze`, which logs a time-out and goes on without the finding;
here a time-out is RecognizerFailed. A linear prefilter skips the patterns that cannot match; what is found is the same.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from proxy.model import Finding
from proxy.recognizers._signs import Prefilter, relaxed
from proxy.recognizers.base import Recognizer, RecognizerFailed

TIMEOUT_S: Final = 1.0


@dataclass(frozen=True)
class Patterns:
    """The compiled patterns of one presidio `PatternRecognizer`, with their scores. `timeout_s`: per pattern and text;
    presidio's own patterns and an admin's may backtrack."""

    recognizer: Any
    timeout_s: float = TIMEOUT_S

    @cached_property
    def compiled(self) -> tuple[tuple[Any, float], ...]:
        import regex

        flags = self.recognizer.global_regex_flags
        return tuple((regex.compile(item.regex, flags=flags), item.score) for item in self.recognizer.patterns)

    @cached_property
    def _prefilter(self) -> Prefilter:
        signs = (
            relaxed(item.regex, _re_flags(self.recognizer.global_regex_flags)) for item in self.recognizer.patterns
        )
        return Prefilter([[sign] if sign is not None else [] for sign in signs])

    def possible(self, text: str) -> bool:
        return bool(self._prefilter.possible(text))

    def matches(self, text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, float]]:
        """(start, end, score) within [start, end), checked as presidio does. Raises RecognizerFailed."""
        stop = len(text) if end is None else end
        # Of the stretch alone: a long text has many. The prefilter knows no assertions, which could look beyond it.
        for index in sorted(self._prefilter.possible(text[start:stop])):
            pattern, score = self.compiled[index]
            try:
                for match in pattern.finditer(text, start, stop, timeout=self.timeout_s):
                    checked = self._checked(match[0], score)
                    if checked > 0:
                        yield match.start(), match.end(), checked
            except TimeoutError as error:
                raise RecognizerFailed(f"{type(self.recognizer).__name__} ran out of time") from error

    def _checked(self, value: str, score: float) -> float:
        """Presidio's rule: a passed check gives 1, a failed one or an invalidated value 0."""
        if not value or self.recognizer.invalidate_result(value):
            return 0.0
        passed = self.recognizer.validate_result(value)
        return score if passed is None else float(passed)


def _re_flags(flags: int) -> int:
    """Flags of the `regex` module as those of `re`."""
    import regex

    pairs = (
        (regex.I, re.IGNORECASE), (regex.M, re.MULTILINE), (regex.S, re.DOTALL), (regex.X, re.VERBOSE),
    )  # fmt: skip
    return sum(ours for theirs, ours in pairs if flags & theirs)


def from_presidio(recognizer: Any) -> Recognizer:
    """One of our recognisers that finds what `recognizer`, an `EntityRecognizer`, finds. Raises TypeError for others.

    Its context words raise scores as ours do. What it raises fails the inspection: nothing is skipped.
    """
    from presidio_analyzer import EntityRecognizer, PatternRecognizer

    if not isinstance(recognizer, EntityRecognizer):
        raise TypeError("no presidio EntityRecognizer")
    name = f"presidio:{getattr(recognizer, 'name', type(recognizer).__name__)}"
    plain = isinstance(recognizer, PatternRecognizer) and type(recognizer).analyze is PatternRecognizer.analyze
    patterns = Patterns(recognizer)
    return Recognizer(
        name=name,
        entities=frozenset(recognizer.supported_entities),
        layer="pattern",
        find=_pattern_finder(patterns, name) if plain else _finder(recognizer, name),
        trigger=patterns.possible if plain else bool,
        context=frozenset(word.lower() for word in recognizer.context or ()),
        languages=frozenset({recognizer.supported_language}),
        custom=True,
    )


def _pattern_finder(patterns: Patterns, name: str) -> Callable[[str], Iterator[Finding]]:
    entity = patterns.recognizer.supported_entities[0]

    def find(text: str) -> Iterator[Finding]:
        for start, end, score in patterns.matches(text):
            yield Finding(entity, start, end, score, name)

    return find


def _finder(recognizer: Any, name: str) -> Callable[[str], Sequence[Finding]]:
    def find(text: str) -> Sequence[Finding]:
        try:
            found = recognizer.analyze(text, list(recognizer.supported_entities), None)
        except Exception as error:
            raise RecognizerFailed(f"{recognizer.name} raised {type(error).__name__}") from error
        return [Finding(item.entity_type, item.start, item.end, item.score, name) for item in found or ()]

    return find
