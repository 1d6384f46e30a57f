"""`egress fmt`: tidies the policy files; words and comments stay as they are."""

import argparse
import os
import sys
from difflib import unified_diff
from pathlib import Path

from proxy.cli import EXIT_CLEAN, EXIT_FINDINGS, EXIT_USAGE, CliError, Verb
from proxy.cli._out import show


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="PATH", default=[Path("allowlists")], help="default: ./allowlists"
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when something would change")
    parser.add_argument("--diff", action="store_true", help="change nothing; show what would change")


def _run(args: argparse.Namespace) -> int:
    from proxy.config.errors import ConfigErrors
    from proxy.config.format import format_yaml

    changed, broken, diffs = [], [], []
    for path in _files(args.files):
        before = path.read_bytes()
        try:
            after = format_yaml(before, str(path))
        except ConfigErrors as errors:
            broken.append(str(errors))
            continue
        if after != before:
            changed.append(str(path))
            diffs.append(_diff(before, after, str(path)))
            if not args.check and not args.diff:
                _replace(path, after)
    if broken:
        print("\n".join(broken), file=sys.stderr)
    word = "would change" if args.check or args.diff else "changed"
    text = "\n".join(diffs if args.diff else [f"{word} {name}" for name in changed]) or (
        "" if broken else "nothing to do"
    )
    show(args, {"changed": changed, "broken": len(broken)}, text)
    if broken:
        return EXIT_USAGE
    return EXIT_FINDINGS if changed and (args.check or args.diff) else EXIT_CLEAN


def _files(paths: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(one for one in path.rglob("*.yaml") if one.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise CliError("there is no such file or directory", str(path), "name policy files, or their directory")
    return found


def _diff(before: bytes, after: bytes, name: str) -> str:
    old, new = (data.decode("utf-8", "replace").splitlines() for data in (before, after))
    return "\n".join(unified_diff(old, new, name, name, lineterm=""))


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all: a half-written policy must never be read."""
    draft = path.with_name(f".{path.name}.fmt")
    draft.write_bytes(data)
    draft.chmod(path.stat().st_mode & 0o777)
    os.replace(draft, path)  # noqa: PTH105 - the same call


VERB = Verb("fmt", "tidy the policy files, comments kept", _configure, _run)
