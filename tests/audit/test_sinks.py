"""Sinks: found by listing the package, all alike."""

import contextlib
import fcntl
import os
import sys
from pathlib import Path

import pytest

import proxy.sinks
from proxy.sinks import sinks
from proxy.sinks.file import SegmentFiles, UnsafeAuditFile
from proxy.sinks.stdout import StandardOutput


@pytest.mark.parametrize("name", sorted(sinks()))
def test_conformance(name: str) -> None:
    """Named like its module, described, and honest about durability."""
    sink = sinks()[name]
    assert sys.modules[f"proxy.sinks.{name}"].SINK is sink  # type: ignore[attr-defined]
    assert sink.help
    assert isinstance(sink.durable, bool)


def test_a_new_sink_is_one_module(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No list names it; helpers are left out."""
    (state_dir / "extra.py").write_text(
        "from proxy.sinks import Sink\nSINK = Sink('extra', 'a test', False, lambda directory, writer: None)\n"
    )
    (state_dir / "_helper.py").write_text("raise SystemExit('helpers are not sinks')\n")
    monkeypatch.setattr(proxy.sinks, "__path__", [*proxy.sinks.__path__, str(state_dir)])
    sinks.cache_clear()
    try:
        assert set(sinks()) == {"file", "stdout", "extra"}
    finally:
        sinks.cache_clear()
        sys.modules.pop("proxy.sinks.extra", None)


def test_a_segment_is_never_overwritten(state_dir: Path) -> None:
    """Whatever stands there is evidence."""
    files = SegmentFiles(state_dir / "audit", "w0")
    files.begin(1, b"header\n")
    with pytest.raises(FileExistsError):
        files.begin(1, b"other\n")
    files.write(b"line\n")
    files.close()
    assert (state_dir / "audit" / "w0" / "000001.jsonl").read_bytes() == b"header\nline\n"


def test_a_lock_file_link_is_not_followed(state_dir: Path) -> None:
    """AUD-13."""
    (state_dir / "audit" / "w0").mkdir(parents=True, mode=0o700)
    (state_dir / "audit").chmod(0o700)
    (state_dir / "audit" / "w0" / "lock").symlink_to(state_dir / "elsewhere")
    with pytest.raises((UnsafeAuditFile, OSError)):
        SegmentFiles(state_dir / "audit", "w0")
    assert not (state_dir / "elsewhere").exists()


def test_stdout_repairs_a_broken_line() -> None:
    """After lines were dropped the next ones begin on a line of their own."""
    reader, writer = os.pipe()
    sink = StandardOutput(writer)
    with pytest.raises(OSError, match="not being read"):
        sink.write(b"x" * (1 << 20) + b"\n")
    os.set_blocking(reader, False)
    while True:
        try:
            if not os.read(reader, 1 << 16):
                break
        except BlockingIOError:
            break
    sink.write(b"whole\n")
    assert os.read(reader, 100) == b"\nwhole\n"
    os.close(reader)
    os.close(writer)


def test_writers_of_one_stdout_take_turns(state_dir: Path) -> None:
    """A line that one of them broke off is repaired by the next, and nobody waits for ever for a stopped one."""
    reader, writer = os.pipe()
    lock = state_dir / "stdout.lock"
    one, two = (StandardOutput(writer, os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)) for _ in range(2))
    one.write(b"first\n")
    with pytest.raises(OSError, match="not being read"):
        one.write(b"x" * (1 << 20) + b"\n")
    os.set_blocking(reader, False)
    with contextlib.suppress(BlockingIOError):
        while os.read(reader, 1 << 16):
            pass
    two.write(b"whole\n")
    one.write(b"again\n")
    assert os.read(reader, 100) == b"\nwhole\nagain\n"
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process"):
            two.write(b"late\n")
    two.write(b"later\n")
    assert os.read(reader, 100) == b"later\n"
    for sink in (one, two):
        sink.close()
    os.close(reader)
    os.close(writer)
