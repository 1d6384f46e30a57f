"""LLM APIs, one module each, found by listing this package. A module exports `PROVIDER`; `_` marks helpers."""

import importlib
import pkgutil
from functools import lru_cache

from proxy.model import Authority
from proxy.providers._base import Provider
from proxy.providers._call import NOTHING, Call, Delta, Reading, Tally

__all__ = ["NOTHING", "PROVIDERS", "Call", "Delta", "Provider", "Reading", "Tally", "match"]


def _found() -> tuple[Provider, ...]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    found = []
    for name in names:
        provider = importlib.import_module(f"{__name__}.{name}").PROVIDER
        if not isinstance(provider, Provider):
            raise TypeError(f"{__name__}.{name}: PROVIDER must be a Provider")
        found.append(provider)
    return tuple(found)


PROVIDERS = _found()


def match(authority: Authority, method: str, path: str) -> Provider | None:
    """The API that a request speaks, as served by its host; None when it is no inference call.

    `path` without query. Decided by the path's shape, so that gateways and look-alikes are metered too.
    """
    return _match(authority.host, path) if method == "POST" else None


@lru_cache(maxsize=2048)
def _match(host: str, path: str) -> Provider | None:
    for provider in PROVIDERS:
        if provider.paths.fullmatch(path):
            return provider.serving(host)
    return None
