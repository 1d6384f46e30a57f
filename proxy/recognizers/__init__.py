"""Recognisers, one module each, found by listing this package.

A module exports `RECOGNIZER` or, when one source gives several, `RECOGNIZERS`. Its corpus is
`tests/recognizers/corpus/<module>.yaml`. Modules in `_HELPERS`, and those that begin with `_`, are not
recognisers.
"""

import importlib
import os
import pkgutil
from functools import cache
from pathlib import Path
from typing import Final

from proxy.recognizers.base import Recognizer

_HELPERS: Final = frozenset({"base", "engine", "presidio_api", "profiles", "prose", "resolve"})


def modules() -> tuple[str, ...]:
    """Names of the recogniser modules, sorted."""
    names = (found.name for found in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in names if name not in _HELPERS and not name.startswith("_")))


@cache
def discover() -> tuple[Recognizer, ...]:
    """All recognisers, the installation's own last. Importing ours is cheap: models and libraries are loaded by
    `Recognizer.load`. Raises ModelUnavailable when the installation's own do not load."""
    return (*(found for name in modules() for found in of_module(name)), *_own())


def _own() -> tuple[Recognizer, ...]:
    directory = own_directory()
    if directory is None:
        return ()
    from proxy.recognizers._custom import recognizers_of

    return recognizers_of(directory)


def own_directory() -> Path | None:
    """Where this installation keeps recognisers and profiles of its own (see `_custom`)."""
    named = os.environ.get("EGRESS_RECOGNIZERS")
    return Path(named) if named else None


def of_module(name: str) -> tuple[Recognizer, ...]:
    """The recognisers of one module; raises TypeError when it exports none."""
    module = importlib.import_module(f"{__name__}.{name}")
    single = getattr(module, "RECOGNIZER", None)
    found = (single,) if single is not None else tuple(getattr(module, "RECOGNIZERS", ()))
    if not found or not all(isinstance(item, Recognizer) for item in found):
        raise TypeError(f"{module.__name__} must export RECOGNIZER or RECOGNIZERS")
    return found
