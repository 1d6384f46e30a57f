"""What one who lacks the keys can make of a trail, and what honest writers leave: public keys tell them apart."""

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.audit import instant
from proxy.audit_public import verify_public
from proxy.audit_seal import (
    MOST_UNCOVERED,
    MOST_UNCOVERED_S,
    Signer,
    checkpoint_statement,
    key_statement,
)
from proxy.audit_tree import Tree
from proxy.dataplane.audit_writer import AuditWriter, Limits
from proxy.sinks._reader import segments
from tests.audit._sealed import CHAIN, NEW, OLD, check, edit, write

# ---------------------------------------------------------------- what one without the key can put behind it


def forged(lines: list[bytes], count: int, *, apart_s: float = 0.0, **more: Any) -> list[bytes]:
    """Records that continue a chain as far as anybody can see who lacks the keys."""
    record, last = json.loads(lines[2]), json.loads(lines[-1])
    seq, prev, invented = last["seq"], last["mac"], []
    for number in range(1, count + 1):
        moment = instant(time.time() + number * apart_s)
        fields = record | {"seq": seq + number, "prev": prev, "id": f"forged{seq + number}", "time": moment} | more
        fields["mac"] = prev = f"{number:064x}"
        invented.append(json.dumps(fields, separators=(",", ":")).encode() + b"\n")
    return invented


@pytest.mark.parametrize(
    ("count", "apart_s", "says"),
    [
        (MOST_UNCOVERED, 0.0, ""),
        (MOST_UNCOVERED + 1, 0.0, f"no checkpoint covers {MOST_UNCOVERED + 1} records"),
        (5_000, 0.0, "no checkpoint covers 5000 records"),
        (2, MOST_UNCOVERED_S - 1, ""),
        (2, MOST_UNCOVERED_S + 1, "a writer signs one each second"),
        (3, 3600.0, "a writer signs one each second"),
    ],
)
def test_an_invented_tail_is_short_and_does_not_count(tmp_path: Path, count: int, apart_s: float, says: str) -> None:
    """The trail is cut back to a checkpoint, and goes on as somebody pleases: no further than honest trails do."""
    write(tmp_path, 5)
    edit(tmp_path, lambda lines: [*lines, *forged(lines, count, apart_s=apart_s)])
    report = check(tmp_path)
    if not says:
        assert report.problem is None
    else:
        assert report.problem is not None
        assert says in report.problem.what
        assert report.problem.where == "w0/000001.jsonl:9 (from seq 9 on)"
    assert (report.records - report.uncovered, report.uncovered) == (8, count)
    assert report.proved is not None
    assert report.proved.seq == 7


def test_a_tail_without_times(tmp_path: Path) -> None:
    write(tmp_path, 5)
    edit(tmp_path, lambda lines: [*lines, *forged(lines, 1), *forged([*lines, *forged(lines, 1)], 1, time="*")])
    problem = check(tmp_path).problem
    assert problem is not None
    assert "a writer signs one each second" in problem.what


def test_an_exchange_that_took_long_ended_when_it_was_written(tmp_path: Path) -> None:
    """A record tells when its exchange began; a tail of one that took an hour is as short as any."""
    write(tmp_path, 5)
    began = instant(time.time() - 3600)

    def tail(lines: list[bytes]) -> list[bytes]:
        long = forged(lines, 1, time=began, duration_ms=3_600_000)
        return [*lines, *long, *forged([*lines, *long], 1)]

    edit(tmp_path, tail)
    assert check(tmp_path).problem is None


