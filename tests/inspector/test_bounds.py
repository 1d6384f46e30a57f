"""What bounds the inspector's own queue, and what a job that kills its inspectors costs."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from proxy.bodies.views import unicode
from proxy.errors import Denied
from proxy.inspector import link, server
from proxy.inspector.client import InspectorClient
from proxy.inspector.indexes import Indexes
from proxy.inspector.wire import LARGE_BYTES, VERSION, Decoder, encode, verdict_frame
from proxy.model import Finding, Inspection, InspectJob
from proxy.recognizers.base import Recognizer
from proxy.recognizers.engine import Engine
from proxy.recognizers.rampart import BATCH_TOKENS
from tests.inspector.conftest import ROOT, client, job


@contextlib.asynccontextmanager
async def serving(path: str, bench: server.Bench) -> AsyncIterator[InspectorClient]:
    """A client of sessions in this process; its own bounds are out of the way."""
    loop = asyncio.get_running_loop()
    listener = await loop.create_unix_server(lambda: server.Session(bench, "engine", Indexes([])), path)
    async with client(path, deadline_s=60.0) as asked:
        yield asked
    listener.close()
    await bench.finish(5.0)


async def _denials(asked: InspectorClient, jobs: list[InspectJob], wanted: int) -> set[asyncio.Task[Inspection]]:
    """Asks all at once and returns what still waits once `wanted` of them were answered with a denial."""
    pending = {asyncio.create_task(asked.inspect(each)) for each in jobs}
    answered: set[asyncio.Task[Inspection]] = set()
    while len(answered) < wanted:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        answered |= done
    for task in answered:
        error = task.exception()
        assert isinstance(error, Denied)
        assert error.code == "overloaded"
    return pending


@pytest.mark.parametrize(
    ("bound", "value"), [("MAX_QUEUED_JOBS", 2), ("MAX_QUEUED_BYTES", 2 * len(job("text 0").body))]
)
def test_a_busy_inspector_denies_what_it_cannot_hold(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    monkeypatch.setattr(server, bound, value)
    release = threading.Event()

    def judge(_job: InspectJob) -> Inspection:
        release.wait(60)
        return Inspection("allow")

    async def run() -> None:
        async with serving(str(socket_dir / f"{bound}.sock"), server.Bench(judge)) as asked:
            waiting = await _denials(asked, [job(f"text {number}") for number in range(5)], 3)
            release.set()
            assert [verdict.action for verdict in await asyncio.gather(*waiting)] == ["allow", "allow"]
            assert (await asked.inspect(job("text 9"))).action == "allow"

    try:
        asyncio.run(run())
    finally:
        release.set()


def test_a_judge_that_fails_is_a_denial_and_no_verdict(socket_dir: Path) -> None:
    def judge(_job: InspectJob) -> Inspection:
        raise RuntimeError("secret text")

    async def run() -> None:
        async with serving(str(socket_dir / "fails.sock"), server.Bench(judge)) as asked:
            with pytest.raises(Denied) as refused:
                await asked.inspect(job())
            assert refused.value.code == "inspector_unavailable"
            assert asked.cached(job()) is None

    asyncio.run(run())


def test_a_job_that_ends_every_inspector_is_denied_after_the_second(socket_dir: Path) -> None:
    path = str(socket_dir / "dies.sock")
    killed: list[int] = []

    async def dies_of_a_job(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.writelines(encode({"t": "hello", "version": VERSION, "engine": "engine"}))
        decoder = Decoder()
        while data := await reader.read(65536):
            if any(frame.kind == "job" for frame in decoder.feed(data)):
                killed.append(1)
                break
        writer.close()

    async def run() -> None:
        listener = await asyncio.start_unix_server(dies_of_a_job, path)
        async with client(path, deadline_s=60.0) as asked:
            with pytest.raises(Denied) as refused:
                await asked.inspect(job())
        listener.close()
        assert refused.value.code == "inspector_unavailable"
        assert len(killed) == 2

    asyncio.run(run())


@pytest.mark.parametrize(("size", "times"), [(LARGE_BYTES + 1, 1), (LARGE_BYTES, 2)])
def test_an_inspector_that_is_held_up_is_asked_again_for_small_jobs_alone(
    socket_dir: Path, monkeypatch: pytest.MonkeyPatch, size: int, times: int
) -> None:
    monkeypatch.setattr(link, "HUNG_AFTER_S", 0.3)
    monkeypatch.setattr(link, "BEAT_S", 0.02)
    path = str(socket_dir / f"held-up-{size}.sock")
    asked_for: list[int] = []
    held_back: list[tuple[asyncio.StreamWriter, list[bytes]]] = []
    first: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(what: list[bytes]) -> None:
            if asked_for and writer in first:
                held_back.append((writer, what))
            else:
                writer.writelines(what)

        first.extend([] if first else [writer])
        say(encode({"t": "hello", "version": VERSION, "engine": "e"}))
        decoder = Decoder()
        while data := await reader.read(1 << 16):
            for frame in decoder.feed(data):
                if frame.kind == "job":
                    asked_for.append(frame.header["id"])
                    say(verdict_frame(frame.header["id"], Inspection("allow"), keep=True))
                elif frame.kind == "ping":
                    say(encode({"t": "pong"}))
        writer.close()

    async def run() -> None:
        listener = await asyncio.start_unix_server(serve, path)
        async with client(path, deadline_s=60.0) as asked:
            working = asyncio.ensure_future(asked.inspect(job("x" * size)))
            while asked.ready:  # noqa: ASYNC110 - the client tells when it is ready, not when it no longer is
                await asyncio.sleep(0.01)
            first.clear()
            for writer, what in held_back:
                if not writer.is_closing():
                    writer.writelines(what)
            assert (await working).action == "allow"
            await asyncio.wait_for(asked.wait_ready(), 10)
        listener.close()
        assert len(asked_for) == times

    asyncio.run(run())


def test_a_job_is_overdue_by_what_it_computes_not_by_what_others_take() -> None:
    work = server._Work(1, job(), end_s=0, limit_s=5.0)
    assert not work.overdue(1e9)
    work.clock, work.started_s = time.CLOCK_THREAD_CPUTIME_ID, 100.0
    work.started_cpu_s = time.thread_time()
    assert not work.overdue(105.0)
    assert not work.overdue(100.0 + 5.0 * server.WAITING)
    assert work.overdue(100.1 + 5.0 * server.WAITING)
    work.started_cpu_s -= 5.1
    assert not work.overdue(105.0)
    assert work.overdue(105.1)


SPINS = """
import asyncio, re, sys, os
from proxy.inspector import link, server
from proxy.inspector.indexes import Indexes
server.STUCK_CPU_S = 0.5
def judge(job):
    print("begun", file=sys.stderr, flush=True)
    re.match(r"(a+)+$", "a" * 60 + "b")
