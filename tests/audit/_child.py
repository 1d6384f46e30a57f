"""A writer in a process of its own, for tests that kill it: prints the id of each record once it is on disk."""

import asyncio
import itertools
import os
import sys
from pathlib import Path

from proxy.dataplane.audit_writer import AuditWriter, Limits
from proxy.model import AuditRecord


async def _write_for_ever(directory: Path, segment_bytes: int) -> None:
    writer = AuditWriter(directory, "w0", b"k" * 32, key_id="k1", limits=Limits(segment_bytes=segment_bytes))
    print("ready", flush=True)
    for number in itertools.count():
        name = f"{os.getpid()}-{number}"
        writer.begin(name, "a")
        print(f"began {name}", flush=True)
        if number % 3 == 0:
            writer.emit(AuditRecord(name, "open", 1.7e9, {"app": "a"}))
        for extra in range(5):
            writer.emit(AuditRecord(f"{name}-{extra}", "terminal", 1.7e9, {"app": "a", "path": "/x" * extra}))
        await writer.commit(AuditRecord(name, "terminal", 1.7e9, {"app": "a", "outcome": "allowed"}))
        print(name, flush=True)


if __name__ == "__main__":
    asyncio.run(_write_for_ever(Path(sys.argv[1]), int(sys.argv[2])))
