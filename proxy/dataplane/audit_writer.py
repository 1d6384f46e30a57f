"""Writes audit records: queued by the event loop, chained, written and synced by one thread in groups.

`emit` costs the caller a queue append. When the disk refuses, `ready` turns False and `check` denies new requests,
while the records of exchanges under way wait in a bounded spool; the writer tries again until the disk takes them, so
traffic resumes without a restart. An exchange that has begun ends in a record even when the spool is full: there are
never more of these than in-flight slots, so memory stays bounded. The only record ever dropped is one that `emit`
refused with an exception, except that denials for `audit_unavailable` themselves are counted, not queued, once the
spool is half full.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.audit_chain import SUPERVISOR, Chain, Head
from proxy.audit_seal import MOST_AT_ONCE, Seal, Signer
from proxy.errors import Denied
from proxy.model import AuditRecord
from proxy.sinks import sinks
from proxy.sinks._inflight import InFlight
from proxy.sinks._reader import resume_point
from proxy.sinks.file import SegmentFiles

_LINGER_S: Final = 0.01
"""Records of five milliseconds share one sync: 150 us of disk per group instead of per record."""
_RETRY_S: Final = 0.1
_CLOCK_STEP_S: Final = 2.0
_IDS_PER_EVENT: Final = 100


@dataclass(frozen=True, slots=True)
class Limits:
    """`spool_records` and the in-flight slots bound memory (about 2 KB each); `segment_bytes` keeps a file quick to
    verify and to ship."""

    spool_records: int = 20_000
    segment_bytes: int = 64 << 20


type _Item = tuple[AuditRecord, asyncio.Future[None] | None]


class AuditWriter:
    """One writer's chain: `<directory>/<writer_id>/NNNNNN.jsonl`. Every process that writes needs an id of its own.

    `chain_key` is `root.derive("audit_chain")`, `key_id` that root key's id; `older_keys` (id -> chain key) let a
    chain go on that was begun before a rotation. `signers` (id -> Signer): with one for `key_id` the trail gets signed
    checkpoints. `mirrors` name further sinks, best effort. `on_ready` is called from
    the thread when `ready` changes. Raises UnsafeAuditFile when the files are not safe to write.
    """

    def __init__(
        self,
        directory: Path,
        writer_id: str,
        chain_key: bytes,
        *,
        key_id: str = "",
        older_keys: Mapping[str, bytes] | None = None,
        signers: Mapping[str, Signer] | None = None,
        mirrors: Sequence[str] = (),
        limits: Limits = Limits(),
        on_ready: Callable[[bool], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.writer_id = writer_id
        self._key_id = key_id
        self._limits = limits
        self._on_ready = on_ready
        self._clock = clock
        self._files = SegmentFiles(directory, writer_id)
        self._mirrors = [(name, sinks()[name].open(directory, writer_id)) for name in mirrors]
        self.mirror_errors = dict.fromkeys(mirrors, 0)
        point = resume_point(directory, writer_id, {**(older_keys or {}), key_id: chain_key})
        self._chain = Chain(writer_id, chain_key, point.head)
        self._next_number = point.last_number + 1
        self._linked = (point.segment, point.good_bytes)
        self._open: dict[str, None] = dict.fromkeys(point.open_ids)
        self._inflight = InFlight(self._files.path)
        signer = (signers or {}).get(key_id)
        before = (signers or {}).get(point.key_id) if point.key_id != key_id else None
        self._seal = Seal(writer_id, signer, point.sha256, before) if signer is not None else None
        self._queue: deque[_Item] = deque()
        self._in_hand = 0
        self._refused = 0
        self._late: dict[str, None] = {}
        self.late_total = 0
        self.refused_total = 0
        self._suppressed = 0
        self._head = point.head
        self._ready = True
        self._closing = False
        self._give_up_at_s: float | None = None
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._clock_offset_s = clock() - time.monotonic()
        self._queue.extend((record, None) for record in self._crash_records(point.apps))
        # The first segment is made before anyone is served: a disk that is full from the start shows at once.
        self._set_ready(self._attempt([]))
        self._thread = threading.Thread(target=self._run, name=f"audit-{writer_id}", daemon=True)
        self._thread.start()
        self._wake.set()

    # --- for the event loop -----------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """False while the disk refuses, or the spool is half full: no new request may start."""
        return self._ready and (len(self._queue) + self._in_hand) * 2 < self._limits.spool_records

    @property
    def depth(self) -> int:
        """Records that are not on disk yet."""
        return len(self._queue) + self._in_hand

    @property
    def head(self) -> Head:
        """The last record known to be on disk, for the supervisor's chain."""
        return self._head

    def check(self) -> None:
        """Call before an exchange starts. Raises Denied audit_unavailable unless `ready`."""
        if not self.ready:
            raise Denied("audit_unavailable")

    def begin(self, exchange: str, app: str) -> None:
        """Call when an exchange starts, after `check`: should this process be killed, the next writer of the chain (or
        the supervisor) gives the exchange its terminal record. Raises Denied audit_unavailable, overloaded."""
        if self.depth >= self._limits.spool_records:
            raise Denied("audit_unavailable")
        try:
            taken = self._inflight.begin(exchange, app)
        except OSError:
            raise Denied("audit_unavailable") from None
        if not taken:
            raise Denied("overloaded", "too many exchanges are under way", retry_after_s=1)

    def emit(self, record: AuditRecord) -> None:
        """Queues a record. Raises Denied audit_unavailable when the writer is closed, or the spool is full and this is
        not the end of an exchange that `begin` let in."""
        self._put(record, None)

    async def commit(self, record: AuditRecord) -> None:
        """As `emit`, and returns once the record is on disk."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(record, done)
        self._urgent.set()
        await done

    def _put(self, record: AuditRecord, done: asyncio.Future[None] | None) -> None:
        limit = self._limits.spool_records
        depth = len(self._queue) + self._in_hand
        if depth * 2 >= limit and done is None and record.fields.get("code") == "audit_unavailable":
            self._suppressed += 1
            self._inflight.end(record.id)
            return
        if self._closing or (depth >= limit and not self._ends_exchange(record)):
            self._refused += 1
            self.refused_total += 1
            raise Denied("audit_unavailable", f"the audit spool holds {depth} records and takes no more")
        self._queue.append((record, done))
        if not self._wake.is_set():
            self._wake.set()

    def _ends_exchange(self, record: AuditRecord) -> bool:
        """True once for each exchange that holds a slot: its end must be told, and slots bound how many there are."""
        if record.kind != "terminal" or record.id in self._late or record.id not in self._inflight:
            return False
        self._late[record.id] = None
        self.late_total += 1
        return True

    def close(self, timeout_s: float = 5.0) -> bool:
        """Writes what is queued and stops. False when records were still unwritten after `timeout_s`."""
        self._give_up_at_s = time.monotonic() + timeout_s
        self._closing = True
        self._wake.set()
        self._urgent.set()
        self._thread.join(timeout_s + 1.0)
        self._inflight.close()
        self._files.close()
        for _, mirror in self._mirrors:
            mirror.close()
        return self.depth == 0

    # --- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait(self._seal.wait_s(time.monotonic()) if self._seal is not None else None)
            self._wake.clear()
            while batch := self._take():
                self._write_until_done(batch)
            if self._seal is not None and self._seal.due(time.monotonic(), last=self._closing):
                self._write_until_done([])
            if self._closing:
                return
            self._urgent.wait(_LINGER_S)
            self._urgent.clear()

    def _take(self) -> list[_Item]:
        if self._closing and self._give_up_at_s is not None and time.monotonic() >= self._give_up_at_s:
            return []
        # In hand before out of the queue: `depth` may count a record twice for a moment, never zero times.
        self._in_hand = min(len(self._queue), MOST_AT_ONCE)
        return [self._queue.popleft() for _ in range(self._in_hand)]

    def _write_until_done(self, batch: list[_Item]) -> None:
        records = [record for record, _ in batch]
        while not self._attempt(records):
            self._set_ready(False)
            if self._closing and self._give_up_at_s is not None and time.monotonic() >= self._give_up_at_s:
                return
            time.sleep(_RETRY_S)
        self._in_hand = 0
        self._set_ready(self.depth * 2 < self._limits.spool_records)
        for _, done in batch:
            if done is not None:
                done.get_loop().call_soon_threadsafe(_resolve, done)

    def _attempt(self, records: list[AuditRecord]) -> bool:
        """Chains, writes and syncs. False: nothing counts, the chain stands where it stood."""
        before = self._chain.head
        try:
            if not self._files.usable or self._files.size_bytes >= self._limits.segment_bytes:
                self._begin_segment()
            before = self._chain.head
            notes = self._notes()
            signed = self._checkpoint(last=self._closing and not records)
            lines = [self._line(record) for record in (*signed, *records, *notes)]
            if lines:
                self._files.write(b"".join(lines))
        except OSError:
            self._chain.head = before
            self._linked = (self._files.number, self._files.size_bytes) if self._files.number else self._linked
            return False
        self._head = self._chain.head
        if self._seal is not None:
            self._seal.wrote(b"".join(lines), time.monotonic(), signed=bool(signed))
        self._after(records, notes)
        self._mirror(b"".join(lines))
        return True

    def _begin_segment(self) -> None:
        before = self._chain.head
        prev_segment, prev_bytes = (
            self._linked if not self._files.usable else (self._files.number, self._files.size_bytes)
        )
        header = {
            "event": "segment",
            "segment": self._next_number,
            "prev_segment": prev_segment,
            "prev_bytes": prev_bytes,
            "key_id": self._key_id or None,
            **(self._seal.header(self._next_number) if self._seal is not None else {}),
        }
        line = self._line(AuditRecord("-", "event", self._clock(), header))
        open_ids = list(self._open)
        carried = [
            AuditRecord(
                "-", "event", self._clock(), {"event": "open_carried", "open_ids": open_ids[at : at + _IDS_PER_EVENT]}
            )
            for at in range(0, len(open_ids), _IDS_PER_EVENT)
        ]
        lines = line + b"".join(self._line(record) for record in carried)
        if self._seal is not None:
            signed = self._seal.opening(self._next_number, lines)
            lines += self._line(AuditRecord("-", "event", self._clock(), signed))
        try:
            self._files.begin(self._next_number, lines)
        except FileExistsError:
            self._next_number += 1
            self._chain.head = before
            raise
        except OSError:
            self._chain.head = before
            raise
        self._next_number += 1
        self._head = self._chain.head
        if self._seal is not None:
            self._seal.begun(lines, time.monotonic())
        self._mirror(lines)

    def _checkpoint(self, *, last: bool) -> list[AuditRecord]:
        """A signature over all lines before it, when one is due."""
        if self._seal is None or not self._seal.due(time.monotonic(), last=last):
            return []
        return [AuditRecord("-", "event", self._clock(), self._seal.checkpoint(self._files.number))]

    def _line(self, record: AuditRecord) -> bytes:
        head = self._chain.head
        try:
            return self._chain.append(record)
        except Exception as error:  # noqa: BLE001 - one odd record must not stop the trail; it is named, not lost
            self._chain.head = head
            return self._chain.append(
                AuditRecord(
                    str(record.id), record.kind, self._clock(), {"outcome": "error", "fault": type(error).__name__}
                )
            )

    def _notes(self) -> list[AuditRecord]:
        """The trail's remarks about itself: refused or uncounted records, a wall clock that jumped."""
        now_s = self._clock()
        notes: list[dict[str, Any]] = []
        if self._refused:
            notes.append({"event": "records_refused", "count": self._refused})
        if self._suppressed:
            notes.append({"event": "outage_denials", "count": self._suppressed, "code": "audit_unavailable"})
        step_s = now_s - time.monotonic() - self._clock_offset_s
        if abs(step_s) > _CLOCK_STEP_S:
            notes.append({"event": "clock_step", "step_ms": round(step_s * 1000)})
        return [AuditRecord("-", "event", now_s, fields) for fields in notes]

    def _after(self, records: Sequence[AuditRecord], notes: Sequence[AuditRecord]) -> None:
        for note in notes:
            if note.fields["event"] == "records_refused":
                self._refused -= note.fields["count"]
            elif note.fields["event"] == "outage_denials":
                self._suppressed -= note.fields["count"]
            else:
                self._clock_offset_s += note.fields["step_ms"] / 1000
        for record in records:
            if record.kind == "open":
                self._open[record.id] = None
            elif record.kind == "terminal":
                self._open.pop(record.id, None)
                self._late.pop(record.id, None)
                self._inflight.end(record.id)

    def _crash_records(self, apps: Mapping[str, str]) -> list[AuditRecord]:
        """Terminal records for exchanges that the process before us began and could not end."""
        now_s = self._clock()
        fields = {"outcome": "aborted", "fault": "ProcessDied"}
        return [
            AuditRecord(exchange, "terminal", now_s, {"app": apps.get(exchange), **fields}) for exchange in self._open
        ]

    def _mirror(self, lines: bytes) -> None:
        for name, mirror in self._mirrors:
            try:
                mirror.write(lines)
            except OSError:
                self.mirror_errors[name] += 1

    def _set_ready(self, value: bool) -> None:
        if value != self._ready:
            self._ready = value
            if self._on_ready is not None:
                self._on_ready(value)


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


