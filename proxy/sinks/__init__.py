"""Where audit lines go. One module per sink, found by listing the package; each exports one constant, `SINK`."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol


class OpenSink(Protocol):
    """A sink in use by one writer."""

    def write(self, lines: bytes) -> None:
        """Takes whole lines. Raises OSError; then none of them counts, and the same ones come again or are dropped."""

    def close(self) -> None:
        """Lets go of files. Never raises."""


@dataclass(frozen=True, slots=True)
class Sink:
    """A kind of sink. `durable`: a line survives a power cut once `write` returned, so a chain may rest on it.

    `open(directory, writer)`: the audit directory and the id of the writer whose lines come.
    """

    name: str
    help: str
    durable: bool
    open: Callable[[Path, str], OpenSink]


@cache
def sinks() -> dict[str, Sink]:
    """All sinks by name, by listing the package."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            sink = importlib.import_module(f"{__name__}.{module.name}").SINK
            found[sink.name] = sink
    return found
