"""What a worker asks: verdicts from its memo, else from the least loaded inspector, in bounded time or not at all."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from proxy.errors import Denied
from proxy.inspector.link import InspectorError, Link, LinkLost
from proxy.inspector.memo import JobDigests, PolicyDigests, VerdictMemo
from proxy.inspector.wire import Frame, WireError, verdict_from
from proxy.model import Inspection, InspectJob

SECONDS_PER_BYTE: Final = 40e-6
"""Added to the deadline for every byte of body: new prose costs 10 ms per KB on an idle core; four times that."""
MAX_JOBS: Final = 256
MAX_JOB_BYTES: Final = 128 << 20
MEMO_BYTES: Final = 32 << 20
_ATTEMPTS: Final = 2
"""A job whose inspector died is given to another once; a job that kills inspectors must not kill them all."""


class InspectorClient:
    """One per worker. `start` first; `ready` once an inspector has greeted.

    `deadline_s` is for a small job and grows with the body. `clock` gives Unix seconds (expiry of exceptions).
    `index_keys`: generation of the root secret -> key of exact match, for inspectors whose policies need it.
    """

    def __init__(
        self,
        socket_path: str | Sequence[str],
        *,
        deadline_s: float = 2.0,
        max_jobs: int = MAX_JOBS,
        max_job_bytes: int = MAX_JOB_BYTES,
        memo_bytes: int = MEMO_BYTES,
        clock: Callable[[], float] = time.time,
        index_keys: Mapping[str, bytes] | None = None,
    ) -> None:
        paths = [socket_path] if isinstance(socket_path, str) else list(socket_path)
        self.deadline_s = deadline_s
        self._links = [Link(path, self._changed, index_keys) for path in paths]
        self._tasks: list[asyncio.Task[None]] = []
        self._any_ready = asyncio.Event()
        self._max_jobs = max_jobs
        self._max_job_bytes = max_job_bytes
        self._jobs = 0
        self._job_bytes = 0
        self._policies = PolicyDigests()
        self._digests = JobDigests(self._policies)
        self._memo = VerdictMemo(memo_bytes)
        self._engine = ""
        self._closed = False
        self._clock = clock
        self._last: tuple[InspectJob, bytes] | None = None

    @property
    def ready(self) -> bool:
        """An inspector can be asked."""
        return self._any_ready.is_set() and not self._closed

    async def start(self) -> None:
        """Begins connecting; returns at once."""
        self._tasks = [asyncio.create_task(link.run(), name=f"inspector {link.path}") for link in self._links]

    async def aclose(self) -> None:
        """Ends all connections; jobs that wait are denied."""
        self._closed = True
        self._any_ready.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._last = None

    async def wait_ready(self) -> None:
        """Returns once an inspector can be asked."""
        await self._any_ready.wait()

    def cached(self, job: InspectJob) -> Inspection | None:
        """The verdict of the very same job seen before, without any wait; None when it must be asked."""
        return self._memo.get(self._key(job))

    async def inspect(self, job: InspectJob) -> Inspection:
        """Raises Denied: inspector_unavailable (down, hung, failed or too slow), overloaded (too many at once)."""
        key = self._key(job)
        self._last = None
        known = self._memo.get(key)
        if known is not None:
            return known
        size = len(job.body)
        if self._jobs >= self._max_jobs or self._job_bytes + size > self._max_job_bytes:
            raise Denied("overloaded", "too many messages wait for inspection")
        self._jobs += 1
        self._job_bytes += size
        try:
            frame = await self._in_time(job, self.deadline_s + size * SECONDS_PER_BYTE)
        finally:
            self._jobs -= 1
            self._job_bytes -= size
        return self._remembered(key, frame)

    def _key(self, job: InspectJob) -> bytes:
        """`cached` and then `inspect` are asked about one object in turn: digest its body once."""
        if self._last is not None and self._last[0] is job:
            return self._last[1]
        key = self._digests.of(job, self._clock())
        self._last = (job, key)
        return key

    def _remembered(self, key: bytes, frame: Frame) -> Inspection:
        try:
            verdict = verdict_from(frame)
            keep = frame.header["keep"] is True
        except (KeyError, TypeError, ValueError):
            raise Denied("inspector_unavailable", "the inspector's answer makes no sense") from None
        if keep:
            self._memo.put(key, verdict)
        return verdict

    async def _in_time(self, job: InspectJob, deadline_s: float) -> Frame:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + deadline_s
        try:
            async with asyncio.timeout_at(end_s):
                for _ in range(_ATTEMPTS):
                    link = await self._least_loaded()
                    with contextlib.suppress(LinkLost):
                        return await link.ask(job, self._policies.of(job.dlp), end_s - loop.time())
        except TimeoutError:
            raise Denied("inspector_unavailable", f"no verdict within {deadline_s:.1f} s") from None
        except InspectorError as error:
            if error.why in {"busy", "late"}:
                raise Denied("overloaded", "too many messages wait for inspection") from None
            raise Denied("inspector_unavailable", "the inspection failed") from None
        except WireError:
            raise Denied("too_large", "the message is too large to be inspected") from None
        raise Denied("inspector_unavailable", "the inspectors ended while they looked at the message")

    async def _least_loaded(self) -> Link:
        while not self._closed:
            ready = [link for link in self._links if link.ready]
            if ready:
                return min(ready, key=lambda link: link.load_bytes)
            await self._any_ready.wait()
        raise Denied("inspector_unavailable", "the worker is stopping")

    def _changed(self, link: Link) -> None:
        if link.ready and link.engine != self._engine:
            # Other code or models may judge otherwise.
            self._memo.clear()
            self._engine = link.engine
        if self._closed or any(each.ready for each in self._links):
            self._any_ready.set()
        else:
            self._any_ready.clear()
