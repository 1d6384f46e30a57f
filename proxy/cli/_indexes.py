"""Policies' own data on the command line: where their indexes lie, and the keys to them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.config.snapshot import DlpPolicy
    from proxy.inspection import Detector
    from proxy.paths import Paths
    from proxy.recognizers.engine import Engine


def index_keys(paths: "Paths") -> dict[str, bytes]:
    """As `RootKey.exact_match_keys`; none where there is no root key, so that exact match denies."""
    if not paths.root_key.exists():
        return {}
    from proxy.cli._keys import load_root

    return load_root(paths).exact_match_keys()


def detectors(engine: "Engine", paths: "Paths", directory: Path | None) -> "Callable[[DlpPolicy], Detector]":
    """The detector for each policy, with its own dictionaries, patterns and indexes."""
    from proxy.customdata.detector import with_custom_data
    from proxy.inspector.indexes import Indexes

    directories = [paths.data_dir, paths.state_dir, *([directory] if directory else [])]
    indexes = Indexes(directories, index_keys(paths))
    return lambda dlp: with_custom_data(engine.naming(dlp), dlp, indexes.of)
