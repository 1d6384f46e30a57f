"""The check of a trail by one who has only public keys: what each checkpoint signed must be what stands there. Pure.

Records behind the last checkpoint (at most a second's) are not covered yet, and the report says how many there are.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.audit_chain import ChainReport, Line, Problem, Record, Segment, misfit, split_lines, take
from proxy.audit_seal import checkpoint_statement, is_signed, key_statement, public_bytes
from proxy.audit_tree import Tree, is_included


@dataclass(slots=True)
class _Check:
    """How far the check of one chain has come. `covered`: last seq that a good checkpoint covers."""

    report: ChainReport
    accepted: set[str]
    want: frozenset[int]
    covered: int = 0
    signed: bool = False
    digest: str = ""
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
    for index, segment in enumerate(segments):
        later = firsts[index + 1 :]
        cut = next((one.get("prev_bytes") for one in later if one.get("prev_segment") == segment.number), None)
        if segment.number != index + 1:
            check.problem(segment.name, f"segment {index + 1} of writer {writer} is missing")
        else:
            _segment(check, segment, firsts[index], cut if isinstance(cut, int) else None, last=not later)
        if check.report.problem is not None:
            return check.report
    if segments and not check.signed:
        check.problem(writer, "no checkpoint is signed by a key that was given")
    if check.report.head.seq > check.covered:
        count = check.report.head.seq - check.covered
        check.report.notes.append(f"{writer}: {count} records behind the last checkpoint are not covered yet")
    return check.report


def _segment(check: _Check, segment: Segment, first: Mapping[str, Any], cut: int | None, *, last: bool) -> None:
    data = segment.read()
    data = data if cut is None else data[:cut]
    if cut is not None and len(data) < cut:
        check.problem(segment.name, f"the file lost its end: {cut} bytes were in the chain, {len(data)} are left")
        return
    if not data or (cut is None and not last):
        return  # begun and torn: no later segment vouches for any of it
    if first.get("prev_segment") and first.get("prev_sha256") != check.digest:
        check.problem(f"{segment.name}:1", f"segment {first['prev_segment']} is not what this one was linked to")
        return
    _new_key(check, segment, first)
    check.digest = hashlib.sha256(data).hexdigest()
    tree = Tree()
    for line in split_lines(segment.name, data):
        fields = _parsed(line)
        if fields is None and last and not line.ended:
            check.report.notes.append(f"{segment.name}: torn tail at line {line.number}")
            return
        wrong = "the line is no record" if fields is None else misfit(fields, check.report)
        if fields is None or wrong:
            check.problem(f"{segment.name}:{line.number} (after seq {check.report.head.seq})", wrong)
            return
        if fields.get("event") == "checkpoint":
            _checkpoint(check, segment, line, fields, tree)
        take(check.report, Record(fields, str(fields.get("mac")), line), check.want)
        if check.report.problem is not None:
            return
        tree.append(line.data)


def _new_key(check: _Check, segment: Segment, first: Mapping[str, Any]) -> None:
    old, new = first.get("signed_by"), str(first.get("signer"))
    if old in check.accepted and new not in check.accepted:
        if is_signed(str(old), key_statement(check.report.writer, segment.number, new), first.get("signature")):
            check.accepted.add(new)
        else:
            check.problem(f"{segment.name}:1", "the change of the signing key is not signed by the key before it")


def _checkpoint(check: _Check, segment: Segment, line: Line, fields: Mapping[str, Any], tree: Tree) -> None:
    signer = str(fields.get("signer"))
    if signer not in check.accepted:
        if signer not in check.strangers:
            check.strangers.add(signer)
            check.report.notes.append(f"{segment.name}:{line.number}: a checkpoint by {signer}, which was not given")
        return
    size, root = tree.size, tree.root.hex()
    statement = checkpoint_statement(check.report.writer, segment.number, size, root)
    told = fields.get("tree_size"), fields.get("tree_root")
    if told != (size, root) or not is_signed(signer, statement, fields.get("signature")):
        after = f"after seq {check.covered}" if check.covered else "from the first on"
        check.problem(
            f"{segment.name}:{line.number}",
            f"records {after}, up to seq {check.report.head.seq}, are not what this checkpoint signed",
        )
        return
    check.signed = True
    check.covered = check.report.head.seq + 1


def _first(segment: Segment) -> Mapping[str, Any]:
    line = next(split_lines(segment.name, segment.first), None)
    return (_parsed(line) if line is not None else None) or {}


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
