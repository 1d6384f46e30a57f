"""Policy rules, one module each, found by listing this package. Each exports `RULE`, a `Gate` or a `Rule`."""

import importlib
import pkgutil
from functools import cache
from typing import Final

from proxy.rules.base import Gate, Rule

_HELPERS: Final = frozenset({"base"})


def modules() -> tuple[str, ...]:
    """Names of the rule modules, sorted."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name not in _HELPERS))


@cache
def discover() -> tuple[Gate | Rule, ...]:
    """All rules in the order in which they judge: gates first, then rules. Raises TypeError for a module without."""
    found = [of_module(name) for name in modules()]
    return tuple(sorted(found, key=lambda rule: (isinstance(rule, Rule), rule.order, rule.name)))


def of_module(name: str) -> Gate | Rule:
    """The rule of one module."""
    rule = getattr(importlib.import_module(f"{__name__}.{name}"), "RULE", None)
    if not isinstance(rule, Gate | Rule):
        raise TypeError(f"proxy.rules.{name} must export RULE, a Gate or a Rule")
    return rule
