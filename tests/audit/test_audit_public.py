"""A trail with signed checkpoints, checked with the public key alone: whatever was changed is noticed and placed."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audit_chain import verify_chain
from proxy.audit_public import disproved, proof_of, verify_public
from proxy.audit_seal import MOST_UNSIGNED, MOST_UNSIGNED_S, Seal, is_signed
from proxy.audit_tree import Tree, inclusion_path, is_included, leaf_hash, node_hash, root_of
from proxy.dataplane.audit_writer import Limits
from proxy.sinks._reader import segments
from tests.audit._sealed import CHAIN, NEW, OLD, check, edit, write


def test_a_good_trail_is_covered_to_its_end(tmp_path: Path) -> None:
    write(tmp_path, 5)
    report = check(tmp_path)
    assert (report.problem, report.notes) == (None, [])
    # Header, its checkpoint, five records, checkpoint.
    assert (report.records, report.uncovered, report.head.seq) == (8, 0, 8)
    assert report.proved is not None
    assert report.proved.seq == 7
    assert verify_chain("w0", segments(tmp_path, "w0"), CHAIN).problem is None


def changed(line: bytes) -> bytes:
    return line.replace(b'"allowed"', b'"denied" ')


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [*lines[:2], changed(lines[2]), *lines[3:]], "are not what this checkpoint signed"),
        (lambda lines: [*lines[:2], *lines[3:]], "seq 3 is missing"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], "stands here again"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "is missing"),
        (lambda lines: [lines[0].replace(b'"segment":1', b'"segment":2', 1), *lines[1:]], "not one that begins a file"),
        (lambda lines: [lines[0].replace(b'"time":"2', b'"time":"3'), *lines[1:]], "checkpoint signed"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b'"tree_size":7', b'"tree_size":6')], "checkpoint signed"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b'"signature":"', b'"signature":"00')], "checkpoint signed"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b'"kind":"event"', b'"kind":"terminal"')], "other fields"),
        (lambda lines: [*lines[:-1], lines[-1].replace(b'"v":1', b'"v":1,"outcome":"allowed"')], "other fields"),
        (lambda lines: [*lines[:-1], lines[-1].replace(OLD.public.encode(), NEW.public.encode())], "names another key"),
        (lambda lines: lines[:1], "no checkpoint is signed"),
        (lambda lines: [*lines[:3], b"{}\n", *lines[3:]], "belongs to writer"),
        (lambda lines: [*lines[:3], b"nonsense\n", *lines[3:]], "no record"),
    ],
)
def test_changes(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], says: str) -> None:
    write(tmp_path, 5)
    edit(tmp_path, change)
    problem = check(tmp_path).problem
    assert problem is not None
    assert says in problem.what


def test_whoever_forges_needs_the_key(tmp_path: Path) -> None:
    """A trail written anew with another key is noticed, however consistent it is."""
    write(tmp_path, 3, key_id="k2")
    problem = check(tmp_path, OLD).problem
    assert problem is not None
    assert problem.what == "no checkpoint is signed by a key that was given"


def test_records_behind_the_last_checkpoint_are_counted(tmp_path: Path) -> None:
    write(tmp_path, 3)
    write(tmp_path, 2, first=3)
    edit(tmp_path, lambda lines: lines[:-1], "000002.jsonl")
    report = check(tmp_path)
    assert (report.problem, report.uncovered, report.records) == (None, 2, 10)
    assert report.notes == ["w0: 2 records behind the last checkpoint are not covered yet"]


def test_a_line_of_somebody_else_behind_the_last_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 3)
    edit(tmp_path, lambda lines: [*lines, lines[-2].replace(b'"seq":5', b'"seq":7').replace(b'"id2"', b'"id9"')])
    problem = check(tmp_path).problem
    assert problem is not None
    assert "does not continue" in problem.what


def test_segments_are_linked(tmp_path: Path) -> None:
    """Each file of a chain is covered by the next one, also what its own checkpoints had not covered."""
    write(tmp_path, 40, limits=Limits(segment_bytes=2000))
    write(tmp_path, 3, first=40)
    names = sorted(file.name for file in (tmp_path / "w0").glob("*.jsonl"))
    assert len(names) >= 2
    assert check(tmp_path).problem is None
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "w0", whole / "w0")
    for name in names[:-1]:
        edit(tmp_path, lambda lines: [*lines[:-1], changed(lines[-1]).replace(b"checkpoint", b"checkpoynt")], name)
        assert check(tmp_path).problem is not None, name
        shutil.copy(whole / "w0" / name, tmp_path / "w0" / name)
    assert check(tmp_path).problem is None


def test_a_new_key_is_signed_by_the_old_one(tmp_path: Path) -> None:
    write(tmp_path, 3)
    write(tmp_path, 3, key_id="k2", first=3)
    for signers in ((OLD,), (NEW,), (OLD, NEW)):
        report = check(tmp_path, *signers)
        assert report.problem is None, signers
        assert not [note for note in report.notes if "behind the last checkpoint" in note]
    edit(
        tmp_path, lambda lines: [lines[0].replace(b'"signature":"', b'"signature":"00', 1), *lines[1:]], "000002.jsonl"
    )
    problem = check(tmp_path, OLD).problem
    assert problem is not None
    assert "change of the signing key" in problem.what


def test_a_torn_tail_is_a_note(tmp_path: Path) -> None:
    write(tmp_path, 3)
    file = tmp_path / "w0" / "000001.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole.splitlines()[-1][:50])
    report = check(tmp_path)
    assert report.problem is None
    assert any("torn tail" in note for note in report.notes)
    write(tmp_path, 2, first=3)
    assert check(tmp_path).problem is None


def test_proofs(tmp_path: Path) -> None:
    write(tmp_path, 9)
    proof = proof_of("id4", segments(tmp_path, "w0"))
    assert proof is not None
    keys = frozenset((OLD.public,))
    assert disproved(proof, keys) == ""
    assert json.loads(proof["record"])["id"] == "id4"
    assert proof_of("id99", segments(tmp_path, "w0")) is None
    changes: list[dict[str, Any]] = [
        {"record": proof["record"].replace("allowed", "denied ")},
        {"index": proof["index"] + 1},
        {"path": proof["path"][1:]},
        {"path": [*proof["path"], "00" * 32]},
        {"checkpoint": proof["checkpoint"] | {"tree_size": 8}},
        {"checkpoint": proof["checkpoint"] | {"tree_root": "00" * 32}},
        {"checkpoint": proof["checkpoint"] | {"writer": "w1"}},
    ]
    for change in changes:
        assert disproved(proof | change, keys) != "", change
    assert "not given" in disproved(proof, frozenset((NEW.public,)))


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:AAAA", "rsa:" + "A" * 44, "ed25519:%%%"])
def test_texts_that_are_no_key(text: str) -> None:
    with pytest.raises(ValueError, match="not a public key"):
        is_signed(text, b"", "00")
    with pytest.raises(ValueError, match="not a public key"):
        verify_public("w0", [], {text})


# ---------------------------------------------------------------- the tree, against its definition


def by_definition(lines: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not lines:
        return hashlib.sha256(b"").digest()
    if len(lines) == 1:
        return leaf_hash(lines[0])
    split = max(2**power for power in range(20) if 2**power < len(lines))
    return node_hash(by_definition(lines[:split]), by_definition(lines[split:]))


@given(st.lists(st.binary(max_size=4), max_size=70))
def test_the_root(lines: list[bytes]) -> None:
    tree = Tree()
    for line in lines:
        tree.append(line)
    assert (tree.size, tree.root) == (len(lines), by_definition(lines))


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=70, unique=True), st.data())
def test_each_path_leads_to_the_root_and_no_other_does(lines: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(lines) - 1))
    path, root = inclusion_path(lines, index), root_of(lines)
    assert is_included(lines[index], index, len(lines), path, root)
    assert not is_included(lines[index] + b"x", index, len(lines), path, root)
    for other in {index - 1, index + 1, len(lines)} - {index}:
        assert not is_included(lines[index], other, len(lines), path, root)


# ---------------------------------------------------------------- when a checkpoint is due


def test_when_a_checkpoint_is_due() -> None:
    seal = Seal("w0", OLD)
    seal.begun(b"header\ncheckpoint\n", 9.0)
    assert (seal.due(99.0, last=True), seal.wait_s(99.0)) == (False, None)
    seal.wrote(b"line\n", 10.0)
    assert (seal.due(10.5), seal.wait_s(10.25)) == (False, MOST_UNSIGNED_S - 0.25)
    assert seal.due(10.0 + MOST_UNSIGNED_S)
    assert seal.due(10.0, last=True)
    seal.wrote(b"checkpoint\n", 11.0, signed=True)
    assert (seal.due(99.0, last=True), seal.wait_s(99.0)) == (False, None)
    seal.wrote(b"line\n" * (MOST_UNSIGNED - 1), 100.0)
    assert not seal.due(100.0)
    seal.wrote(b"line\n", 100.1)
    assert seal.due(100.1)
