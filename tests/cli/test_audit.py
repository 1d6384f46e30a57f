"""`egress audit`: verify over a directory, show, tail."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.audit_chain import SUPERVISOR, Head
from proxy.audit_seal import Signer
from proxy.dataplane.audit_writer import AuditWriter, WriterRegister
from proxy.keys.root import AUDIT_CHAIN, AUDIT_SIGNATURE, RootKey
from proxy.model import AuditRecord
from proxy.paths import Paths
from tests.cli._trust import Run, runner, start_once

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(paths, capsys)


@pytest.fixture(autouse=True)
def root(paths: Paths) -> RootKey:
    return start_once(paths)


def _writer(paths: Paths, root: RootKey, name: str, **options: Any) -> AuditWriter:
    return AuditWriter(paths.audit_dir, name, root.derive(AUDIT_CHAIN), key_id=root.id, **options)


def _trail(paths: Paths, root: RootKey, count: int = 10, **options: Any) -> None:
    """Two writers, witnessed by the supervisor."""
    supervisor = _writer(paths, root, SUPERVISOR, **options)
    register = WriterRegister(supervisor)
    for name in ("w0", "w1"):
        writer = _writer(paths, root, name, **options)
        register.birth(name, 1, Head())
        for number in range(count):
            fields = {"app": "a" if number % 2 else "b", "outcome": "allowed", "method": "POST", "host": "api.test"}
            writer.emit(AuditRecord(f"{name}-{number}", "terminal", time.time() - 60 + number, fields))
        writer.close()
        register.end(name, writer.head)
    supervisor.close()


def test_a_good_trail(run: Run, paths: Paths, root: RootKey) -> None:
    """Exit 0, and heads that can be kept elsewhere."""
    _trail(paths, root)
    assert run("audit", "verify").code == 0
    value = run("audit", "verify", "--json").value
    assert value["ok"]
    assert {chain["writer"]: chain["records"] for chain in value["chains"]} == {"supervisor": 5, "w0": 11, "w1": 11}


def _lines(paths: Paths, writer: str = "w0") -> tuple[Path, list[bytes]]:
    file = paths.audit_dir / writer / "000001.jsonl"
    return file, file.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "how", ["flip", "delete", "swap", "duplicate", "truncate", "remove writer", "remove supervisor"]
)
def test_tampering_exits_1_and_is_named(run: Run, paths: Paths, root: RootKey, how: str) -> None:
    """AUD-01, 02, 03 at the command line."""
    _trail(paths, root)
    file, lines = _lines(paths)
    changed = {
        "flip": [*lines[:4], lines[4].replace(b"api.test", b"apj.test"), *lines[5:]],
        "delete": lines[:4] + lines[5:],
        "swap": [*lines[:4], lines[5], lines[4], *lines[6:]],
        "duplicate": lines[:5] + lines[4:],
        "truncate": lines[:-3],
    }.get(how)
    named = {"truncate": "the last 3 records", "remove writer": "gone", "remove supervisor": "gone"}.get(
        how, "000001.jsonl:"
    )
    if changed is not None:
        file.write_bytes(b"".join(changed))
    else:
        gone = paths.audit_dir / ("w0" if how == "remove writer" else SUPERVISOR)
        for path in gone.iterdir():
            path.unlink()
        gone.rmdir()
    outcome = run("audit", "verify")
    assert outcome.code == 1
    assert named in outcome.out
    assert "NOT OK" in outcome.out
    if how in ("flip", "delete", "swap"):
        assert "w0/000001.jsonl:5" in outcome.out


def test_a_kept_head_guards_the_supervisor_too(run: Run, paths: Paths, root: RootKey) -> None:
    """What no chain in the directory can witness, a head kept elsewhere does."""
    _trail(paths, root)
    head = next(c["head"] for c in run("audit", "verify", "--json").value["chains"] if c["writer"] == SUPERVISOR)
    assert run("audit", "verify", "--head", head).code == 0
    file, lines = _lines(paths, SUPERVISOR)
    file.write_bytes(b"".join(lines[:-1]))
    assert run("audit", "verify").code == 0
    outcome = run("audit", "verify", "--head", head)
    assert outcome.code == 1
    assert "supervisor" in outcome.out
    assert run("audit", "verify", "--head", "nonsense").code == 2


def test_verify_crosses_a_root_rotation(run: Run, paths: Paths, root: RootKey) -> None:
    """AUD-11."""
    _trail(paths, root)
    assert run("keys", "rotate").code == 0
    assert run("keys", "retire", root.id).code == 0
    assert run("audit", "verify").code == 0


def test_verify_works_on_a_copy(run: Run, paths: Paths, root: RootKey, state_dir: Path) -> None:
    """Offline: `--dir` elsewhere."""
    _trail(paths, root)
    shutil.copytree(paths.audit_dir, state_dir / "copy")
    assert run("audit", "--dir", state_dir / "copy", "verify").code == 0


def test_show_filters_and_sorts(run: Run, paths: Paths, root: RootKey) -> None:
    """Across writers by time; events only when asked for."""
    _trail(paths, root)
    rows = [json.loads(line) for line in run("audit", "show", "--app", "a", "--last", "4", "--json").out.splitlines()]
    assert [row["app"] for row in rows] == ["a"] * 4
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert {row["writer"] for row in rows} == {"w0", "w1"}
    text = run("audit", "show", "--id", "w1-3").out
    assert text.count("\n") == 1
    assert "POST https://api.test" in text
    assert "segment" not in run("audit", "show", "--last", "100").out
    assert "writer_birth" in run("audit", "show", "--last", "100", "--events").out
    assert run("audit", "show", "--since", "10s").out == ""


def test_no_trail(run: Run) -> None:
    """Three lines."""
    outcome = run("audit", "verify")
    assert outcome.code == 2
    assert "no audit trail" in outcome.err


def test_an_open_directory_is_refused(run: Run, paths: Paths, root: RootKey) -> None:
    """AUD-13: what others may have written is no evidence."""
    _trail(paths, root)
    paths.audit_dir.chmod(0o770)
    assert run("audit", "verify").code == 2
    assert run("denials").code == 2


def test_tail_follows(paths: Paths, root: RootKey) -> None:
    """New records of new and old writers appear."""
    _trail(paths, root, count=1)
    command = [sys.executable, "-m", "proxy.cli", "--state", paths.state_dir, "audit", "tail", "--json", "--last", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        assert json.loads(tail.stdout.readline())["kind"] == "terminal"
        writer = _writer(paths, root, "w2")
        writer.emit(AuditRecord("fresh", "terminal", time.time(), {"app": "a"}))
        writer.close()
        assert json.loads(tail.stdout.readline())["id"] == "fresh"
        tail.send_signal(signal.SIGINT)
    assert tail.returncode == 130


def test_export(run: Run, paths: Paths, root: RootKey) -> None:
    """One line for each exchange, oldest first: as events of OCSF, or as stored."""
    _trail(paths, root)
    stored = [json.loads(line) for line in run("audit", "export", "--format", "json").out.splitlines()]
    assert len(stored) == 20
    assert [one["time"] for one in stored] == sorted(one["time"] for one in stored)
    events = [json.loads(line) for line in run("audit", "export").out.splitlines()]
    assert [one["metadata"]["uid"] for one in events] == [one["id"] for one in stored]
    assert {(one["class_uid"], one["action_id"], one["disposition_id"]) for one in events} == {(4002, 1, 1)}
    of_app = run("audit", "export", "--app", "a").out.splitlines()
    assert {json.loads(line)["src_endpoint"]["name"] for line in of_app} == {"a"}
    assert len(run("audit", "export", "--since", "55s").out.splitlines()) < 20


DAMAGE: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str, set[int]]] = {
    "changed": (
        lambda lines: [*lines[:4], lines[4].replace(b"api.test", b"apj.test"), *lines[5:]],
        "warning: w0/000001.jsonl:5 (after seq 4): the record was changed",
        {3},
    ),
    "two changed": (
        lambda lines: [*lines[:4], *(line.replace(b"api", b"apj") for line in lines[4:6]), *lines[6:]],
        "warning: w0/000001.jsonl:5 (after seq 4): the record was changed",
        {3, 4},
    ),
    "removed": (lambda lines: [*lines[:4], *lines[6:]], "w0/000001.jsonl:5 (after seq 4): seq 5 is missing", {3, 4}),
    "doubled": (lambda lines: [*lines[:5], lines[4], *lines[5:]], "seq 5 stands here again", set()),
    "first line": (lambda lines: [b"{}\n", *lines[1:]], "does not begin with a record", set(range(10))),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_an_export_tells_of_its_gaps(run: Run, paths: Paths, root: RootKey, how: str) -> None:
    """What was tampered with is named once on standard error, exit 1; all other records are exported."""
    _trail(paths, root)
    assert run("audit", "export").err == ""
    change, says, lost = DAMAGE[how]
    file, lines = _lines(paths)
    file.write_bytes(b"".join(change(lines)))
    outcome = run("audit", "export", "--format", "json")
    assert outcome.code == 1
    assert says in outcome.err
    assert outcome.err.count("warning:") == 1
    ids = {json.loads(line)["id"] for line in outcome.out.splitlines()}
    assert ids == {f"w{writer}-{number}" for writer in (0, 1) for number in range(10)} - {f"w0-{one}" for one in lost}


def test_an_export_of_what_honest_writers_leave(run: Run, paths: Paths, root: RootKey) -> None:
    """A torn last line is no gap, also once the chain has gone on behind it; a file of which the end is asked for is
    read from its beginning."""
    _trail(paths, root)
    file, lines = _lines(paths)
    file.write_bytes(b"".join(lines) + lines[-1][:40])
    assert run("audit", "export").code == 0
    assert _writer(paths, root, "w0").close()
    outcome = run("audit", "export")
    assert (outcome.code, outcome.err, len(outcome.out.splitlines())) == (0, "", 20)
    os.utime(file, (1, 1))
    assert (run("audit", "export", "--since", "55s").code, run("audit", "export", "--since", "55s").err) == (0, "")


def test_what_a_forger_writes_does_not_reach_the_terminal(run: Run, paths: Paths, root: RootKey) -> None:
    """An auditor's verdict holds names out of records that no key vouches for."""
    _trail(paths, root, signers={root.id: Signer(root.derive(AUDIT_SIGNATURE))})
    key = run("audit", "public-key").out.strip()
    file, lines = _lines(paths)
    file.write_bytes(b"".join([*lines, b'{"writer":"\\u001b[2J\\nOK: 9 records"}\n']))
    outcome = run("audit", "verify", "--public-key", key)
    assert outcome.code == 1
    assert "belongs to writer" in outcome.out
    assert "\x1b" not in outcome.out
    assert not [line for line in outcome.out.splitlines() if line.startswith("OK")]


