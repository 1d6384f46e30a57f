"""Rules of the custom data in `dlp:` blocks that span several keys."""

from typing import Final

from proxy.config.data_files import IndexRef
from proxy.config.errors import Mark, Problems, nearest, shown
from proxy.config.types import Rec

CUSTOM_DATA: Final = ("dictionaries", "patterns", "exact_match")


def check_custom_data(dlp: Rec, problems: Problems) -> None:
    """Checks the dictionaries, patterns and exact matches of one `dlp:` block."""
    for item in dlp.items("dictionaries"):
        if "values" not in item.value and "file" not in item.value:
            problems.add(item.mark, "a dictionary without words", "add `values: [Bluebird]` or `file: words.txt`")
    seen: dict[str, Mark] = {}
    for item in dlp.items("exact_match"):
        _check_exact_match(item.value, problems)
        name = item.value.get("id")
        if name in seen:
            problems.add(item.value.at("id"), f"the id {name!r} is taken (line {seen[name].line})", f"{name}-2")
        seen.setdefault(name, item.value.at("id"))


def _check_exact_match(rec: Rec, problems: Problems) -> None:
    match = rec.rec("match")
    index: IndexRef | None = rec.get("index")
    if match is None or index is None:
        return
    for item in match.items("of"):
        if item.value not in index.columns:
            near = nearest(item.value, index.columns)
            fix = f"did you mean {near}?" if near else f"one of: {', '.join(index.columns)}"
            problems.add(item.mark, f"the index has no column {shown(item.value)}", fix)
    there = len(match.plain("of")) or len(index.columns)
    wanted = match.get("columns")
    if wanted is not None and wanted > there:
        problems.add(
            match.at("columns"), f"{wanted} columns cannot stand together, there are {there}", f"columns: {there}"
        )
