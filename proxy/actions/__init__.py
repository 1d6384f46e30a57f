"""Actions, one module each, found by listing this package. `proxy.model.DLP_ACTIONS` orders them by severity."""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Final

from proxy.actions.base import Action

_HELPERS: Final = frozenset({"base", "formats", "inventions"})


def modules() -> tuple[str, ...]:
    """Names of the action modules, sorted."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name not in _HELPERS))


@cache
def actions() -> Mapping[str, Action]:
    """Name -> action. Raises TypeError for a module that exports none."""
    found: dict[str, Action] = {}
    for name in modules():
        action = getattr(importlib.import_module(f"{__name__}.{name}"), "ACTION", None)
        if not isinstance(action, Action):
            raise TypeError(f"{__name__}.{name} must export ACTION")
        found[action.name] = action
    return found