def test_a_forged_tail_at_the_command_line(run: Run, paths: Paths, root: RootKey) -> None:
    """Exit 1 and the place; what is proved and what is not are counted apart, and the head to keep is a proved one."""
    _trail(paths, root, signers={root.id: Signer(root.derive(AUDIT_SIGNATURE))})
    key = run("audit", "public-key").out.strip()
    assert "at their ends" not in run("audit", "verify", "--public-key", key).out
    file, lines = _lines(paths, SUPERVISOR)
    file.write_bytes(b"".join(lines[:-1]))
    outcome = run("audit", "verify", "--public-key", key)
    assert outcome.code == 0
    covered = 1 + max(at for at, line in enumerate(lines[:-1]) if b'"checkpoint"' in line)
    more = len(lines) - 1 - covered
    assert f" in 3 chains; {more} more at their ends, which no checkpoint covers yet" in outcome.out
    first = run("audit", "verify", "--public-key", key, "--json").value["chains"][0]
    assert (first["records"], first["uncovered"]) == (covered, more)
    assert first["head"].startswith(f"supervisor:{covered - 1}:")
    record, invented = json.loads(lines[-2]), []
    for seq in range(record["seq"] + 1, 800):
        record |= {"seq": seq, "prev": record["mac"], "mac": f"{seq:064x}"}
        invented.append(json.dumps(record, separators=(",", ":")).encode() + b"\n")
    file.write_bytes(b"".join([*lines[:-1], *invented]))
    outcome = run("audit", "verify", "--public-key", key)
    assert outcome.code == 1
    assert f"BAD  supervisor/000001.jsonl:{covered + 1} (from seq {covered + 1} on)" in outcome.out
    assert f"no checkpoint covers {799 - covered} records" in outcome.out


