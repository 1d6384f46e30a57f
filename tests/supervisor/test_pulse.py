"""A child that holds its socket and greets nobody is ended and replaced; one that starts, ends or greets is let be."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from proxy.supervisor.child import Child
from proxy.supervisor.pulse import answers, keep_alive
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
