"""The writer: durable, exactly once, alive through full disks, kills and restarts."""

import asyncio
import json
import multiprocessing
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.audit_chain import SUPERVISOR, ChainReport, Head, verify_chain
from proxy.dataplane.audit_writer import AuditWriter, Limits, WriterRegister, read_head
from proxy.errors import Denied
from proxy.model import AuditRecord
from proxy.sinks._inflight import SLOTS
from proxy.sinks._reader import newest_first, segments
from proxy.sinks.file import UnsafeAuditFile
from tests.audit import _child
from tests.audit._full_disk import UNDER_WAY
from tests.tools import need

KEY = b"k" * 32
KEYS = {"k1": KEY}
ROOT = Path(__file__).parents[2]


def _writer(directory: Path, writer: str = "w0", **options: Any) -> AuditWriter:
    return AuditWriter(directory, writer, KEY, key_id="k1", **options)


def _record(name: str, kind: str = "terminal", **fields: Any) -> AuditRecord:
    return AuditRecord(name, kind, time.time(), {"app": "a", **fields})  # type: ignore[arg-type]


def _verify(directory: Path, writer: str = "w0", keys: Mapping[str, bytes] = KEYS) -> ChainReport:
    return verify_chain(writer, segments(directory, writer), keys)


def _all(directory: Path, writer: str = "w0", keys: Mapping[str, bytes] = KEYS) -> list[Mapping[str, Any]]:
    return [record.fields for record in newest_first(directory, writer, keys)][::-1]


def _ids(directory: Path, kind: str = "terminal") -> list[str]:
    return [fields["id"] for fields in _all(directory) if fields["kind"] == kind]


def test_records_are_written_in_order_and_once(state_dir: Path) -> None:
    """AUD-09: gap-free, one line each, nothing readable by others."""
    writer = _writer(state_dir / "audit")
    for number in range(1000):
        writer.emit(_record(f"r{number}"))
    assert writer.close()
    report = _verify(state_dir / "audit")
    assert (report.problem, report.notes) == (None, [])
    assert _ids(state_dir / "audit") == [f"r{number}" for number in range(1000)]
    assert writer.head == report.head
    file = state_dir / "audit" / "w0" / "000001.jsonl"
    modes = [path.stat().st_mode & 0o777 for path in (state_dir / "audit", file.parent, file)]
    assert modes == [0o700, 0o700, 0o600]


def test_commit_returns_when_it_is_on_disk(state_dir: Path) -> None:
    """And the head, which the supervisor witnesses, is never ahead of the disk."""

    async def go() -> None:
        writer = _writer(state_dir / "audit")
        for number in range(20):
            await writer.commit(_record(f"r{number}"))
            assert _ids(state_dir / "audit")[-1] == f"r{number}"
            assert writer.head == _verify(state_dir / "audit").head
        writer.close()

    asyncio.run(go())


