"""What bounds the inspector's own queue, and what a job that kills its inspectors costs."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from proxy.bodies.views import unicode
from proxy.errors import Denied
from proxy.inspector import server
from proxy.inspector.client import InspectorClient
from proxy.inspector.indexes import Indexes
from proxy.inspector.wire import VERSION, Decoder, encode
from proxy.model import Finding, Inspection, InspectJob
from proxy.recognizers.base import Recognizer
from proxy.recognizers.engine import Engine
from proxy.recognizers.rampart import BATCH_TOKENS
from tests.inspector.conftest import client, job


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


def test_the_table_of_odd_characters_is_there_before_the_first_request() -> None:
    shown: list[str] = []

    def find_many(texts: Sequence[str]) -> list[list[Finding]]:
        shown.extend(texts)
        return [[] for _ in texts]

    unicode._odd.cache_clear()
    server.warm(Engine([Recognizer("m", frozenset({"PERSON"}), "pattern", find_many=find_many)]))
    assert unicode._odd.cache_info().currsize == 1
    assert sum(map(len, shown)) > 4 * BATCH_TOKENS, "less than a whole batch of the model"
