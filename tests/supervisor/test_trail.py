"""The chain of a worker that is gone: whole and covered, however it went."""

import asyncio
from pathlib import Path

import pytest

from proxy.audit_public import verify_public
from proxy.audit_seal import Signer
from proxy.keys.root import AUDIT_SIGNATURE, RootKey
from proxy.model import AuditRecord
from proxy.paths import Paths
from proxy.sinks._reader import segments
from proxy.supervisor.trail import SupervisorTrail, open_writer


async def _bury(paths: Paths, root: RootKey) -> None:
    trail = SupervisorTrail(paths, root)
    trail.worker_ended("w1")
    trail.close()


@pytest.mark.parametrize("how", ["killed", "killed within a line", "ended", "killed at once"])
def test_a_dead_workers_chain_is_covered_to_its_end(tmp_path: Path, how: str) -> None:
    """What a killed worker had not signed yet, the supervisor signs; a chain that ended well is left alone."""
    paths = Paths(tmp_path)
    root = RootKey.load_or_create(paths.root_key)
    writer = open_writer(paths, root, "w1")
    for number in range(5):
        writer.emit(AuditRecord(f"id{number}", "terminal", 1.7e9, {"app": "a", "outcome": "allowed"}))
    assert writer.close()
    file = paths.audit_dir / "w1" / "000001.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    left = {"killed": lines[:-1], "killed within a line": [*lines[:-1], lines[-1][:30]], "ended": lines}
    file.write_bytes(b"".join(left.get(how, [lines[0][:30]])))
    asyncio.run(_bury(paths, root))
    keys = {Signer(root.derive(AUDIT_SIGNATURE)).public}
    for name in ("supervisor", "w1"):
        report = verify_public(name, segments(paths.audit_dir, name), keys)
        assert (report.problem, report.uncovered) == (None, 0)
    assert len(segments(paths.audit_dir, "w1")) == (2 if how in ("killed", "killed within a line") else 1)
