"""A slot whose worker cannot be started now gets one later."""

import asyncio
from pathlib import Path

import pytest

from proxy.errors import Denied
from proxy.supervisor.worker_pool import Message, Worker, WorkerPool


class Events:
    """An owner whose disk is full at first."""

    def __init__(self, fault: Exception) -> None:
        self.fault = fault
        self.started: list[Worker] = []
        self.ended: list[tuple[Worker, bool]] = []
        self.enough = asyncio.Event()

    async def worker_starting(self, worker: Worker) -> Message:
        self.started.append(worker)
        if len(self.started) >= 3:
            self.enough.set()
        raise self.fault

    def worker_said(self, worker: Worker, message: Message) -> None:
        raise AssertionError((worker, message))

    async def worker_ended(self, worker: Worker, code: int) -> None:
        del code
        self.ended.append((worker, worker.draining))


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), Denied("audit_unavailable")], ids=str)
def test_a_slot_is_not_given_up(state_dir: Path, fault: Exception) -> None:
    async def run() -> None:
        events = Events(fault)
        pool = WorkerPool([{}], state_dir / "log", events)
        keeper = asyncio.create_task(pool.keep(0))
        await asyncio.wait_for(events.enough.wait(), 60)
        assert await pool.replace(0, 1.0) is False
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await pool.drain(0.0)
        assert not pool.living
        assert {worker.id for worker, expected in events.ended if expected} == {worker.id for worker in events.started}

    asyncio.run(run())
