"""Where the development corpora lie; tests that need them skip where they are absent."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(os.environ.get("EGRESS_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file, or none where the corpora are absent."""
    path = ROOT / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def files(folder: str, pattern: str) -> list[Path]:
    """Files of a folder in the order of their names, or none where the corpora are absent."""
    return sorted((ROOT / folder).glob(pattern))


def needs(name: str) -> pytest.MarkDecorator:
    """Skips a test with a clear message where `name` is absent."""
    return pytest.mark.skipif(not (ROOT / name).exists(), reason=f"development data {name} is not on this machine")
