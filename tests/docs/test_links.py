"""Links within the documentation lead somewhere, and every page can be reached from the README, link by link."""

from pathlib import Path

import pytest

from tests.architecture.tree import ROOT
from tests.docs.pages import anchors, links, pages


def _local(page: Path) -> list[tuple[str, Path, str]]:
    found = []
    for target in links(page):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        found.append((target, (page.parent / path).resolve() if path else page, anchor))
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for target, path, anchor in _local(page):
        assert path.exists(), f"{target}: there is no {path.relative_to(ROOT)}"
        assert path.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(path), f"{target}: no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        if page.suffix == ".md":
            todo += [path for _, path, _ in _local(page)]
    lost = [str(page.relative_to(ROOT)) for page in pages() if page not in seen]
    assert not lost, "no page links to these by name"
