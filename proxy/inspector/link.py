"""One connection to one inspector process: greets, multiplexes jobs, notices a dead or hung process, reconnects."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from proxy.inspector.wire import LARGE_BYTES, VERSION, Decoder, Frame, WireError, encode, job_fields, policy_fields
from proxy.model import InspectJob

BEAT_S: Final = 0.25
HUNG_AFTER_S: Final = 1.5
"""The inspector answers pings from a thread of its own even while it computes; silence this long means it is stopped,
stuck, or held up by a scan on a busy machine. Below the 2 s after which a small job is given up, so that another
inspector still gets its chance. A large job waits on: it may be what keeps the inspector busy, and asking again would
only have it scanned twice. The supervisor ends a process that does not come back."""
GREETING_S: Final = 2.0
_BACKOFF_S: Final = (0.02, 0.05, 0.1, 0.25, 0.5)
_JOB_COST_BYTES: Final = 2048
"""What a job costs beside its bytes, when links are compared."""


class LinkLost(Exception):
    """The connection ended before the answer came: another inspector may be asked."""


class InspectorError(Exception):
    """The inspector answered that it cannot: `why` is the wire's word."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _Wire(asyncio.Protocol):
    """Bytes to frames; everything else is the link's business."""

    def __init__(self, on_frame: Callable[[Frame], None]) -> None:
        self._decoder = Decoder()
        self._on_frame = on_frame
        self.transport: asyncio.Transport | None = None
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio.Transport, so asking for the type would refuse them.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._on_frame(frame)
        except (WireError, KeyError, TypeError, ValueError):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self.closed.set()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
        self.closed.set()


class Link:
    """`run` keeps the connection up until cancelled; `ask` sends one job over it."""

    def __init__(
        self, path: str, on_change: Callable[["Link"], None], index_keys: Mapping[str, bytes] | None = None
    ) -> None:
        self.path = path
        self._index_keys = dict(index_keys or {})
        self.engine = ""
        self.ready = False
        self.load_bytes = 0
        self._on_change = on_change
        self._wire: _Wire | None = None
        self._greeted = False
        self._waiting: dict[int, tuple[asyncio.Future[Frame], int]] = {}
        self._policies: set[str] = set()
        self._next_id = 0
        self._heard_s = 0.0

    async def run(self) -> None:
        failures = 0
        try:
            while True:
                if await self._session():
                    failures = 0
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1
        finally:
            self._down()

    async def _session(self) -> bool:
        """One connection from greeting to end; True when it got as far as the greeting."""
        loop = asyncio.get_running_loop()
        self._policies.clear()
        try:
            async with asyncio.timeout(GREETING_S):
                _, wire = await loop.create_unix_connection(lambda: _Wire(self._heard), self.path)
        except (OSError, TimeoutError):
            return False
        self._wire = wire
        self._heard_s = loop.time()
        self._greeted = False
        try:
            while not wire.closed.is_set() and (loop.time() - self._heard_s < HUNG_AFTER_S or self._held_up()):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_S):
                        await wire.closed.wait()
                self._write({"t": "ping"})
        finally:
            wire.abort()
            self._down()
        return self._greeted

    def _held_up(self) -> bool:
        """Lets small jobs go elsewhere and new ones too; True when large ones wait on."""
        self._unready()
        for future, size in self._waiting.values():
            if size <= LARGE_BYTES and not future.done():
                future.set_exception(LinkLost())
        return any(size > LARGE_BYTES for _, size in self._waiting.values())

    def _down(self) -> None:
        self._wire = None
        self._unready()
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(LinkLost())
        self._waiting.clear()

    def _unready(self) -> None:
        was_ready, self.ready = self.ready, False
        if was_ready:
            self._on_change(self)

    def _heard(self, frame: Frame) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        if frame.kind == "hello":
            if frame.header["version"] != VERSION:
                raise ValueError("another version")
            self.engine = str(frame.header["engine"])
            self._greeted = True
        if self._greeted and not self.ready:
            self.ready = True
            self._on_change(self)
        if frame.kind in {"done", "error"}:
            future, _ = self._waiting.get(frame.header["id"], (None, 0))
            if future is not None and not future.done():
                future.set_result(frame)

    def _write(self, header: Mapping[str, Any], *attachments: bytes) -> None:
        wire = self._wire
        if wire is not None and wire.transport is not None and not wire.transport.is_closing():
            wire.transport.writelines(encode(header, *attachments))

    async def ask(self, job: InspectJob, digest: str, deadline_s: float) -> Frame:
        """The `done` frame. Raises LinkLost, InspectorError; when cancelled, tells the inspector to drop the job."""
        if self._wire is None or not self.ready:
            raise LinkLost
        cost = len(job.body) + _JOB_COST_BYTES
        self.load_bytes += cost
        try:
            frame = await self._once(job, digest, deadline_s)
            if frame.kind == "error" and frame.header["why"] == "policy":
                self._policies.discard(digest)
                frame = await self._once(job, digest, deadline_s)
        finally:
            self.load_bytes -= cost
        if frame.kind == "error":
            raise InspectorError(str(frame.header["why"]))
        return frame

    async def _once(self, job: InspectJob, digest: str, deadline_s: float) -> Frame:
        self._next_id += 1
        job_id = self._next_id
        if digest not in self._policies:
            keys = self._index_keys if job.dlp.exact_match else {}
            header = {"t": "policy", "digest": digest, "policy": policy_fields(job.dlp), "key_ids": list(keys)}
            self._write(header, *keys.values())
            self._policies.add(digest)
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[job_id] = future, len(job.body)
        facts = {"t": "job", "id": job_id, "policy": digest, "deadline_ms": int(deadline_s * 1000)}
        try:
            self._write(facts | job_fields(job), job.placeholder_key, job.body)
            return await future
        except asyncio.CancelledError:
            self._write({"t": "cancel", "id": job_id})
            raise
        finally:
            self._waiting.pop(job_id, None)
