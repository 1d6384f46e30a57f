"""The supervisor's own audit chain: what it did, and each worker chain's birth, heads and end."""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from proxy.audit_chain import SUPERVISOR, Head
from proxy.audit_seal import Signer
from proxy.dataplane.audit_writer import AuditWriter, WriterRegister, read_head
from proxy.errors import Denied
from proxy.keys.root import AUDIT_CHAIN, AUDIT_SIGNATURE
from proxy.model import AuditRecord
from proxy.paths import Paths
from proxy.sinks._reader import resume_point

if TYPE_CHECKING:
    from proxy.keys.root import RootKey


def chain_keys(root: "RootKey") -> Mapping[str, bytes]:
    """Root key id -> chain key, of every generation: a chain outlives a rotation."""
    return {generation.id: generation.derive(AUDIT_CHAIN) for generation in root.generations}


def open_writer(paths: Paths, root: "RootKey", writer_id: str, **options: Any) -> AuditWriter:
    """The writer of one chain in the state directory's audit trail. Raises UnsafeAuditFile."""
    keys = chain_keys(root)
    older = {key_id: key for key_id, key in keys.items() if key_id != root.id}
    signers = {each.id: Signer(each.derive(AUDIT_SIGNATURE)) for each in root.generations}
    return AuditWriter(
        paths.audit_dir, writer_id, keys[root.id], key_id=root.id, older_keys=older, signers=signers, **options
    )


class SupervisorTrail:
    """Never raises for a full spool: readiness is off then, and the supervisor must live on to say so."""

    def __init__(self, paths: Paths, root: "RootKey", mirrors: Sequence[str] = ()) -> None:
        self._mirrors = mirrors
        self._paths = paths
        self._root = root
        self._became_ready = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._writer = open_writer(
            paths,
            root,
            SUPERVISOR,
            mirrors=mirrors,
            on_ready=lambda _: loop.call_soon_threadsafe(self._became_ready.set),
        )
        self._register = WriterRegister(self._writer)

    @property
    def ready(self) -> bool:
        """False while records cannot be written."""
        return self._writer.ready

    async def until_ready(self) -> None:
        """Returns once records can be written."""
        while not self._writer.ready:
            self._became_ready.clear()
            with contextlib.suppress(TimeoutError):  # the spool's depth changes without a call of on_ready
                await asyncio.wait_for(self._became_ready.wait(), 0.2)

    def event(self, event: str, **fields: Any) -> None:
        """One `event` record; `fields` are names of proxy.audit.FIELDS."""
        try:
            self._writer.emit(AuditRecord("-", "event", time.time(), {"event": event, **fields}))
        except Denied:
            return

    def worker_born(self, writer_id: str, pid: int) -> None:
        """Before the worker writes its first record. Raises Denied audit_unavailable: an unwitnessed chain must not
        begin."""
        self._register.birth(writer_id, pid, Head())

    def worker_head(self, writer_id: str, seq: int, mac: str) -> None:
        """The worker's chain has reached this record on disk."""
        try:
            self._register.checkpoint(writer_id, Head(seq, mac))
        except Denied:
            return

    def worker_ended(self, writer_id: str) -> None:
        """Closes a dead worker's chain: exchanges that it left open get their terminal record, a checkpoint covers
        its end, and its last hash is witnessed. Reads files: call it in a thread."""
        keys = chain_keys(self._root)
        try:
            point = resume_point(self._paths.audit_dir, writer_id, keys)
            if point.open_ids or (point.head.seq and not point.sealed):
                open_writer(self._paths, self._root, writer_id, mirrors=self._mirrors).close()
            head = read_head(self._paths.audit_dir, writer_id, keys)
        except FileNotFoundError:
            head = Head()  # it died before its first record
        self._register.end(writer_id, head)

    def close(self) -> None:
        """Writes what is queued."""
        self._writer.close()
