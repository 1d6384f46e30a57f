"""Runs a writer against a disk that is full for a while; exits 0 when it behaved. Arguments: how, directory.

`limit`: the kernel refuses to let files grow (RLIMIT_FSIZE, EFBIG in the middle of a write).
`tmpfs`: a small tmpfs is mounted on the directory (needs a mount namespace) and filled by another file (ENOSPC).
"""

import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from proxy.dataplane.audit_writer import AuditWriter, Limits
from proxy.errors import Denied
from proxy.model import AuditRecord
from proxy.sinks._inflight import read_inflight

UNDER_WAY = ("w0", "w1", "w2")


def _check(true: bool, what: str) -> None:
    if not true:
        sys.exit(f"FAILED: {what}")


def _limit(directory: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    directory.mkdir(mode=0o700)
    return (
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, hard)),
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)),
    )


def _tmpfs(directory: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    directory.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "none", str(directory)], check=True)
    ballast = directory / "ballast"

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 512)
            except OSError:
                pass

    return fill, ballast.unlink


def main(how: str, directory: Path) -> None:
    fill, relieve = {"limit": _limit, "tmpfs": _tmpfs}[how](directory)
    changes: list[bool] = []
    changed = threading.Event()

    def on_ready(value: bool) -> None:
        changes.append(value)
        changed.set()

    writer = AuditWriter(directory, "w0", b"k" * 32, key_id="k1", on_ready=on_ready, limits=Limits(spool_records=400))
    writer.emit(AuditRecord("before", "terminal", 1.7e9, {"app": "a"}))
    for name in UNDER_WAY:
        writer.begin(name, "a")
    fill()
    sent = 0
    while not changed.wait(0.001) and sent < 380:
        writer.emit(AuditRecord(f"n{sent}", "terminal", 1.7e9, {"app": "a", "detail": "some words " * 20}))
        sent += 1
    _check(changed.wait(10) and changes == [False], "it says that it is not ready")
    _check(not writer.ready, "ready is False")
    try:
        writer.check()
        sys.exit("FAILED: check lets a new request in")
    except Denied as denied:
        _check(denied.code == "audit_unavailable" and denied.status == 503, "503 audit_unavailable")
    # Exchanges under way still get their record; denials of the outage itself are counted once the spool is half full.
    refused = 0
    outage = 0
    while writer.depth < 400:
        try:
            writer.emit(AuditRecord(f"n{sent}", "terminal", 1.7e9, {"app": "a"}))
            sent += 1
        except Denied:
            refused += 1
    for number in range(7):
        writer.emit(AuditRecord(f"o{number}", "terminal", 1.7e9, {"outcome": "denied", "code": "audit_unavailable"}))
        outage += 1
    try:
        writer.emit(AuditRecord("late", "terminal", 1.7e9, {"app": "a"}))
        sys.exit("FAILED: a full spool takes a record")
    except Denied:
        refused += 1
    for name in UNDER_WAY:
        writer.emit(AuditRecord(name, "terminal", 1.7e9, {"app": "a"}))
    try:
        writer.emit(AuditRecord(UNDER_WAY[0], "terminal", 1.7e9, {"app": "a"}))
        sys.exit("FAILED: one exchange may end twice in a full spool")
    except Denied:
        refused += 1
    try:
        writer.begin("new", "a")
        sys.exit("FAILED: an exchange begins while the spool is full")
    except Denied as denied:
        _check(denied.code == "audit_unavailable", "a new exchange is denied")
    _check((writer.late_total, writer.refused_total) == (len(UNDER_WAY), refused), "both fates are counted")
    _check(set(read_inflight(directory / "w0")) == set(UNDER_WAY), "slots are held until the record is on disk")
    changed.clear()
    relieve()
    _check(changed.wait(10) and changes == [False, True], "it recovers by itself")
    writer.check()
    writer.emit(AuditRecord("after", "terminal", 1.7e9, {"app": "a"}))
    _check(writer.close(), "all is written")
    _check(read_inflight(directory / "w0") == {}, "every slot is free again")
    print(sent, refused, outage)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
