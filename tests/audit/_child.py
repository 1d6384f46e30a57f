"""A writer in a process of its own, for tests that kill it: tells the id of each record once it is on disk."""

import asyncio
import itertools
import os
from multiprocessing.connection import Connection
from pathlib import Path

from proxy.dataplane.audit_writer import AuditWriter, Limits
from proxy.model import AuditRecord


def run(out: Connection, directory: Path, segment_bytes: int) -> None:
    """Writes until it is killed; every line goes out whole, at once."""
    asyncio.run(_write_for_ever(out.fileno(), directory, segment_bytes))


async def _write_for_ever(out_fd: int, directory: Path, segment_bytes: int) -> None:
    def tell(line: str) -> None:
        os.write(out_fd, line.encode() + b"\n")

    writer = AuditWriter(directory, "w0", b"k" * 32, key_id="k1", limits=Limits(segment_bytes=segment_bytes))
    tell("ready")
    for number in itertools.count():
        name = f"{os.getpid()}-{number}"
        writer.begin(name, "a")
        tell(f"began {name}")
        if number % 3 == 0:
            writer.emit(AuditRecord(name, "open", 1.7e9, {"app": "a"}))
        for extra in range(5):
            writer.emit(AuditRecord(f"{name}-{extra}", "terminal", 1.7e9, {"app": "a", "path": "/x" * extra}))
        await writer.commit(AuditRecord(name, "terminal", 1.7e9, {"app": "a", "outcome": "allowed"}))
        tell(name)
