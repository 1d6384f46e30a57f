"""The keyed hash chain over audit records, and its check. Pure.

A line is `{…fields…,"mac":"<64 hex>"}`; the MAC is HMAC-SHA256 under the chain key over everything before `,"mac"`,
which holds `writer`, `seq` and `prev` (the MAC before). So no line can be changed, dropped, moved, doubled or put in
without the key, and `verify_chain` names the first that does not fit. Missing lines at the very end show only against
a head that is kept elsewhere: the supervisor's chain keeps one for each writer.
"""

import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.audit import MAX_LINE_BYTES, body_json
from proxy.model import AuditRecord

GENESIS: Final = "0" * 64
SUPERVISOR: Final = "supervisor"
_TAIL = re.compile(rb',"mac":"([0-9a-f]{64})"\}')
_TAIL_BYTES: Final = 74


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a chain: `seq` 0 and GENESIS when there is none."""

    seq: int = 0
    mac: str = GENESIS


@dataclass(slots=True)
class Chain:
    """Appends records to one writer's chain. Not thread-safe: one writer, one thread."""

    writer: str
    key: bytes = field(repr=False)
    head: Head = field(default_factory=Head)

    def append(self, record: AuditRecord) -> bytes:
        """The next line, newline included; moves the head."""
        seq = self.head.seq + 1
        body = body_json(record, writer=self.writer, seq=seq, prev=self.head.mac)
        mac = hmac.digest(self.key, body, "sha256").hex()
        self.head = Head(seq, mac)
        return b'%b,"mac":"%b"}\n' % (body, mac.encode())


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a segment: its file, number from 1, offset of its first byte, and whether a newline ended it."""

    file: str
    number: int
    start_bytes: int
    data: bytes
    ended: bool


@dataclass(frozen=True, slots=True)
class Record:
    """One genuine line: its fields, its MAC and where it stands."""

    fields: Mapping[str, Any]
    mac: str
    line: Line


@dataclass(frozen=True, slots=True)
class Problem:
    """The first thing wrong in a chain."""

    where: str
    what: str


def split_lines(file: str, data: bytes) -> Iterator[Line]:
    """The lines of one segment; the last may lack its newline (a torn write)."""
    start = 0
    number = 0
    while start < len(data):
        end = data.find(b"\n", start)
        number += 1
        stop = len(data) if end < 0 else end
        yield Line(file, number, start, data[start:stop], end >= 0)
        start = stop + 1


def read_record(line: Line, key: bytes) -> Record | None:
    """The record of a line whose MAC is right, else None."""
    body, tail = line.data[:-_TAIL_BYTES], line.data[-_TAIL_BYTES:]
    match = _TAIL.fullmatch(tail)
    if match is None or not line.ended or len(line.data) >= MAX_LINE_BYTES:
        return None
    mac = match[1].decode()
    if not hmac.compare_digest(hmac.digest(key, body, "sha256").hex(), mac):
        return None
    fields = json.loads(body + b"}")
    return Record(fields, mac, line)


@dataclass(slots=True)
class ChainReport:
    """What `verify_chain` found in one writer's chain."""

    writer: str
    records: int = 0
    head: Head = field(default_factory=Head)
    problem: Problem | None = None
    notes: list[str] = field(default_factory=list)
    macs: dict[int, str] = field(default_factory=dict)
    events: list[Mapping[str, Any]] = field(default_factory=list)
    opened: dict[str, int] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)


def verify_chain(
    writer: str, segments: Iterable[tuple[str, bytes]], keys: Mapping[str, bytes], *, want: frozenset[int] = frozenset()
) -> ChainReport:
    """Checks a writer's segments in order. `keys`: root key id -> chain key. Stops at the first problem.

    `want`: seqs whose MACs are kept in the report, to compare with heads that were recorded elsewhere.
    """
    report = ChainReport(writer)
    pending: list[tuple[str, bytes]] = list(segments)
    for index, (file, data) in enumerate(pending):
        following = pending[index + 1][1] if index + 1 < len(pending) else None
        cut = _linked_bytes(following, keys) if following is not None else None
        _verify_segment(report, index + 1, file, data, cut, keys, want)
        if report.problem is not None:
            break
    return report


def _segment_key(data: bytes, keys: Mapping[str, bytes]) -> tuple[bytes, Record] | None:
    """The key that a segment's first line was made with, and that line."""
    first = next(split_lines("", data), None)
    if first is None:
        return None
    for key in keys.values():
        record = read_record(first, key)
        if record is not None:
            return key, record
    return None


def _linked_bytes(following: bytes, keys: Mapping[str, bytes]) -> int | None:
    """How much of a segment its successor's first line vouches for."""
    found = _segment_key(following, keys)
    value = found[1].fields.get("prev_bytes") if found else None
    return value if isinstance(value, int) else None


