"""The keyed hash chain over audit records, and its check. Pure.

A line is `{…fields…,"mac":"<64 hex>"}`; the MAC is HMAC-SHA256 under the chain key over everything before `,"mac"`,
which holds `writer`, `seq` and `prev` (the MAC before). So no line can be changed, dropped, moved, doubled or put in
without the key, and `verify_chain` names the first that does not fit. Missing lines at the very end show only against
a head that is kept elsewhere: the supervisor's chain keeps one for each writer.
"""

import hmac
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Final

from proxy.audit import MAX_LINE_BYTES, body_json
from proxy.model import AuditRecord
from proxy.values import dataclass

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
class Vouched:
    """What the supervisor's chain says of one writer: births, ends, and the heads (seq -> MAC) that it saw."""

    born: int = 0
    ended: int = 0
    heads: dict[int, str] = field(default_factory=dict)

    def add(self, fields: Mapping[str, Any]) -> None:
        self.born += fields.get("event") == "writer_birth"
        self.ended += fields.get("event") == "writer_end"
        seq, mac = fields.get("subject_seq"), fields.get("subject_mac")
        if isinstance(seq, int) and isinstance(mac, str):
            self.heads[seq] = mac


@dataclass(slots=True)
class ChainReport:
    """What a check found in one writer's chain. `uncovered`: how many of `records`, at the end, no checkpoint covers;
    `proved`: the last one that a checkpoint signed. The keyed chain needs neither."""

    writer: str
    records: int = 0
    head: Head = field(default_factory=Head)
    problem: Problem | None = None
    notes: list[str] = field(default_factory=list)
    macs: dict[int, str] = field(default_factory=dict)
    told: dict[str, Vouched] = field(default_factory=dict)
    opened: dict[str, int] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    uncovered: int = 0
    proved: Head | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a chain: its number, its name for messages, its first bytes (the first line), and all of it."""

    number: int
    name: str
    first: bytes
    read: Callable[[], bytes] = field(repr=False)


def segment_key(first: bytes, keys: Mapping[str, bytes]) -> bytes | None:
    """The key that a segment's first line is genuine under, if any."""
    found = segment_header(first, keys)
    return found[0] if found else None


def segment_header(first: bytes, keys: Mapping[str, bytes]) -> tuple[bytes, Record] | None:
    """A segment's first line, when it is genuine, and the key that it is genuine under."""
    line = next(split_lines("", first), None)
    if line is None:
        return None
    for key in keys.values():
        record = read_record(line, key)
        if record is not None and record.fields.get("event") == "segment":
            return key, record
    return None


def verify_chain(
    writer: str, segments: Sequence[Segment], keys: Mapping[str, bytes], *, want: frozenset[int] = frozenset()
) -> ChainReport:
    """Checks a writer's segments in order. `keys`: root key id -> chain key. Stops at the first problem.

    `want`: seqs whose MACs are kept in the report, to compare with heads that were recorded elsewhere.
    """
    report = ChainReport(writer)
    headers = [segment_header(segment.first, keys) for segment in segments]
    for index, segment in enumerate(segments):
        cut = vouched_bytes(segment, [found[1].fields if found else {} for found in headers[index + 1 :]])
        if segment.number != index + 1:
            report.problem = Problem(segment.name, f"segment {index + 1} of writer {writer} is missing")
        else:
            _verify_segment(report, segment, headers[index], cut, keys, want)
        if report.problem is not None:
            break
    return report


def vouched_bytes(segment: Segment, later: Sequence[Mapping[str, Any]]) -> int | None:
    """Up to which length the later files vouch for a segment, by the fields of their first lines (empty: not begun).
    None when none was begun; without a word about the segment, for none of it."""
    begun = [one for one in later if one]
    cut = next((one.get("prev_bytes") for one in begun if one.get("prev_segment") == segment.number), 0)
    return (max(cut, 0) if isinstance(cut, int) else 0) if begun else None


def _verify_segment(
    report: ChainReport,
    segment: Segment,
    header: tuple[bytes, Record] | None,
    cut: int | None,
    keys: Mapping[str, bytes],
    want: frozenset[int],
) -> None:
    data = segment.read()
    if header is None:
        _torn_start(report, segment, data, keys)
        return
    key, first = header
    if first.fields.get("segment") != segment.number:
        report.problem = Problem(f"{segment.name}:1", f"the file is not segment {segment.number}")
    elif cut is not None and cut > len(data):
        report.problem = Problem(
            segment.name, f"the file lost its end: {cut} bytes were in the chain, {len(data)} are left"
        )
    else:
        _verify_lines(report, segment.name, data if cut is None else data[:cut], key, want, last=cut is None)
        if report.problem is None and cut is not None:
            _check_tail(report, segment.name, data, cut, key)


def _torn_start(report: ChainReport, segment: Segment, data: bytes, keys: Mapping[str, bytes]) -> None:
    """A file without a genuine first line: harmless when the writer died within that line, else forged."""
    if b"\n" in data:
        names = ", ".join(sorted(keys)) or "none"
        report.problem = Problem(
            f"{segment.name}:1", f"the record was changed, or made with a root key that is not here (here: {names})"
        )
        return
    report.notes.append(f"{segment.name}: torn tail at line 1: the writer died as it began the file")


def _check_tail(report: ChainReport, name: str, data: bytes, cut: int, key: bytes) -> None:
    """What the next segment does not vouch for: a torn line, or whole lines that were genuine and came again there."""
    for line in split_lines(name, data[cut:]):
        if line.ended and read_record(line, key) is None:
            report.problem = Problem(
                f"{name} (after seq {report.head.seq})", "the record was changed or is not one of ours"
            )
            return
    if len(data) > cut:
        report.notes.append(f"{name}: torn tail of {len(data) - cut} bytes after seq {report.head.seq}")


def _verify_lines(report: ChainReport, name: str, data: bytes, key: bytes, want: frozenset[int], *, last: bool) -> None:
    for line in split_lines(name, data):
        record = read_record(line, key)
        where = f"{name}:{line.number} (after seq {report.head.seq})"
        if record is None and last and not line.ended:
            report.notes.append(f"{name}: torn tail at line {line.number}, after seq {report.head.seq}")
        elif record is None:
            report.problem = Problem(where, "the record was changed or is not one of ours")
        elif wrong := misfit(record.fields, report):
            report.problem = Problem(where, wrong)
        else:
            take(report, record, want)
        if record is None or report.problem is not None:
            return


def misfit(fields: Mapping[str, Any], report: ChainReport) -> str:
    """Why a record cannot come next in the chain, or ""."""
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


def take(report: ChainReport, record: Record, want: frozenset[int]) -> None:
    """Counts the record that comes next."""
    fields = record.fields
    report.records += 1
    report.head = Head(int(fields["seq"]), record.mac)
    if report.head.seq in want:
        report.macs[report.head.seq] = record.mac
    kind, exchange = fields.get("kind"), str(fields.get("id"))
    if kind == "event" and report.writer == SUPERVISOR and "subject" in fields:
        report.told.setdefault(str(fields["subject"]), Vouched()).add(fields)
    if kind == "open":
        report.opened[exchange] = report.head.seq
    elif kind == "terminal":
        report.opened.pop(exchange, None)
        if exchange in report.ended and exchange != "*":
            report.problem = Problem(f"{record.line.file}:{record.line.number}", f"exchange {exchange} ended twice")
        report.ended.add(exchange)


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
