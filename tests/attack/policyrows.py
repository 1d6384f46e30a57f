"""Poisoned policies of other products in our schema (policy_rows.yml), as files that `egress check` reads."""

from pathlib import Path
from typing import Any

import yaml

from proxy.config.compile import load_content
from proxy.config.errors import ConfigErrors
from tests.attack.wire import HERE

HEAD = "version: 1\napp: a\nowner: x@example.com\nstage: production\nidentify: {token: true}\nallow:\n"
ROWS: list[dict[str, Any]] = yaml.safe_load((HERE / "policy_rows.yml").read_text())["rows"]


def text_of(row: dict[str, Any]) -> str:
    """The app file of a row."""
    if "repeat" in row:
        before, part, times, after = row["repeat"]
        return f"{HEAD}{before}{part * times}{after}"
    return str(row["whole"]) if "whole" in row else HEAD + str(row["after"])


def write(directory: Path, row: dict[str, Any]) -> Path:
    """A policy directory in which only apps/a.yaml is at fault."""
    (directory / "apps").mkdir(parents=True)
    (directory / "platform.yaml").write_text("version: 1\n")
    (directory / "apps" / "a.yaml").write_text(text_of(row))
    return directory


def misjudged(row: dict[str, Any], directory: Path) -> str:
    """What is wrong with the verdict on a row, written in a new `directory`, or ""."""
    errors: list[tuple[str, int, str]] = []
    try:
        load_content(write(directory, row))
    except ConfigErrors as found:
        errors = [(one.file, one.line, f"{one.message} {one.fix}") for one in found.errors]
    if row.get("accepted"):
        return f"refused: {errors[0][2][:120]}" if errors else ""
    if not errors:
        return "accepted"
    if any(file == "apps/a.yaml" and line == row["line"] and row["says"] in text for file, line, text in errors):
        return ""
    return f"refused, but not for {row['says']!r} on line {row['line']}: {errors}"[:400]
