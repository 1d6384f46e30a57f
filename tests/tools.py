"""Programs that tests call and a bare machine (Python, git, make) may lack."""

import shutil

import pytest


def need(*tools: str) -> None:
    """Skips the test that calls this when a program is not installed, and names it."""
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")
