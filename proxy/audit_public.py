"""The check of a trail by one who has only public keys: what each checkpoint signed must be what stands there. Pure.

What stands behind the last checkpoint anybody can have written: it is counted apart, and may be no more than an honest
writer leaves unsigned. That a trail was cut back to one of its checkpoints shows only against heads kept elsewhere.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from proxy.audit import MAX_LINE_BYTES
from proxy.audit_chain import ChainReport, Line, Problem, Record, Segment, misfit, split_lines, take, vouched_bytes
from proxy.audit_seal import (
    MOST_UNCOVERED,
    MOST_UNCOVERED_S,
    checkpoint_statement,
    is_signed,
    key_statement,
    public_bytes,
)
from proxy.audit_tree import Tree, is_included

_CHECKPOINT_FIELDS: Final = frozenset(
    {"v", "writer", "seq", "prev", "id", "kind", "time", "event", "segment", "tree_size", "tree_root", "signer"}
    | {"signature", "mac"}
)
_BEGINNING: Final = ("segment", "open_carried", "checkpoint")


@dataclass(slots=True)
class _Tail:
    """What stands behind the last good checkpoint: where it begins, and the earliest and latest moment it tells."""

    where: str = ""
    since_s: float = float("inf")
    until_s: float = float("-inf")

    def add(self, where: str, fields: Mapping[str, Any]) -> None:
        self.where = self.where or where
        if fields.get("kind") == "open":
            return  # written late, with the moment at which its exchange began
        moment_s = _ended_s(fields)
        self.since_s, self.until_s = min(self.since_s, moment_s), max(self.until_s, moment_s)


@dataclass(slots=True)
class _Check:
    """How far the check of one chain has come. `signer`: whose checkpoints the segment has."""

    report: ChainReport
    accepted: set[str]
    want: frozenset[int]
    signer: str = ""
    digest: str = ""
    tail: _Tail = field(default_factory=_Tail)
    strangers: set[str] = field(default_factory=set)

    def problem(self, where: str, what: str) -> None:
        if self.report.problem is None:
            self.report.problem = Problem(where, what)


def verify_public(
    writer: str, segments: Sequence[Segment], keys: set[str], *, want: frozenset[int] = frozenset()
) -> ChainReport:
    """Checks a writer's segments in order against `keys` (`ed25519:…`), which grow by the keys that these signed. Stops
    at the first problem. Raises ValueError for a text that is no key."""
    for key in keys:
        public_bytes(key)
    check = _Check(ChainReport(writer), keys, want)
    firsts = [_first(segment) for segment in segments]
    gap = next((at for at, segment in enumerate(segments) if segment.number != at + 1), None)
    if gap is not None:
        check.problem(segments[gap].name, f"segment {gap + 1} of writer {writer} is missing")
        return check.report
    for index, segment in enumerate(segments):
        _segment(check, segment, firsts[index], vouched_bytes(segment, firsts[index + 1 :]))
        if check.report.problem is not None:
            return check.report
    _end(check)
    return check.report


def _segment(check: _Check, segment: Segment, first: Mapping[str, Any], cut: int | None) -> None:
    if not first:
        _torn_start(check, segment)
        return
    whole = segment.read()
    data = whole if cut is None else whole[:cut]
    if cut is not None and len(data) < cut:
        check.problem(segment.name, f"the file lost its end: {cut} bytes were in the chain, {len(data)} are left")
    elif b"\n" in whole[len(data) :] and not (cut == 0 and _only_begun(segment, whole)):
        check.problem(segment.name, "the file goes on with lines that no later file vouches for")
    elif not data:
        return
    elif first.get("prev_sha256") != (check.digest or None):
        check.problem(f"{segment.name}:1", "what stands before this file is not what it was linked to")
    else:
        _signer(check, segment, first)
        check.digest = hashlib.sha256(data).hexdigest()
        _lines(check, segment, data, last=cut is None)


def _torn_start(check: _Check, segment: Segment) -> None:
    if b"\n" in segment.first or len(segment.first) > MAX_LINE_BYTES:
        check.problem(f"{segment.name}:1", "the first line is not one that begins a file of this trail")
    else:
        check.report.notes.append(f"{segment.name}: torn tail at line 1: the writer died as it began the file")


def _only_begun(segment: Segment, data: bytes) -> bool:
    """A disk that failed as a file was begun leaves its first lines, and the chain goes on in another."""
    whole = [line for line in split_lines(segment.name, data) if line.ended]
    return all((_parsed(line) or {}).get("event") in _BEGINNING for line in whole)


def _lines(check: _Check, segment: Segment, data: bytes, *, last: bool) -> None:
    report, tree = check.report, Tree()
    for line in split_lines(segment.name, data):
        fields = _parsed(line)
        if fields is None and last and not line.ended:
            report.notes.append(f"{segment.name}: torn tail at line {line.number}")
            return
        wrong = "the line is no record" if fields is None else misfit(fields, report)
        if fields is None or wrong:
            check.problem(f"{segment.name}:{line.number} (after seq {report.head.seq})", wrong)
            return
        covers = fields.get("event") == "checkpoint" and _checkpoint(check, segment, line, fields, tree)
        before = report.head
        take(report, Record(fields, str(fields.get("mac")), line), check.want)
        if report.problem is not None:
            return
        if covers:
            report.proved, report.uncovered, check.tail = before, 0, _Tail()
        else:
            report.uncovered += 1
            check.tail.add(f"{segment.name}:{line.number}", fields)
        tree.append(line.data)


def _signer(check: _Check, segment: Segment, first: Mapping[str, Any]) -> None:
    """A file's checkpoints are by one key. Once a key counts, only it can name the next one."""
    old, new = check.signer, str(first.get("signer") or "")
    check.signer = new
    if new == old or old not in check.accepted:
        return
    statement = key_statement(check.report.writer, segment.number, new)
    if first.get("signed_by") == old and is_signed(old, statement, first.get("signature")):
        check.accepted.add(new)
    else:
        check.problem(f"{segment.name}:1", "the change of the signing key is not signed by the key before it")


