"""Reads a directory of policy files: platform.yaml, connectors/*.yaml, apps/*.yaml and what they refer to.

The only module of the package that opens files. What is read is still text with marks; `load_content` in
`proxy.config.compile` makes a revision of it.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from proxy.config.certificates import PEM_START, ca_certificates
from proxy.config.data_files import MAX_WORDS_BYTES, IndexRef
from proxy.config.errors import Mark, Problems, nearest
from proxy.config.tree import MAX_FILE_BYTES, Node, parse_yaml
from proxy.config.types import NOT_MADE_YET, BadValue, NotMadeYet
from proxy.customdata.index import FIRST_LINE_BYTES, MAX_HEADER_BYTES, BadIndex, read_header

PLATFORM_FILE: Final = "platform.yaml"
TEST_SUFFIX: Final = ".test.yaml"
STATE_PREFIX: Final = "state:"
_FOLDERS: Final = ("connectors", "apps")


@dataclass(frozen=True, slots=True)
class Source:
    """The files of one policy directory. `files`: name relative to the directory -> tree; test files are left out."""

    directory: Path
    files: dict[str, Node]
    problems: Problems
    state_dir: Path | None = None
    _assets: dict[str, str] = field(default_factory=dict)

    def asset(self, reference: str) -> str:
        """PEM text of the CA certificate file that an `upstream_ca:` names. Raises BadValue with the way out."""
        if reference.startswith(PEM_START):
            return ca_certificates(reference.encode(), "the inline text")
        if reference not in self._assets:
            # A file that cannot be read is one mistake, however many entries name it; all of them agree on it.
            self._assets[reference] = NOT_MADE_YET + reference
            self._assets[reference] = _ca_pem(reference, self._path(reference))
        return self._assets[reference]

    def data(self, kind: str, reference: str) -> str:
        """The canonical form of a data file: the text of a word list, the digest and columns of an index. Raises
        BadValue with the way out."""
        key = f"{kind} {reference}"
        if key not in self._assets:
            self._assets[key] = _DATA[kind](reference, self._path(reference))
        return self._assets[key]

    def _path(self, reference: str) -> Path:
        name = reference.removeprefix(STATE_PREFIX)
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name or not name:
            raise BadValue(f"{reference!r} leaves the directory", "a file beside the allowlists, e.g. corp-root.pem")
        if not reference.startswith(STATE_PREFIX):
            return self.directory / name
        if self.state_dir is None:
            raise BadValue(
                f"{reference!r} names a file in the state directory, which is not known here", "give --state"
            )
        return self.state_dir / name


def load_directory(directory: Path, state_dir: Path | None = None) -> Source:
    """Reads all policy files. Mistakes are collected in the source's `problems`, never raised."""
    problems = Problems()
    source = Source(directory, {}, problems, state_dir)
    if not (directory / PLATFORM_FILE).is_file():
        found = sorted(path.name for path in directory.glob("*.y*ml")) if directory.is_dir() else []
        near = nearest(PLATFORM_FILE, found)
        fix = f"rename {near}" if near else "create it with `version: 1`, or give another directory"
        problems.add(Mark(PLATFORM_FILE, 1, 1), f"{PLATFORM_FILE} does not exist in {directory.name or '.'}/", fix)
    _report_strays(directory, problems)
    for path in policy_files(directory):
        name = path.relative_to(directory).as_posix()
        data = _read(path, name, problems)
        node = parse_yaml(data, name, problems) if data is not None else None
        if node is not None:
            source.files[name] = node
    return source


def policy_files(directory: Path) -> Iterator[Path]:
    """platform.yaml, then connectors and apps in alphabetical order, without test files."""
    if (directory / PLATFORM_FILE).is_file():
        yield directory / PLATFORM_FILE
    for folder in _FOLDERS:
        for path in sorted((directory / folder).glob("*.yaml")):
            if not path.name.endswith(TEST_SUFFIX) and not path.name.startswith("."):
                yield path


def test_files(directory: Path) -> list[Path]:
    """All `apps/*.test.yaml`."""
    return sorted((directory / "apps").glob("*" + TEST_SUFFIX))


def _report_strays(directory: Path, problems: Problems) -> None:
    """A policy file that nobody reads is a surprise: its author believes that it is in force."""
    known = {*policy_files(directory), *test_files(directory)}
    for path in sorted(one for suffix in ("*.yaml", "*.yml") for one in directory.rglob(suffix)):
        inside = path.relative_to(directory)
        if path not in known and not any(part.startswith(".") for part in inside.parts):
            fix = f"move it to apps/{inside.stem}.yaml or connectors/, or rename it to {inside.name}.off"
            problems.add(Mark(inside.as_posix(), 1, 1), "no policy file stands here, so it would not be read", fix)


def _read(path: Path, name: str, problems: Problems) -> bytes | None:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        problems.add(Mark(name, 1, 1), f"the file cannot be read: {reason}", "make it a file that this user may read")
        return None


def _words(reference: str, path: Path) -> str:
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise _unreadable("the word list", reference, error) from error
    except UnicodeDecodeError as error:
        raise BadValue(f"the word list {reference!r} is not UTF-8", "save it as UTF-8") from error
    if len(data) > MAX_WORDS_BYTES:
        raise BadValue(f"the word list {reference!r} is larger than {MAX_WORDS_BYTES >> 20} MiB", "split it")
    return text


def _index(reference: str, path: Path) -> str:
    """Read whole, so that a damaged index is a mistake here and not a denial later."""
    again = "make it again with `egress data index`"
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            beginning = stream.read(FIRST_LINE_BYTES + MAX_HEADER_BYTES)
            claimed, header, _ = read_header(beginning)
            digest.update(beginning[FIRST_LINE_BYTES:])
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise _unreadable("the index", reference, error) from error
    except BadIndex as error:
        raise BadValue(f"the index {reference!r} cannot be used: {error}", again) from error
    if digest.hexdigest() != claimed:
        raise BadValue(f"the index {reference!r} was altered or is damaged", again)
    return str(IndexRef(claimed, header.rows, dict(header.columns)))


_DATA: Final = {"words": _words, "index": _index}


def _unreadable(what: str, reference: str, error: OSError) -> BadValue:
    reason = (error.strerror or "unreadable").lower()
    return BadValue(f"{what} {reference!r} cannot be read: {reason}", f"put it at {reference} beside platform.yaml")


def _ca_pem(reference: str, path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        message = f"the CA file {reference!r} cannot be read: {reason}"
        if reference.startswith(STATE_PREFIX) and isinstance(error, FileNotFoundError):
            message = f"the CA file {reference!r} does not exist yet"
            raise NotMadeYet(message, "it is made at the first start: run `egress demo`, or `make run`") from error
        raise BadValue(message, f"put a PEM file that this user may read at {reference}") from error
    return ca_certificates(data, reference)