class WriterRegister:
    """The supervisor's own chain: births, heads and ends of the workers' chains, so that a cut tail shows."""

    def __init__(self, writer: AuditWriter) -> None:
        if writer.writer_id != SUPERVISOR:
            raise ValueError(f"the register belongs in the chain of writer {SUPERVISOR!r}")
        self._writer = writer
        self._recorded: dict[str, Head] = {}

    def birth(self, writer_id: str, pid: int, head: Head) -> None:
        """A process starts to write `writer_id`, from `head`. Raises Denied audit_unavailable."""
        self._event("writer_birth", writer_id, head, pid=pid)

    def checkpoint(self, writer_id: str, head: Head) -> None:
        """Records a head that is on disk; free when nothing changed. Call about once a second per writer."""
        if self._recorded.get(writer_id) != head:
            self._event("writer_head", writer_id, head)

    def end(self, writer_id: str, head: Head) -> None:
        """The process is gone; `head` is what `read_head` found in its files."""
        self._event("writer_end", writer_id, head)
        self._recorded.pop(writer_id, None)

    def _event(self, event: str, writer_id: str, head: Head, *, pid: int | None = None) -> None:
        fields = {"event": event, "subject": writer_id, "subject_seq": head.seq, "subject_mac": head.mac, "pid": pid}
        self._writer.emit(AuditRecord("-", "event", time.time(), fields))
        self._recorded[writer_id] = head


def read_head(directory: Path, writer_id: str, keys: Mapping[str, bytes]) -> Head:
    """The last whole record of a chain that nobody writes any more. `keys`: root key id -> chain key."""
    return resume_point(directory, writer_id, keys).head
