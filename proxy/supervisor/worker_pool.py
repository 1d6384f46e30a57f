"""Worker slots: each holds its listening sockets for good and always has one worker that accepts from them."""

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from proxy.supervisor.channel import Channel
from proxy.supervisor.child import Backoff, child_environment, module_command, spawn, stop

READY_DEADLINE_S: Final = 60.0
"""Importing mitmproxy and loading the policy takes 2 to 5 s on a busy core; a worker that needs longer is broken."""

GOODBYE_S: Final = 2.0
"""From the end of a worker's channel to the end of its process: it closes its stores and its audit file."""

_LOG = logging.getLogger(__name__)

type Message = dict[str, Any]


class PoolEvents(Protocol):
    """What the pool tells its owner."""

    async def worker_starting(self, worker: "Worker") -> Message:
        """The process exists and waits: returns what to tell it. Nothing of it has been written or served yet."""

    def worker_said(self, worker: "Worker", message: Message) -> None:
        """Any message but `ready`."""

    async def worker_ended(self, worker: "Worker", code: int) -> None:
        """The process is gone. `worker.draining` tells an expected end from a crash."""


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process. `status` is its last status message. `id` is unique over machines and restarts: it names
    the worker's budget leases and its audit chain."""

    id: str
    slot: int
    process: asyncio.subprocess.Process
    channel: Channel
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    draining: bool = False
    status: Message = field(default_factory=dict)

    def drain(self, grace_s: float) -> None:
        """Stop accepting, finish what is open within `grace_s`, exit."""
        self.draining = True
        self.channel.send({"do": "drain", "grace_s": grace_s})

    async def gone(self, deadline_s: float) -> None:
        """Returns when the process has ended, by force after `deadline_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), deadline_s)
        await stop(self.process, grace_s=0.5)
        await self.ended.wait()


class WorkerPool:
    """All slots. `sockets[slot]` maps listener name to the slot's own listening socket."""

    def __init__(
        self,
        sockets: Sequence[Mapping[str, socket.socket]],
        log_dir: Path,
        events: PoolEvents,
        *,
        keep_stdout: bool = False,
    ) -> None:
        self._sockets = sockets
        self._keep_stdout = keep_stdout
        self._log_dir = log_dir
        self._events = events
        self._crashed = [asyncio.Event() for _ in sockets]
        self._locks = [asyncio.Lock() for _ in sockets]
        self._tasks: set[asyncio.Task[None]] = set()
        self.current: list[Worker | None] = [None] * len(sockets)
        self.restarts = [0] * len(sockets)
        self.living: set[Worker] = set()

    async def keep(self, slot: int) -> None:
        """Keeps one slot served until cancelled."""
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        while True:
            async with self._locks[slot]:
                if not self._alive(slot):
                    backoff.started(loop.time())
                    try:
                        self._occupy(slot, await self._start(slot))
                    except Exception as fault:  # noqa: BLE001 - a full disk now must not leave the slot empty for good
                        _LOG.warning("no worker for slot %d: %s", slot, _reason(fault))
                        self._crashed[slot].set()
            await self._crashed[slot].wait()
            self._crashed[slot].clear()
            self.restarts[slot] += 1
            await asyncio.sleep(backoff.pause_s(loop.time()))

    async def replace(self, slot: int, drain_s: float) -> bool:
        """Hot restart: a new worker takes the same sockets, then the old one drains. False: the new one did not get
        ready and was given up; the old one goes on."""
        async with self._locks[slot]:
            try:
                successor = await self._start(slot)
            except Exception as fault:  # noqa: BLE001 - as in `keep`
                _LOG.warning("no new worker for slot %d: %s", slot, _reason(fault))
                return False
            await _either(successor.ready, successor.ended, READY_DEADLINE_S)
            if not successor.ready.is_set() or successor.ended.is_set():
                successor.draining = True
                await stop(successor.process, grace_s=0.5)
                return False
            old = self.current[slot]
            self._occupy(slot, successor)
        if old is not None and not old.ended.is_set():
            old.drain(drain_s)
            self._background(old.gone(drain_s + 5))
        return True

    def _alive(self, slot: int) -> bool:
        worker = self.current[slot]
        return worker is not None and not worker.ended.is_set()

    def _occupy(self, slot: int, worker: Worker) -> None:
        self.current[slot] = worker
        if worker.ended.is_set():  # it died before it was known as the slot's worker
            self._crashed[slot].set()

    def broadcast(self, message: Message) -> None:
        """To every living worker, draining ones too: a kill must stop their streams as well."""
        for worker in self.living:
            worker.channel.send(message)

    async def drain(self, drain_s: float) -> None:
        """Drains all workers and returns when all are gone. Cancel the `keep` tasks first."""
        for worker in self.living:
            worker.drain(drain_s)
        await asyncio.gather(*(worker.gone(drain_s + 5) for worker in list(self.living)))

    async def _start(self, slot: int) -> Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        listeners = {name: listener.fileno() for name, listener in self._sockets[slot].items()}
        identity = f"w{slot}-{secrets.token_hex(6)}"
        with theirs:
            process = await spawn(
                module_command("proxy.dataplane.worker", "--control", str(theirs.fileno())),
                self._log_dir / f"worker-{slot}.log",
                child_environment(PYTHONOPTIMIZE="1"),
                pass_fds=[theirs.fileno(), *listeners.values()],
                keep_stdout=self._keep_stdout,
            )
        channel = await Channel.over(ours)
        worker = Worker(identity, slot, process, channel)
        self.living.add(worker)
        self._background(self._watch(worker))
        try:
            start = await self._events.worker_starting(worker)
        except BaseException:
            worker.draining = True  # it was never told to serve, so its end is no crash
            channel.close()
            raise
        channel.send({**start, "do": "start", "id": identity, "slot": slot, "listeners": listeners})
        return worker

    async def _watch(self, worker: Worker) -> None:
        async for message in worker.channel.messages():
            if message.get("is") == "ready":
                worker.ready.set()
            else:
                self._events.worker_said(worker, message)
        # A worker whose channel broke can no longer be told of a kill: it must not serve on.
        worker.channel.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(worker.process.wait(), GOODBYE_S)
        await stop(worker.process, grace_s=GOODBYE_S)
        code = await worker.process.wait()
        self.living.discard(worker)
        worker.ended.set()
        try:
            await self._events.worker_ended(worker, code)
        finally:
            if self.current[worker.slot] is worker:
                self._crashed[worker.slot].set()

    def _background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _reason(fault: Exception) -> str:
    """Words of the system; of other faults only the type is safe to show."""
    return fault.strerror if isinstance(fault, OSError) and fault.strerror else type(fault).__name__


async def _either(first: asyncio.Event, second: asyncio.Event, deadline_s: float) -> None:
    waiters = [asyncio.create_task(first.wait()), asyncio.create_task(second.wait())]
    await asyncio.wait(waiters, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
    for waiter in waiters:
        waiter.cancel()