asyncio.run(server.serve(sys.argv[1], judge, Indexes([]), os.getppid()))
"""


def test_an_inspector_whose_loop_does_not_come_back_ends_itself(socket_dir: Path) -> None:
    path = str(socket_dir / "spins.sock")
    process = subprocess.Popen([sys.executable, "-c", SPINS, path], stderr=subprocess.PIPE, cwd=ROOT)

    async def run() -> None:
        async with client(path, deadline_s=60.0) as asked:
            working = asyncio.ensure_future(asked.inspect(job()))
            assert await asyncio.to_thread(process.wait, 60) == -signal.SIGPROF
            working.cancel()

    try:
        asyncio.run(run())
        assert process.stderr is not None
        said = process.stderr.read()
        assert b"in judge" in said
        assert b"Jane" not in said
    finally:
        process.kill()
        process.communicate()


def test_the_table_of_odd_characters_is_there_before_the_first_request() -> None:
    shown: list[str] = []

    def find_many(texts: Sequence[str]) -> list[list[Finding]]:
        shown.extend(texts)
        return [[] for _ in texts]

    unicode._odd.cache_clear()
    server.warm(Engine([Recognizer("m", frozenset({"PERSON"}), "pattern", find_many=find_many)]))
    assert unicode._odd.cache_info().currsize == 1
    assert sum(map(len, shown)) > 4 * BATCH_TOKENS, "less than a whole batch of the model"
