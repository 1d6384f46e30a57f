"""The ledger's append-only file: what was reserved, what was settled, what was sent. One JSON object a line.

`write()` without fsync survives the death of the process (kill -9); a machine that loses power loses at most what the
page cache held, and its leases still count against the budget until their period ends.

Lines: `intent` (id, app, day, month, usd, held, owner, cost_center), `settle` (id, spent, over, row), `note` (app, day,
month, row), `batch` (entry, series, number, app, day, month, spent, over, returned, rows; takes all that was settled or
noted before it for its app, day and month), `done` (entry), `tally` (a compacted sum of settles and notes).
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.paths import private_dir
from proxy.stores.usage_rows import DIMENSIONS, counters, dimensions

SUFFIX: Final = ".jsonl"
COMPACT_BYTES: Final = 4 << 20

type Key = tuple[str, str, str]
"""(app, day, month)."""
type Row = dict[str, Any]


class Busy(Exception):
    """The journal belongs to a process that still runs."""


class Journal:
    """One worker's file, locked while the worker lives: the lock, not a process id, tells who is dead."""

    def __init__(self, directory: Path, holder: str) -> None:
        self._path = private_dir(directory) / f"{holder}{SUFFIX}"
        self._fd = _open_locked(self._path)
        self._size = os.fstat(self._fd).st_size
        self._torn = False

    @property
    def wants_compaction(self) -> bool:
        return self._size > COMPACT_BYTES

    def append(self, kind: str, **facts: Any) -> None:
        """Raises OSError when the line could not be written whole (disk full)."""
        if not self.append_all([(kind, facts)]):
            raise OSError(28, "No space left on device", str(self._path))

    def append_all(self, lines: Sequence[tuple[str, Mapping[str, Any]]]) -> int:
        """Writes `lines` at once; how many were written whole: fewer only when the disk is full. Raises OSError when
        nothing could be written."""
        data = b"".join([_line(kind, facts) for kind, facts in lines])
        if self._torn:
            data = b"\n" + data
        written = os.write(self._fd, data)
        self._size += written
        if written == len(data):
            self._torn = False
            return len(lines)
        whole = data[:written].count(b"\n") - self._torn * (written > 0)
        self._torn = not data[:written].endswith(b"\n")
        return whole

    def rewrite(self, lines: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Replaces the whole file in one step by `lines`, which say all that is still open. Raises OSError."""
        fresh = self._path.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        fd = _open_locked(fresh)
        try:
            data = b"".join(_line(kind, facts) for kind, facts in lines)
            if data and os.write(fd, data) != len(data):
                raise OSError(28, "No space left on device", str(fresh))
            fresh.replace(self._path)
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._size, self._torn = fd, len(data), False

    def close(self, *, remove: bool) -> None:
        """`remove` when nothing is open in it."""
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._fd)


@dataclass(slots=True)
class Tally:
    """What one (app, day, month) has yet to tell the store. `spent` is covered by a lease, `over` is not."""

    spent: int = 0
    over: int = 0
    rows: dict[tuple[str, ...], Row] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (self.spent or self.over or self.rows)

    def add(self, row: Mapping[str, Any] | None) -> None:
        """Adds a usage row (proxy.stores.usage_rows); rows with the same dimensions become one."""
        if row is not None:
            labels = dimensions(row)
            total = self.rows.setdefault(labels, dict(zip(DIMENSIONS, labels, strict=True)))
            for name, count in counters(row).items():
                total[name] = total.get(name, 0) + count


@dataclass(slots=True)
class Replay:
    """The state that a journal's lines add up to. `damaged` counts lines that could not be read."""

    open_intents: dict[str, dict[str, Any]] = field(default_factory=dict)
    tallies: dict[Key, Tally] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    damaged: int = 0

    def tally(self, key: Key) -> Tally:
        return self.tallies.setdefault(key, Tally())

    def apply(self, line: bytes) -> None:
        try:
            facts = orjson.loads(line)
            handler = _HANDLERS[facts["t"]]
            handler(self, facts)
        except (ValueError, KeyError, TypeError):
            self.damaged += 1


def key_of(facts: Mapping[str, Any]) -> Key:
    return str(facts["app"]), str(facts["day"]), str(facts["month"])


def read(path: Path) -> Replay:
    """Replays a journal file."""
    replay = Replay()
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                replay.apply(line)
    return replay


@contextlib.contextmanager
def dead_journal(path: Path) -> Iterator[None]:
    """Holds the lock of a journal whose worker is dead. Raises Busy while it lives, FileNotFoundError when gone."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(path.stem) from None
        if os.fstat(fd).st_ino != path.stat().st_ino:
            raise Busy(path.stem)  # its worker has just compacted it: what we locked is the old file
        yield
    finally:
        os.close(fd)


def _open_locked(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Busy(path.stem) from None
    return fd


def _line(kind: str, facts: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"t": kind, **facts}, option=orjson.OPT_APPEND_NEWLINE)


def _on_intent(replay: Replay, facts: dict[str, Any]) -> None:
    key_of(facts)
    replay.open_intents[facts["id"]] = facts


def _on_settle(replay: Replay, facts: dict[str, Any]) -> None:
    intent = replay.open_intents.pop(facts["id"])
    tally = replay.tally(key_of(intent))
    tally.spent += int(facts["spent"])
    tally.over += int(facts["over"])
    tally.add(facts["row"])


def _on_note(replay: Replay, facts: dict[str, Any]) -> None:
    replay.tally(key_of(facts)).add(facts["row"])


def _on_batch(replay: Replay, facts: dict[str, Any]) -> None:
    replay.tallies.pop(key_of(facts), None)
    replay.batches[facts["entry"]] = facts


def _on_done(replay: Replay, facts: dict[str, Any]) -> None:
    replay.batches.pop(facts["entry"], None)


def _on_tally(replay: Replay, facts: dict[str, Any]) -> None:
    tally = replay.tally(key_of(facts))
    tally.spent += int(facts["spent"])
    tally.over += int(facts["over"])
    for row in facts["rows"]:
        tally.add(row)


_HANDLERS: Final = {
    "intent": _on_intent,
    "settle": _on_settle,
    "note": _on_note,
    "batch": _on_batch,
    "done": _on_done,
    "tally": _on_tally,
}
