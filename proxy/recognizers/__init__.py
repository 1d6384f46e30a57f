"""Recognisers, one module each, found by listing this package.

A module exports `RECOGNIZER` or, when one source gives several, `RECOGNIZERS`. Its corpus is
`tests/recognizers/corpus/<module>.yaml`. Modules in `_HELPERS`, and those that begin with `_`, are not
recognisers.
"""

import importlib
import pkgutil
from functools import cache
from typing import Final

from proxy.recognizers.base import Recognizer

_HELPERS: Final = frozenset({"base", "engine", "profiles", "prose", "resolve"})


def modules() -> tuple[str, ...]:
    """Names of the recogniser modules, sorted."""
    names = (found.name for found in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in names if name not in _HELPERS and not name.startswith("_")))


@cache
def discover() -> tuple[Recognizer, ...]:
    """All recognisers. Importing them is cheap: models and libraries are loaded by `Recognizer.load`."""
    return tuple(found for name in modules() for found in of_module(name))


def of_module(name: str) -> tuple[Recognizer, ...]:
    """The recognisers of one module; raises TypeError when it exports none."""
    module = importlib.import_module(f"{__name__}.{name}")
    single = getattr(module, "RECOGNIZER", None)
    found = (single,) if single is not None else tuple(getattr(module, "RECOGNIZERS", ()))
    if not found or not all(isinstance(item, Recognizer) for item in found):
        raise TypeError(f"{module.__name__} must export RECOGNIZER or RECOGNIZERS")
    return found