def test_an_auditor_needs_only_the_public_key(run: Run, paths: Paths, root: RootKey) -> None:
    """`verify --public-key` without a root key: exit 0 on the genuine trail, 1 on a changed or cut one; proofs too."""
    _trail(paths, root, signers={root.id: Signer(root.derive(AUDIT_SIGNATURE))})
    key = run("audit", "public-key").out.strip()
    proof = paths.state_dir / "proof.json"
    proof.write_text(run("audit", "prove", "w1-4").out)
    paths.root_key.rename(paths.state_dir / "elsewhere")
    assert run("audit", "verify").code == 2
    assert run("audit", "verify", "--public-key", key).code == 0
    assert run("audit", "verify", "--public-key", key, "--proof", proof).code == 0
    file = paths.audit_dir / "w1" / "000001.jsonl"
    good = file.read_bytes()
    file.write_bytes(good.replace(b'"api.test"', b'"evi.test"', 1))
    outcome = run("audit", "verify", "--public-key", key)
    assert outcome.code == 1
    assert "not what this checkpoint signed" in outcome.out
    file.write_bytes(b"".join(good.splitlines(keepends=True)[:-1]))
    assert run("audit", "verify", "--public-key", key).code == 1
    proof.write_text(proof.read_text().replace("allowed", "denied "))
    assert run("audit", "verify", "--public-key", key, "--proof", proof).code == 1
    proof.write_text("{}")
    for words in (["--proof", proof], ["--public-key", key, "--proof", proof], ["--public-key", "nonsense"]):
        assert run("audit", "verify", *words).code == 2
    assert run("audit", "verify", "--public-key", key, "--proof", "nowhere").code == 2