def _verify_segment(
    report: ChainReport,
    number: int,
    file: str,
    data: bytes,
    cut: int | None,
    keys: Mapping[str, bytes],
    want: frozenset[int],
) -> None:
    found = _segment_key(data, keys)
    if found is None:
        _torn_or_bad(report, file, data, number)
        return
    key, header = found
    if header.fields.get("kind") != "segment" or header.fields.get("segment") != number:
        report.problem = Problem(f"{file}:1", f"the file is not segment {number} of writer {report.writer}")
        return
    body = data if cut is None else data[:cut]
    if cut is not None and cut > len(data):
        report.problem = Problem(file, f"the file lost its end: {cut} bytes were in the chain, {len(data)} are left")
        return
    if cut is not None and cut < len(data):
        report.notes.append(f"{file}: torn tail of {len(data) - cut} bytes after seq {{seq}}, not part of the chain")
    _verify_lines(report, file, body, key, want, last=cut is None)
    if report.notes and "{seq}" in report.notes[-1]:
        report.notes[-1] = report.notes[-1].replace("{seq}", str(report.head.seq))


def _torn_or_bad(report: ChainReport, file: str, data: bytes, number: int) -> None:
    if data and not data.endswith(b"\n") and data.count(b"\n") == 0 and number > 0:
        report.notes.append(f"{file}: torn tail at line 1 (the writer died while it began the file)")
        return
    if not data:
        report.notes.append(f"{file}: empty (the writer died while it began the file)")
        return
    report.problem = Problem(f"{file}:1", "the record was changed, or made with a key that is not in root.key")


def _verify_lines(report: ChainReport, file: str, data: bytes, key: bytes, want: frozenset[int], *, last: bool) -> None:
    for line in split_lines(file, data):
        record = read_record(line, key)
        where = f"{file}:{line.number} (after seq {report.head.seq})"
        if record is None and last and not line.ended:
            report.notes.append(f"{file}: torn tail at line {line.number}, after seq {report.head.seq}")
            return
        if record is None:
            report.problem = Problem(where, "the record was changed or is not one of ours")
            return
        wrong = _misfit(record.fields, report)
        if wrong:
            report.problem = Problem(where, wrong)
            return
        _take(report, record, want)


def _misfit(fields: Mapping[str, Any], report: ChainReport) -> str:
    seq = fields.get("seq")
    expected = report.head.seq + 1
    if fields.get("writer") != report.writer:
        return f"the record belongs to writer {fields.get('writer')}"
    if not isinstance(seq, int) or seq < expected:
        return f"seq {seq} stands here again: a record was doubled or moved"
    if seq > expected:
        return f"seq {expected} is missing: records were deleted or moved (next is {seq})"
    if fields.get("prev") != report.head.mac:
        return f"seq {seq} does not continue the record before it"
    return ""


def _take(report: ChainReport, record: Record, want: frozenset[int]) -> None:
    fields = record.fields
    report.records += 1
    report.head = Head(int(fields["seq"]), record.mac)
    if report.head.seq in want:
        report.macs[report.head.seq] = record.mac
    kind, exchange = fields.get("kind"), str(fields.get("id"))
    if kind == "event" and report.writer == SUPERVISOR:
        report.events.append(fields)
    if kind == "open":
        report.opened[exchange] = report.head.seq
    elif kind == "terminal":
        report.opened.pop(exchange, None)
        if exchange in report.ended:
            report.problem = Problem(f"{record.line.file}:{record.line.number}", f"exchange {exchange} ended twice")
        report.ended.add(exchange)


@dataclass(slots=True)
class Vouched:
    """What the supervisor's chain says of one writer."""

    heads: dict[int, str] = field(default_factory=dict)
    born: int = 0
    ended: int = 0


def vouched(events: Iterable[Mapping[str, Any]]) -> dict[str, Vouched]:
    """Heads, births and ends of each writer, from the supervisor's events."""
    told: dict[str, Vouched] = {}
    for fields in events:
        subject = fields.get("subject")
        if not isinstance(subject, str):
            continue
        entry = told.setdefault(subject, Vouched())
        entry.born += fields.get("event") == "writer_birth"
        entry.ended += fields.get("event") == "writer_end"
        if isinstance(fields.get("subject_seq"), int) and fields.get("subject_mac"):
            entry.heads[fields["subject_seq"]] = fields["subject_mac"]
    return told


def check_heads(report: ChainReport, told: Vouched) -> Problem | None:
    """Truncation and replacement: every head that the supervisor recorded must stand in the writer's chain."""
    for seq, mac in sorted(told.heads.items()):
        if seq > report.head.seq:
            return Problem(
                report.writer,
                f"the chain ends at seq {report.head.seq}, but the supervisor saw seq {seq}: "
                f"the last {seq - report.head.seq} records were cut off",
            )
        if seq and report.macs.get(seq) != mac:
            return Problem(report.writer, f"seq {seq} is not the record that the supervisor saw")
    return None