def test_a_signer_that_nobody_vouched_for(tmp_path: Path) -> None:
    """Neither a file of a key of one's own, nor a checkpoint of it, stands behind what a known key signed."""
    write(tmp_path, 3)
    whole = (tmp_path / "w0" / "000001.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    stranger = Signer(b"x" * 32)
    tree = Tree()
    for line in lines:
        tree.append(line[:-1])
    statement = checkpoint_statement("w0", 1, tree.size, tree.root.hex())
    told = {"tree_size": tree.size, "tree_root": tree.root.hex(), "signer": stranger.public}
    last = json.loads(lines[-1])
    sealed = last | told | {"signature": stranger.sign(statement), "seq": last["seq"] + 1, "prev": last["mac"]}
    edit(tmp_path, lambda lines: [*lines, json.dumps(sealed).encode() + b"\n"])
    problem = check(tmp_path).problem
    assert problem is not None
    assert "names another key" in problem.what
    (tmp_path / "w0" / "000001.jsonl").write_bytes(whole)
    header = json.loads(lines[0]) | {
        "segment": 2, "prev_segment": 1, "prev_bytes": len(whole), "prev_sha256": hashlib.sha256(whole).hexdigest(),
        "seq": last["seq"] + 1, "prev": last["mac"],
    }  # fmt: skip
    signed_by_itself = {"signed_by": OLD.public, "signature": stranger.sign(key_statement("w0", 2, stranger.public))}
    for more in ({"signer": stranger.public}, {"signer": stranger.public} | signed_by_itself, {"signer": None}):
        (tmp_path / "w0" / "000002.jsonl").write_bytes(json.dumps(header | more).encode() + b"\n")
        problem = check(tmp_path, OLD, stranger).problem
        assert problem is not None, more
        assert "not signed by the key before it" in problem.what
    (tmp_path / "w0" / "000002.jsonl").write_bytes(json.dumps(header).encode() + b"\n")
    assert check(tmp_path).problem is None


def test_an_old_key_counts_no_more_behind_the_new_one(tmp_path: Path) -> None:
    """A key that leaked and was rotated for it signs nothing any more, though it is given for the files before."""
    write(tmp_path, 3)
    write(tmp_path, 3, key_id="k2", first=3)
    writer = AuditWriter(tmp_path, "w0", CHAIN["k1"], key_id="k1", older_keys=CHAIN, signers={"k1": OLD})
    assert writer.close()
    problem = check(tmp_path, OLD, NEW).problem
    assert problem is not None
    assert (problem.where, "not signed by the key before it" in problem.what) == ("w0/000003.jsonl:1", True)


@pytest.mark.parametrize("attack", ["empty file", "swapped files", "file gone", "lines behind", "unlinked", "garbage"])
def test_whole_files(tmp_path: Path, attack: str) -> None:
    for part in range(3):
        write(tmp_path, 5, first=5 * part)
    one, two, three = (tmp_path / "w0" / f"00000{number}.jsonl" for number in (1, 2, 3))
    assert check(tmp_path).problem is None
    says = {
        "empty file": "are not what this checkpoint signed", "swapped files": "not one that begins a file",
        "file gone": "segment 2 of writer w0 is missing", "lines behind": "no later file vouches for",
        "unlinked": "goes on with lines", "garbage": "not one that begins a file",
    }[attack]  # fmt: skip
    if attack == "empty file":  # which is what a writer that died leaves: the file before it is checked all the same
        three.write_bytes(three.read_bytes().replace(b'"id12"', b'"id99"'))
        (tmp_path / "w0" / "000004.jsonl").write_bytes(b"")
    elif attack == "swapped files":
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
    elif attack == "file gone":
        two.unlink()
    elif attack == "lines behind":
        lines = one.read_bytes().splitlines(keepends=True)
        one.write_bytes(b"".join([*lines, *forged(lines, 1)]))
    elif attack == "unlinked":
        three.write_bytes(three.read_bytes().replace(b'"prev_segment":2', b'"prev_segment":1', 1))
    else:
        (tmp_path / "w0" / "000004.jsonl").write_bytes(b"{}\n")
    problem = check(tmp_path).problem
    assert problem is not None
    assert says in problem.what


def test_a_chain_under_another_name(tmp_path: Path) -> None:
    """What a key signed for one writer, or one file, holds for no other."""
    write(tmp_path, 3)
    renamed = (tmp_path / "w0" / "000001.jsonl").read_bytes().replace(b'"writer":"w0"', b'"writer":"w1"')
    (tmp_path / "w1").mkdir(mode=0o700)
    (tmp_path / "w1" / "000001.jsonl").write_bytes(renamed)
    problem = verify_public("w1", segments(tmp_path, "w1"), {OLD.public}).problem
    assert problem is not None
    assert "not what this checkpoint signed" in problem.what


# ---------------------------------------------------------------- what honest writers leave


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 511, 700, 2_000])
def test_at_no_moment_is_more_uncovered_than_may_be(tmp_path: Path, count: int) -> None:
    """Wherever a writer is killed, what it had written verifies, and so does what its successor makes of it."""
    write(tmp_path, count)
    file = tmp_path / "w0" / "000001.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    for cut in sorted({1, 2, 3, count // 2, count - 1, len(lines) - 1} & set(range(2, len(lines) + 1))):
        file.write_bytes(b"".join(lines[:cut]) + lines[cut % len(lines)][:20])
        report = check(tmp_path)
        assert (report.problem, report.records) == (None, cut)
    write(tmp_path, 2, first=count)
    report = check(tmp_path)
    assert (report.problem, report.uncovered) == (None, 0)


def test_a_file_begins_with_a_checkpoint(tmp_path: Path) -> None:
    """So the file before it is covered whole, and a chain is covered from its first moment."""
    write(tmp_path, 40, limits=Limits(segment_bytes=2000))
    write(tmp_path, 0)
    files = sorted((tmp_path / "w0").glob("*.jsonl"))
    for file in files:
        events = [json.loads(line).get("event") for line in file.read_bytes().splitlines()[:2]]
        assert events == ["segment", "checkpoint"]


def test_a_disk_that_failed_as_a_file_was_begun(tmp_path: Path) -> None:
    """Its beginning may be left; the chain goes on in another file."""
    write(tmp_path, 3)
    shutil.copytree(tmp_path / "w0", tmp_path / "before" / "w0")
    write(tmp_path, 3, first=3)
    two = tmp_path / "w0" / "000002.jsonl"
    begun = two.read_bytes().splitlines(keepends=True)[:2]
    other = tmp_path / "before"
    other.chmod(0o700)
    (other / "w0" / "000002.jsonl").write_bytes(b"")
    write(other, 3, first=3)
    assert check(other).problem is None
    (other / "w0" / "000002.jsonl").write_bytes(b"".join(begun))
    assert check(other).problem is None
    (other / "w0" / "000002.jsonl").write_bytes(two.read_bytes())
    problem = check(other).problem
    assert problem is not None
    assert "no later file vouches for" in problem.what