def test_many_threads_may_emit(state_dir: Path) -> None:
    """Each record once, whoever sends it."""
    writer = _writer(state_dir / "audit")

    def send(start: int) -> None:
        for number in range(start, start + 500):
            writer.emit(_record(f"r{number}"))

    threads = [threading.Thread(target=send, args=(start,)) for start in range(0, 2000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert sorted(_ids(state_dir / "audit")) == sorted(f"r{number}" for number in range(2000))
    assert _verify(state_dir / "audit").problem is None


def test_emit_does_not_wait_for_the_disk(state_dir: Path) -> None:
    """A queue append: the median is microseconds even while the thread syncs."""
    writer = _writer(state_dir / "audit", limits=Limits(spool_records=50_000))
    record = _record("r")
    took: list[float] = []
    for number in range(4000):
        one = AuditRecord(f"r{number}", "terminal", record.time_s, record.fields)
        begun_s = time.perf_counter()
        writer.emit(one)
        took.append(time.perf_counter() - begun_s)
    writer.close()
    assert sorted(took)[len(took) // 2] < 20e-6


def test_segments_roll_and_stay_one_chain(state_dir: Path) -> None:
    """Several files, and exchanges that are open across them."""
    writer = _writer(state_dir / "audit", limits=Limits(segment_bytes=4000))
    writer.emit(_record("long", "open"))
    for number in range(100):
        asyncio.run(writer.commit(_record(f"r{number}")))
    writer.emit(_record("long"))
    writer.close()
    assert len(segments(state_dir / "audit", "w0")) > 5
    report = _verify(state_dir / "audit")
    assert (report.problem, report.notes, report.opened) == (None, [], {})


def test_a_restart_goes_on_where_it_was(state_dir: Path) -> None:
    """A new file, linked to the last record."""
    for round_number in range(3):
        writer = _writer(state_dir / "audit")
        writer.emit(_record(f"r{round_number}"))
        writer.close()
    report = _verify(state_dir / "audit")
    assert (report.problem, report.records) == (None, 6)


@pytest.mark.parametrize("cut_bytes", [1, 2, 50, 73, 74, 75, 200])
def test_a_torn_tail_is_left_and_linked_over(state_dir: Path, cut_bytes: int) -> None:
    """AUD-04: the old file is evidence and stays as it is."""
    directory = state_dir / "audit"
    writer = _writer(directory)
    for number in range(5):
        writer.emit(_record(f"r{number}"))
    writer.close()
    file = directory / "w0" / "000001.jsonl"
    torn = file.read_bytes()[:-cut_bytes]
    file.write_bytes(torn)
    writer = _writer(directory)
    writer.emit(_record("next"))
    writer.close()
    assert file.read_bytes() == torn
    report = _verify(directory)
    assert report.problem is None
    assert "torn tail" in report.notes[0]
    assert _ids(directory)[-1] == "next"


def test_what_was_open_at_a_crash_gets_its_end(state_dir: Path) -> None:
    """Invariant 4: exactly one terminal record per exchange, crash included; also when it began two files ago."""
    directory = state_dir / "audit"
    writer = _writer(directory, limits=Limits(segment_bytes=2000))
    for name in ("a", "b", "c"):
        writer.emit(_record(name, "open"))
    for number in range(30):
        asyncio.run(writer.commit(_record(f"r{number}")))
    writer.emit(_record("b"))
    writer.close()
    _writer(directory).close()
    _writer(directory).close()
    ends = {fields["id"]: fields for fields in _all(directory) if fields["kind"] == "terminal"}
    assert (ends["a"]["outcome"], ends["a"]["fault"]) == ("aborted", "ProcessDied")
    report = _verify(directory)
    assert (report.problem, report.opened) == (None, {})


def test_what_was_under_way_at_a_kill_gets_its_end(state_dir: Path) -> None:
    """Without an open record too: its name was left in a slot. What had ended is not ended again."""
    directory = state_dir / "audit"
    writer = _writer(directory, limits=Limits(segment_bytes=2000))
    for number in range(30):
        writer.begin(f"done{number}", "a")
        asyncio.run(writer.commit(_record(f"done{number}")))
    writer.begin("lost", "expense-triage")
    writer.begin("lost", "expense-triage")
    slots = (directory / "w0" / "inflight").read_bytes()
    writer.close()
    # As a kill between the write and the emptying of its slot leaves it.
    (directory / "w0" / "inflight").write_bytes(slots[:128] + b"done7 a".ljust(128, b"\0") + slots[256:])
    for _ in range(2):
        _writer(directory).close()
    ends = [fields for fields in _all(directory) if fields["kind"] == "terminal"]
    assert len(ends) == 31
    assert (ends[-1]["id"], ends[-1]["app"], ends[-1]["outcome"]) == ("lost", "expense-triage", "aborted")
    assert _verify(directory).problem is None


def test_slots_are_bounded_and_given_back(state_dir: Path) -> None:
    """When all are taken the next exchange is refused; one that ends makes room."""
    writer = _writer(state_dir / "audit")
    for number in range(SLOTS):
        writer.begin(f"x{number}", "a")
    with pytest.raises(Denied, match="overloaded"):
        writer.begin("more", "a")
    asyncio.run(writer.commit(_record("x0")))
    writer.begin("more", "a")
    writer.close()


def _full_disk(how: str, directory: Path) -> tuple[int, int, int]:
    prefix = ["unshare", "-rm"] if how == "tmpfs" else []
    command = [*prefix, sys.executable, "-m", "tests.audit._full_disk", how, str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    sent, refused, outage = map(int, done.stdout.split())
    return sent, refused, outage


def test_a_full_disk_stops_new_requests_and_loses_nothing(state_dir: Path) -> None:
    """AUD-08 with EFBIG in mid-line: what emit took is there once, what it refused is counted, and it recovers."""
    directory = state_dir / "audit"
    sent, refused, outage = _full_disk("limit", directory)
    report = _verify(directory)
    assert report.problem is None
    ids = _ids(directory)
    assert ids == ["before", *(f"n{number}" for number in range(sent)), *UNDER_WAY, "after"]
    events = {fields["event"]: fields for fields in _all(directory) if fields["kind"] == "event"}
    assert events["records_refused"]["count"] == refused
    assert events["outage_denials"]["count"] == outage


def test_a_full_file_system_too(state_dir: Path) -> None:
    """AUD-08 with ENOSPC on a small tmpfs."""
    need("unshare", "mount")
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    _full_disk("tmpfs", state_dir / "audit")


def test_kill_nine_under_load(state_dir: Path) -> None:
    """AUD-05: 50 kills at random moments, one chain: it verifies, at most one torn record a kill, nothing that was
    acknowledged is missing, and every exchange that began has ended once."""
    directory = state_dir / "audit"
    rng = random.Random(5)
    acknowledged: list[str] = []
    begun: list[str] = []
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([_child.__name__])  # a start costs a fork, not the imports
    for _ in range(50):
        reader, writer = forks.Pipe(duplex=False)
        child = forks.Process(target=_child.run, args=(writer, directory, rng.choice([3000, 1 << 20])))
        child.start()
        writer.close()
        with open(reader.fileno(), closefd=False) as told:
            lines = [told.readline() for _ in range(rng.randint(1, 12))]
            child.kill()
            lines += told.readlines()
        reader.close()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        whole = [line.strip() for line in lines if line.endswith("\n") and line != "ready\n"]
        begun += [line.removeprefix("began ") for line in whole if line.startswith("began ")]
        acknowledged += [line for line in whole if not line.startswith("began ")]
    _writer(directory).close()
    report = _verify(directory)
    assert (report.problem, report.opened) == (None, {})
    assert len(report.notes) <= 50
    assert len(acknowledged) > 50
    assert set(acknowledged) <= report.ended
    assert set(begun) <= report.ended
    assert len(set(begun) - set(acknowledged)) > 5


@pytest.mark.parametrize(
    "unsafe", ["linked directory", "group may read", "group may write", "linked writer", "linked file"]
)
def test_unsafe_places_are_refused(state_dir: Path, unsafe: str) -> None:
    """AUD-13: no link is followed, nobody else may look or write."""
    directory, real = state_dir / "audit", state_dir / "real"
    real.mkdir(mode=0o700)
    if unsafe == "linked directory":
        directory.symlink_to(real)
    else:
        directory.mkdir(mode=0o700)
    if unsafe.startswith("group"):
        directory.chmod(0o750 if "read" in unsafe else 0o770)
    if unsafe == "linked writer":
        (directory / "w0").symlink_to(real)
    if unsafe == "linked file":
        (directory / "w0").mkdir(mode=0o700)
        (directory / "w0" / "000001.jsonl").symlink_to(real / "x")
    with pytest.raises(UnsafeAuditFile):
        _writer(directory)
    assert list(real.iterdir()) == []


@pytest.mark.parametrize("writer", ["", "..", "a/b", ".hidden", "x" * 65, "a\n"])
def test_odd_writer_ids_are_refused(state_dir: Path, writer: str) -> None:
    """An id is a directory name."""
    with pytest.raises(UnsafeAuditFile, match="plain"):
        _writer(state_dir / "audit", writer)


def test_two_processes_never_share_a_chain(state_dir: Path) -> None:
    """The second is refused; after the first has gone it may."""
    writer = _writer(state_dir / "audit")
    with pytest.raises(UnsafeAuditFile, match="in use"):
        _writer(state_dir / "audit")
    writer.close()
    _writer(state_dir / "audit").close()


def test_a_record_that_cannot_be_encoded_is_named(state_dir: Path) -> None:
    """The trail goes on, and the exchange still has its end."""

    class Hostile(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("secret")

    writer = _writer(state_dir / "audit")
    writer.emit(AuditRecord("bad", "terminal", time.time(), Hostile()))
    writer.emit(_record("good"))
    writer.close()
    found = {fields["id"]: fields for fields in _all(state_dir / "audit")}
    assert (found["bad"]["outcome"], found["bad"]["fault"]) == ("error", "RuntimeError")
    assert "secret" not in (state_dir / "audit" / "w0" / "000001.jsonl").read_text()
    assert "good" in found


def test_a_clock_step_is_flagged(state_dir: Path) -> None:
    """FLT-10."""
    offset_s = [0.0]
    writer = _writer(state_dir / "audit", clock=lambda: time.time() + offset_s[0])
    asyncio.run(writer.commit(_record("a")))
    offset_s[0] = -3600.0
    asyncio.run(writer.commit(_record("b")))
    asyncio.run(writer.commit(_record("c")))
    writer.close()
    steps = [fields["step_ms"] for fields in _all(state_dir / "audit") if fields.get("event") == "clock_step"]
    assert len(steps) == 1
    assert abs(steps[0] + 3_600_000) < 1000


def test_a_closed_writer_takes_nothing(state_dir: Path) -> None:
    """Never silence: the caller hears it."""
    writer = _writer(state_dir / "audit")
    writer.close()
    with pytest.raises(Denied, match="audit_unavailable"):
        writer.emit(_record("late"))


def test_a_chain_crosses_a_root_rotation(state_dir: Path) -> None:
    """AUD-11: the resumed writer uses the new key, and the verifier knows both."""
    directory = state_dir / "audit"
    writer = _writer(directory)
    writer.emit(_record("old"))
    writer.close()
    new = b"n" * 32
    writer = AuditWriter(directory, "w0", new, key_id="k2", older_keys=KEYS)
    writer.emit(_record("new"))
    writer.close()
    report = _verify(directory, keys={"k2": new, **KEYS})
    assert (report.problem, report.records) == (None, 4)


def test_a_mirror_gets_the_same_lines_and_never_blocks(state_dir: Path) -> None:
    """stdout is read by somebody who stops reading: the trail goes on, the loss is counted."""
    script = (
        "import sys, time; from pathlib import Path; from proxy.dataplane.audit_writer import AuditWriter;"
        "from proxy.model import AuditRecord;"
        "w = AuditWriter(Path(sys.argv[1]), 'w0', b'k' * 32, key_id='k1', mirrors=('stdout',));"
        "[w.emit(AuditRecord(f'{sys.argv[2]}-{n}', 'terminal', 1.7e9, {'app': 'a'})) for n in range(int(sys.argv[2]))];"
        "print(w.close(), w.mirror_errors['stdout'], file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, str(state_dir / "audit")]
    read = subprocess.run([*command, "20"], cwd=ROOT, capture_output=True, text=True, check=True)
    (file,) = (state_dir / "audit" / "w0").glob("*.jsonl")
    assert read.stdout == file.read_text()
    mirrored = [json.loads(line) for line in read.stdout.splitlines()]
    assert [line["id"] for line in mirrored if line["kind"] == "terminal"] == [f"20-{number}" for number in range(20)]
    assert read.stderr == "True 0\n"
    with subprocess.Popen([*command, "2000"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as unread:
        assert unread.stderr is not None
        done, errors = unread.stderr.readline().split()
    assert done == b"True"
    assert int(errors) > 0
    assert _verify(state_dir / "audit").problem is None


def test_the_register_witnesses_heads(state_dir: Path) -> None:
    """Birth, head when it moved, end; read_head finds what a dead writer left."""
    directory = state_dir / "audit"
    writer, supervisor = _writer(directory), _writer(directory, SUPERVISOR)
    register = WriterRegister(supervisor)
    register.birth("w0", 7, Head())
    asyncio.run(writer.commit(_record("r")))
    register.checkpoint("w0", writer.head)
    register.checkpoint("w0", writer.head)
    writer.close()
    assert read_head(directory, "w0", KEYS) == writer.head
    register.end("w0", read_head(directory, "w0", KEYS))
    supervisor.close()
    told = _verify(directory, SUPERVISOR).told["w0"]
    assert (told.born, told.ended, told.heads) == (1, 1, {0: Head().mac, writer.head.seq: writer.head.mac})
    assert len([f for f in _all(directory, SUPERVISOR) if f.get("event") == "writer_head"]) == 1


def test_the_register_needs_the_supervisors_chain(state_dir: Path) -> None:
    """A witness in the accused's own chain would be none."""
    writer = _writer(state_dir / "audit")
    with pytest.raises(ValueError, match="supervisor"):
        WriterRegister(writer)
    writer.close()
