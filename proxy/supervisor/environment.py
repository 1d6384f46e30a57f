"""Is this interpreter's environment fit to run in? Cheap checks that `egress run` insists on and `doctor` explains."""

from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions
from typing import Final

OURS: Final = "egress-proxy"
OUR_PACKAGES: Final = ("proxy", "addons")


def foreign_owners(owners: Mapping[str, Sequence[str]] | None = None) -> dict[str, list[str]]:
    """Our import names that another installed distribution claims too, with its name (PyPI's proxy.py does).

    pip merges both folders without a word: which module wins is chance, and some of ours would be theirs.
    """
    found = packages_distributions() if owners is None else owners
    strangers = {name: sorted(set(found.get(name, ())) - {OURS}) for name in OUR_PACKAGES}
    return {name: others for name, others in strangers.items() if others}
