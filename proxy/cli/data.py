"""`egress data index|show`: indexes of tables whose rows must not leave (exact data match)."""

import argparse
import csv
import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from proxy.cli import CliError, Verb
from proxy.cli._keys import actions, load_root
from proxy.cli._out import show, table

if TYPE_CHECKING:
    from proxy.customdata.build import Builder
    from proxy.customdata.index import Header
    from proxy.customdata.words import Kind

_GUESSES: Final = {
    "iban": "number", "account": "number", "card": "number", "customer_id": "number", "id": "number", "mail": "email",
    "e-mail": "email", "mobile": "phone", "telephone": "phone", "fax": "phone", "full_name": "name",
    "last_name": "name", "surname": "name", "address": "text", "street": "text", "company": "text", "city": "text",
}  # fmt: skip
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PROGRESS_ROWS: Final = 10_000
_EXAMPLE: Final = "--columns name email iban:number phone"


def _configure(parser: argparse.ArgumentParser) -> None:
    action = actions(parser)
    index = action("index", "make an index of a CSV file's columns; no value can be read from it")
    index.add_argument("file", metavar="CSV", help="a table with a header line; - for standard input")
    index.add_argument(
        "--columns", nargs="+", required=True, metavar="NAME[:KIND]",
        help="which columns; kinds: name, text, email, phone, number (IBANs, accounts, cards, ids)",
    )  # fmt: skip
    index.add_argument("--out", required=True, type=Path, metavar="FILE", help="the index, e.g. customers.edm")
    index.add_argument("--delimiter", default=",", help="between cells (default: a comma; `tab` for a tab)")
    index.add_argument("--encoding", default="utf-8-sig", help="of the CSV file (default: utf-8)")
    facts = action("show", "what an index holds: columns, counts, its digest, the chance of a false match")
    facts.add_argument("file", metavar="FILE", type=Path)


def _run(args: argparse.Namespace) -> int:
    return {"index": _index, "show": _show}[args.action](args)


def _index(args: argparse.Namespace) -> int:
    from proxy.customdata.build import Builder
    from proxy.customdata.index import BadIndex
    from proxy.keys.root import EXACT_MATCH

    if args.out.suffix != ".edm":
        raise CliError("inspectors look for indexes by their ending", str(args.out), "give --out a name like NAME.edm")
    columns = [_column(text) for text in args.columns]
    if len({name for name, _ in columns}) < len(columns):
        raise CliError("a column stands twice", "--columns", _EXAMPLE)
    root = load_root(args.paths)
    try:
        builder = Builder(columns, root.derive(EXACT_MATCH), root.id, secrets.token_hex(16))
        _read(args, builder)
        parts = list(builder.finish())
    except BadIndex as bad:
        raise CliError(str(bad), args.file, _EXAMPLE) from None
    _write(args.out, parts)
    return _show(argparse.Namespace(**{**vars(args), "file": args.out, "left_out": builder.left_out}))


def _column(text: str) -> "tuple[str, Kind]":
    from proxy.customdata.words import KINDS

    name, _, kind = text.partition(":")
    kind = kind or (name if name in KINDS else _GUESSES.get(name.lower(), ""))
    found = next((known for known in KINDS if known == kind), None)
    if found is None or not _NAME.fullmatch(name):
        raise CliError(f"{text!r} does not say of what kind the column is", "--columns", f"for example {_EXAMPLE}")
    return name, found


def _read(args: argparse.Namespace, builder: "Builder") -> None:
    delimiter = "\t" if args.delimiter in ("tab", "\\t") else args.delimiter
    try:
        with _opened(args.file, args.encoding) as stream:
            rows = csv.reader(stream, delimiter=delimiter, strict=True)
            places = _places(next(rows, []), [name for name, _ in builder.columns], args.file)
            for row in _counted(rows):
                if row:
                    builder.add([row[place] if place < len(row) else "" for place in places])
    except (csv.Error, UnicodeError, TypeError, LookupError) as error:
        what = str(error) if isinstance(error, csv.Error | TypeError | LookupError) else "other bytes than --encoding"
        raise CliError(
            f"row {builder.rows + 2} cannot be read: {what}", args.file, "check --delimiter and --encoding"
        ) from None


def _opened(name: str, encoding: str) -> TextIO:
    if name == "-":
        return open(sys.stdin.fileno(), encoding=encoding, newline="", closefd=False)
    return Path(name).open(encoding=encoding, newline="")


def _places(header: Sequence[str], wanted: Sequence[str], file: str) -> list[int]:
    names = [name.strip() for name in header]
    for name in wanted:
        if names.count(name) != 1:
            there = ", ".join(names[:20]) or "none"
            raise CliError(f"the header has no one column {name!r}", file, f"its columns: {there}")
    return [names.index(name) for name in wanted]


def _counted(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    shown = sys.stderr.isatty()
    for count, row in enumerate(rows, 1):
        if shown and count % _PROGRESS_ROWS == 0:
            print(f"\r{count:,} rows", end="", file=sys.stderr)
        yield row
    if shown:
        print("\r\033[K", end="", file=sys.stderr)


def _write(path: Path, parts: Sequence[bytes]) -> None:
    """Whole or not at all; readable for its owner alone, although no value can be read from it without the key."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:  # noqa: PTH123
            stream.writelines(parts)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _show(args: argparse.Namespace) -> int:
    digest, header, size_bytes = _facts(args.file)
    left_out = getattr(args, "left_out", None)
    value: dict[str, Any] = {
        "file": str(args.file), "digest": digest, "rows": header.rows, "cells": header.cells,
        "columns": [{"name": name, "kind": kind} for name, kind in header.columns],
        "key_id": header.key_id, "size_bytes": size_bytes, "false_match_per_value": header.cells / 2**64,
    }  # fmt: skip
    if left_out is not None:
        value["left_out"] = dict(zip((name for name, _ in header.columns), left_out, strict=True))
    show(args, value, _text(value))
    return 0


def _facts(path: Path) -> "tuple[str, Header, int]":
    import hashlib

    from proxy.customdata.index import FIRST_LINE_BYTES, MAX_HEADER_BYTES, BadIndex, read_header

    with path.open("rb") as stream:
        try:
            digest, header, _ = read_header(stream.read(FIRST_LINE_BYTES + MAX_HEADER_BYTES))
        except BadIndex as bad:
            raise CliError(str(bad), str(path), "make one with `egress data index`") from None
        stream.seek(FIRST_LINE_BYTES)
        if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
            raise CliError("the index was altered or is damaged", str(path), "make it again with `egress data index`")
    return digest, header, path.stat().st_size


def _text(value: dict[str, Any]) -> str:
    left_out = value.get("left_out", {})
    rows = [(c["name"], c["kind"], left_out.get(c["name"], "-")) for c in value["columns"]]
    return "\n".join((
        f"{value['file']}: {value['rows']:,} rows, {value['cells']:,} cells, {value['size_bytes'] / 1e6:.1f} MB",
        f"sha256:{value['digest']}, root key {value['key_id']}",
        f"a value of no cell matches with a probability of {value['false_match_per_value']:.0e}",
        table(("COLUMN", "KIND", "LEFT OUT"), rows),
    ))  # fmt: skip


VERB = Verb("data", "index tables whose rows must not leave", _configure, _run)
