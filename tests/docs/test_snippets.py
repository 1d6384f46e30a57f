"""Policy shown in the guides is policy that loads."""

import re
from pathlib import Path

import pytest

from proxy.config.compile import load_content
from proxy.config.errors import ConfigErrors
from tests.architecture.tree import ROOT
from tests.config.kit import HEAD, write

PLATFORM = "version: 1\nclasses: {pci: [CREDIT_CARD], secret: [SECRET, PRIVATE_KEY]}\n"
_YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
    for page in sorted((ROOT / "docs").rglob("*.md"))
    for number, text in enumerate(_YAML.findall(page.read_text()))
    if text.startswith(("allow:", "dlp:"))
]


def test_there_are_some() -> None:
    assert len(SNIPPETS) >= 3


@pytest.mark.parametrize("text", SNIPPETS)
def test_a_snippet_loads(text: str, tmp_path: Path) -> None:
    """But for files that the reader is to bring."""
    try:
        load_content(write(tmp_path, HEAD + text, platform=PLATFORM))
    except ConfigErrors as errors:
        others = [str(error) for error in errors.errors if "no such file" not in error.message]
        assert not others, "\n".join(others)