def _checkpoint(check: _Check, segment: Segment, line: Line, fields: Mapping[str, Any], tree: Tree) -> bool:
    """Whether a good checkpoint of a key that counts covers all lines before it."""
    signer, where = str(fields.get("signer")), f"{segment.name}:{line.number}"
    if signer != check.signer:
        check.problem(where, f"a checkpoint by {signer[:80]} in a file whose first line names another key")
        return False
    if signer not in check.accepted:
        if signer not in check.strangers:
            check.strangers.add(signer)
            check.report.notes.append(f"{where}: a checkpoint by {signer[:80]}, which was not given")
        return False
    size, root = tree.size, tree.root.hex()
    statement = checkpoint_statement(check.report.writer, segment.number, size, root)
    told = fields.get("segment"), fields.get("tree_size"), fields.get("tree_root")
    if told != (segment.number, size, root) or not is_signed(signer, statement, fields.get("signature")):
        proved = check.report.proved
        after = f"after seq {proved.seq + 1}" if proved else "from the first on"
        check.problem(where, f"records {after}, up to seq {check.report.head.seq}, are not what this checkpoint signed")
        return False
    # No signature covers the last checkpoint's own line: it must have no room for anything else.
    if fields.keys() != _CHECKPOINT_FIELDS or (fields["kind"], fields["id"]) != ("event", "-"):
        check.problem(where, "the checkpoint has other fields than checkpoints have")
        return False
    return True


def _end(check: _Check) -> None:
    report, tail = check.report, check.tail
    if report.records and report.proved is None:
        check.problem(report.writer, "no checkpoint is signed by a key that was given")
    if not report.uncovered:
        return
    begins = f"{tail.where} (from seq {report.head.seq - report.uncovered + 1} on)"
    span_s = tail.until_s - tail.since_s
    if report.uncovered > MOST_UNCOVERED:
        check.problem(
            begins, f"no checkpoint covers {report.uncovered} records; none leaves more than {MOST_UNCOVERED}"
        )
    elif span_s > MOST_UNCOVERED_S:
        check.problem(begins, f"no checkpoint covers records of {span_s:.0f} s; a writer signs one each second")
    report.notes.append(f"{report.writer}: {report.uncovered} records behind the last checkpoint are not covered yet")


def _ended_s(fields: Mapping[str, Any]) -> float:
    """Unix seconds at which what a record tells was over; 0 when it tells no time."""
    took_ms = fields.get("duration_ms")
    try:
        began_s = datetime.fromisoformat(str(fields.get("time"))).timestamp()
        return began_s + (took_ms / 1000 if isinstance(took_ms, int) else 0.0)
    except (ValueError, OverflowError):
        return 0.0


def _first(segment: Segment) -> Mapping[str, Any]:
    """The line that begins a file; empty when it has none."""
    line = next(split_lines(segment.name, segment.first), None)
    fields = (_parsed(line) if line is not None else None) or {}
    return fields if (fields.get("event"), fields.get("segment")) == ("segment", segment.number) else {}


def _parsed(line: Line) -> dict[str, Any] | None:
    try:
        fields = json.loads(line.data) if line.ended else None
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def proof_of(exchange: str, segments: Sequence[Segment]) -> dict[str, Any] | None:
    """That an exchange's terminal record stands in the trail: the record, a checkpoint, and the hashes between; None
    when it is not here, or no checkpoint covers it yet."""
    from proxy.audit_tree import inclusion_path

    for segment in segments:
        lines = [line for line in split_lines(segment.name, segment.read()) if line.ended]
        found = next((at for at, line in enumerate(lines) if _is_end_of(exchange, line)), None)
        for at, line in enumerate(lines[found + 1 :] if found is not None else (), (found or 0) + 1):
            fields = _parsed(line) or {}
            if fields.get("event") == "checkpoint" and fields.get("tree_size") == at and found is not None:
                leaves = [one.data for one in lines[:at]]
                path = [one.hex() for one in inclusion_path(leaves, found)]
                return {"record": leaves[found].decode(), "index": found, "path": path, "checkpoint": fields}
    return None


def _is_end_of(exchange: str, line: Line) -> bool:
    fields = _parsed(line) if exchange.encode() in line.data else None
    return fields is not None and fields.get("kind") == "terminal" and fields.get("id") == exchange


def disproved(proof: Mapping[str, Any], keys: frozenset[str]) -> str:
    """Why a proof shows nothing, or "". Raises ValueError, KeyError, TypeError when it has not the form of one."""
    checkpoint = proof["checkpoint"]
    writer, segment, size = str(checkpoint["writer"]), int(checkpoint["segment"]), int(checkpoint["tree_size"])
    root, signer = str(checkpoint["tree_root"]), str(checkpoint["signer"])
    for key in keys:
        public_bytes(key)
    if signer not in keys:
        return f"it is signed by {signer}, which was not given"
    if not is_signed(signer, checkpoint_statement(writer, segment, size, root), checkpoint["signature"]):
        return "the checkpoint is not what the key signed"
    path = [bytes.fromhex(one) for one in _texts(proof["path"])]
    if not is_included(str(proof["record"]).encode(), int(proof["index"]), size, path, bytes.fromhex(root)):
        return "the record is not among those that the checkpoint covers"
    return ""


def _texts(value: Any) -> Iterator[str]:
    yield from (str(one) for one in value)
