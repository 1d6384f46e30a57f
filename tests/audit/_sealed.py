"""Trails with signed checkpoints, for the tests of their check."""

import time
from collections.abc import Callable
from pathlib import Path

from proxy.audit_chain import ChainReport
from proxy.audit_public import verify_public
from proxy.audit_seal import Signer
from proxy.dataplane.audit_writer import AuditWriter, Limits
from proxy.model import AuditRecord
from proxy.sinks._reader import segments

OLD, NEW = Signer(b"o" * 32), Signer(b"n" * 32)
CHAIN = {"k1": b"k" * 32, "k2": b"l" * 32}
SIGNERS = {"k1": OLD, "k2": NEW}
DEFAULT = Limits()


def write(directory: Path, count: int, *, key_id: str = "k1", first: int = 0, limits: Limits = DEFAULT) -> None:
    writer = AuditWriter(
        directory, "w0", CHAIN[key_id], key_id=key_id, older_keys=CHAIN, signers=SIGNERS, limits=limits
    )
    for number in range(first, first + count):
        writer.emit(AuditRecord(f"id{number}", "terminal", time.time(), {"app": "a", "outcome": "allowed"}))
    assert writer.close()


def check(directory: Path, *signers: Signer) -> ChainReport:
    return verify_public("w0", segments(directory, "w0"), {one.public for one in signers or (OLD,)})


def edit(directory: Path, change: Callable[[list[bytes]], list[bytes]], name: str = "000001.jsonl") -> None:
    file = directory / "w0" / name
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))
