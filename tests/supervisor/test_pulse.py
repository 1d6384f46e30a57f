"""A child that holds its socket and greets nobody is ended and replaced; one that starts, ends or greets is let be."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from proxy.supervisor.child import Child
from proxy.supervisor.pulse import BUSY_CPU_S, STUCK_CPU_S, Silence, answers, cpu_s, keep_alive
from tests.lab.product import eventually

GREETS = """
import os, socket, sys
path = sys.argv[1]
if os.path.exists(path): os.unlink(path)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
while True:
    client, _ = listener.accept()
    client.send(b"x")
    client.close()
"""


@pytest.fixture
def path(state_dir: Path) -> Path:
    return state_dir / "pulse.sock"


def test_who_greets_and_who_is_not_there_answers(path: Path) -> None:
    async def run() -> None:
        assert await answers(path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        assert await answers(path), "it does not listen yet"
        listener.listen(1)
        assert not await answers(path, 0.05)
        listener.close()
        assert await answers(path), "nobody holds it any more"

    asyncio.run(run())


def test_a_full_backlog_is_no_answer(path: Path) -> None:
    async def run() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(0)
            waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
            for client in waiting:
                client.setblocking(False)
                client.connect_ex(str(path))
            assert not await answers(path, 0.05)
            for client in waiting:
                client.close()

    asyncio.run(run())


def test_a_stopped_child_is_replaced_and_a_well_one_is_not(path: Path, state_dir: Path) -> None:
    async def run() -> None:
        replaced = asyncio.Event()
        ended: list[int] = []

        def on_end(code: int) -> None:
            ended.append(code)
            replaced.set()

        child = Child(
            "inspector", "0", [sys.executable, "-c", GREETS, str(path)], state_dir / "log/x.log", on_end=on_end
        )
        tasks = [asyncio.create_task(child.run())]
        await asyncio.to_thread(eventually, path.exists, "its socket")
        tasks.append(asyncio.create_task(keep_alive(child, path, every_s=0.01, within_s=1.0)))
        first = child.pid
        assert first is not None
        assert await answers(path, 10)
        assert ended == []
        os.kill(first, signal.SIGSTOP)
        await asyncio.wait_for(replaced.wait(), 30)
        assert ended == [-signal.SIGKILL]
        await asyncio.to_thread(eventually, lambda: child.pid not in {None, first}, "a successor")
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def test_an_idle_silence_is_borne_once_and_a_busy_one_as_long_as_it_works() -> None:
    silence = Silence(1, 100.0, 100.0)
    assert not silence.add(100.0, 2)
    worked_s = 100.0 + 2 * BUSY_CPU_S
    assert not silence.add(worked_s, 2)
    assert not silence.add(worked_s, 2)
    assert silence.add(worked_s, 2)


def test_nobody_is_busy_for_ever() -> None:
    silence = Silence(1, 100.0, 100.0)
    used = 100.0
    while not silence.add(used := used + 1.0, 2):
        assert used <= 100.0 + STUCK_CPU_S
    assert used == 100.0 + STUCK_CPU_S


BUSY = """
import os, socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
while time.process_time() < 3.0:
    pass
while True:
    client, _ = listener.accept()
    client.send(b"x")
    client.close()
"""


def test_a_child_at_work_is_let_work(path: Path, state_dir: Path) -> None:
    async def run() -> None:
        ended: list[int] = []
        child = Child(
            "inspector", "0", [sys.executable, "-c", BUSY, str(path)], state_dir / "x.log", on_end=ended.append
        )
        tasks = [asyncio.create_task(child.run())]
        await asyncio.to_thread(eventually, path.exists, "its socket")
        first = child.pid
        assert first is not None
        tasks.append(asyncio.create_task(keep_alive(child, path, every_s=0.01, within_s=1.0, misses=1)))
        assert await answers(path, 60)
        assert cpu_s(first) > 2.5
        assert (child.pid, ended) == (first, [])
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
