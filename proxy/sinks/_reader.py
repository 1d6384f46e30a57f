"""Reading audit directories: segments for the verifier, the head for a writer that resumes, records for people."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from proxy.audit import MAX_LINE_BYTES
from proxy.audit_chain import (
    ChainReport,
    Head,
    Problem,
    Record,
    Segment,
    misfit,
    read_record,
    segment_header,
    segment_key,
    split_lines,
    vouched_bytes,
)
from proxy.sinks._inflight import read_inflight
from proxy.sinks.file import open_directory, read_segment, segment_name, segment_numbers, writers

_TERMINAL = re.compile(rb'"id":"([^"]{1,64})","kind":"terminal"')


def segments(directory: Path, writer: str) -> list[Segment]:
    """A writer's segments in order; content is read when asked for."""
    path = directory / writer
    fd = open_directory(path, create=False)
    try:
        return [
            Segment(
                number,
                f"{writer}/{segment_name(number)}",
                read_segment(fd, number, limit_bytes=MAX_LINE_BYTES + 1),
                partial(_read, path, number),
            )
            for number in segment_numbers(fd)
        ]
    finally:
        os.close(fd)


def _read(path: Path, number: int, start: int = 0) -> bytes:
    fd = open_directory(path, create=False)
    try:
        return read_segment(fd, number, start=start)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a chain goes on: its last good record, the segment that holds it, how many bytes of that count, and the
    exchanges that had begun and not ended (`apps`: id -> app where it is known). `sha256`: of those bytes; `key_id`: of
    the segment; `sealed`: whether the last record is a checkpoint."""

    head: Head
    segment: int
    good_bytes: int
    last_number: int
    open_ids: tuple[str, ...]
    apps: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""
    key_id: str = ""
    sealed: bool = False


def resume_point(directory: Path, writer: str, keys: Mapping[str, bytes]) -> Resumption:
    """Looks back from the newest segment for the last record that is whole and genuine."""
    found = segments(directory, writer)
    last_number = found[-1].number if found else 0
    for segment in reversed(found):
        key = segment_key(segment.first, keys)
        if key is not None:
            return _with_inflight(_resume_in(segment, key, last_number), found, directory / writer)
    return Resumption(Head(), 0, 0, last_number, ())


def _resume_in(segment: Segment, key: bytes, last_number: int) -> Resumption:
    head, good_bytes = Head(), 0
    open_ids: dict[str, None] = {}
    data, key_id, sealed = segment.read(), "", False
    for line in split_lines(segment.name, data):
        record = read_record(line, key)
        if record is None or (head.seq and record.fields["seq"] != head.seq + 1):
            break
        key_id = key_id or str(record.fields.get("key_id", ""))
        head, good_bytes = Head(record.fields["seq"], record.mac), line.start_bytes + len(line.data) + 1
        sealed = record.fields.get("event") == "checkpoint"
        _note_open(open_ids, record.fields)
    return Resumption(
        head, segment.number, good_bytes, last_number, tuple(open_ids),
        sha256=hashlib.sha256(memoryview(data)[:good_bytes]).hexdigest(), key_id=key_id, sealed=sealed,
    )  # fmt: skip


def _with_inflight(point: Resumption, found: list[Segment], path: Path) -> Resumption:
    """Adds the exchanges that a killed process had under way, but for those whose end is on disk already."""
    left = read_inflight(path)
    if not left:
        return point
    ended: set[str] = set()
    for segment in found:
        data = segment.read()
        whole = data[: point.good_bytes] if segment.number == point.segment else data
        ended.update(match.decode() for match in _TERMINAL.findall(whole))
    apps = {exchange: app for exchange, app in left.items() if exchange not in ended}
    return replace(point, open_ids=tuple(dict.fromkeys((*point.open_ids, *apps))), apps=apps)


def _note_open(open_ids: dict[str, None], fields: Mapping[str, Any]) -> None:
    if fields["kind"] == "open":
        open_ids[fields["id"]] = None
    elif fields["kind"] == "terminal":
        open_ids.pop(fields["id"], None)
    elif fields.get("event") == "open_carried":
        open_ids.update(dict.fromkeys(fields.get("open_ids", ())))


def newest_first(
    directory: Path, writer: str, keys: Mapping[str, bytes], *, since_s: float = 0.0, having: bytes = b""
) -> Iterator[Record]:
    """Genuine records of one writer, newest first, back to files last written before `since_s`.

    `having`: only lines with these bytes, which spares the check of all others. Damaged lines are left out: `verify`
    is what names them.
    """
    for segment in reversed(segments(directory, writer)):
        if (directory / segment.name).stat().st_mtime < since_s:
            return
        key = segment_key(segment.first, keys)
        if key is None:
            continue
        for line in reversed(list(split_lines(segment.name, segment.read()))):
            record = read_record(line, key) if having in line.data else None
            if record is not None:
                yield record


def oldest_first(
    directory: Path, writer: str, keys: Mapping[str, bytes], damaged: Callable[[Problem], None], *, since_s: float = 0.0
) -> Iterator[Record]:
    """Genuine records of one writer in their order, from the first file that was written to after `since_s`. `damaged`
    is told of each place where a line is not genuine, or where records are missing, doubled or moved."""
    found = segments(directory, writer)
    headers = [segment_header(segment.first, keys) for segment in found]
    report = ChainReport(writer)
    begun = not since_s
    for index, segment in enumerate(found):
        if (directory / segment.name).stat().st_mtime < since_s:
            continue
        header = headers[index]
        if header is None:
            if b"\n" in segment.first:
                damaged(Problem(f"{segment.name}:1", "the file does not begin with a record of ours"))
            continue
        if not begun:
            report.head = Head(header[1].fields["seq"] - 1, header[1].fields["prev"])
            begun = True
        cut = vouched_bytes(segment, [one[1].fields if one else {} for one in headers[index + 1 :]])
        # The file that vouched for this one may be what was damaged: then its genuine lines are all worth having.
        yield from _in_order(report, segment, header[0], cut or None, damaged)


def _in_order(
    report: ChainReport, segment: Segment, key: bytes, cut: int | None, damaged: Callable[[Problem], None]
) -> Iterator[Record]:
    """A run of lines that are not genuine is told of once, and the gap that it leaves is not told of again."""
    in_run = False
    for line in split_lines(segment.name, segment.read()[:cut]):
        record = read_record(line, key)
        where = f"{segment.name}:{line.number} (after seq {report.head.seq})"
        if record is None:
            if not in_run and (line.ended or cut is not None):
                damaged(Problem(where, "the record was changed or is not one of ours"))
            in_run = True
            continue
        if not in_run and (wrong := misfit(record.fields, report)):
            damaged(Problem(where, wrong))
        in_run, report.head = False, Head(record.fields["seq"], record.mac)
        yield record


class Follower:
    """Hands out the genuine records that were added to a directory since the last call; starts at its present end."""

    def __init__(self, directory: Path, keys: Mapping[str, bytes]) -> None:
        self._directory = directory
        self._keys = keys
        self._offsets = {name: (directory / name).stat().st_size for name in self._names()}

    def _names(self) -> list[str]:
        return [segment.name for writer in writers(self._directory) for segment in segments(self._directory, writer)]

    def poll(self) -> Iterator[Record]:
        """New records, whole lines only."""
        for writer in writers(self._directory):
            for segment in segments(self._directory, writer):
                yield from self._new_in(segment, self._directory / writer)

    def _new_in(self, segment: Segment, path: Path) -> Iterator[Record]:
        key = segment_key(segment.first, self._keys)
        if key is None:
            return
        start = self._offsets.get(segment.name, 0)
        data = _read(path, segment.number, start)
        whole = data[: data.rfind(b"\n") + 1]
        self._offsets[segment.name] = start + len(whole)
        yield from (record for line in split_lines(segment.name, whole) if (record := read_record(line, key)))
