"""What is wrong with the policy files: every error at once, each with its place and a value that would work."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NamedTuple

MAX_ERRORS: Final = 1000  # a hostile file makes one per value; nobody reads more


class Mark(NamedTuple):
    """A place in a file; `line` and `col` count from 1."""

    file: str
    line: int
    col: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col}"

    @classmethod
    def parse(cls, text: str) -> "Mark":
        """The inverse of `str`. Raises ValueError."""
        file, line, col = text.rsplit(":", 2)
        return cls(file, int(line), int(col))


@dataclass(frozen=True, slots=True, order=True)
class ConfigError:
    """One mistake. `fix` holds a value or a command that would work."""

    file: str
    line: int
    col: int
    message: str
    fix: str

    def told(self, word: str) -> str:
        """The three lines; `word`: error or warning."""
        return f"{word}: {self.message}\n  at:  {self.file}:{self.line}:{self.col}\n  fix: {self.fix}"

    def __str__(self) -> str:
        return self.told("error")


class ConfigErrors(Exception):
    """All mistakes of one policy, sorted by place. Nothing of it may be loaded."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = tuple(sorted(set(errors)))
        super().__init__(f"{len(self.errors)} error(s) in the policy files")

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)

    def within(self, directory: Path) -> "ConfigErrors":
        """The same, with files as seen from the working directory."""
        return ConfigErrors(replace(error, file=str(directory / error.file)) for error in self.errors)


class Problems:
    """Collects mistakes while reading goes on."""

    def __init__(self) -> None:
        self.errors: list[ConfigError] = []
        self.warnings: list[ConfigError] = []

    def add(self, mark: Mark, message: str, fix: str) -> None:
        """Notes one mistake; never raises."""
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(ConfigError(*mark, message, fix))

    def warn(self, mark: Mark, message: str, fix: str) -> None:
        """Notes what will work later, or is worth a look."""
        if len(self.warnings) < MAX_ERRORS:
            self.warnings.append(ConfigError(*mark, message, fix))

    def raise_if_any(self) -> None:
        """Raises ConfigErrors when something was noted."""
        if self.errors:
            raise ConfigErrors(self.errors)


def nearest(text: str, known: Iterable[str]) -> str | None:
    """The known word that `text` most probably means, or None."""
    words = list(known)
    lowered = {word.lower(): word for word in words}
    if text.lower() in lowered:
        return lowered[text.lower()]
    near = get_close_matches(text, words, n=1, cutoff=0.7)
    return near[0] if near else None


def shown(text: str, limit: int = 60) -> str:
    """A value from a file, quoted and cut, safe to print on a terminal."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
