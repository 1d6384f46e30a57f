"""A real Valkey for the whole test session, and small helpers to run a scenario over every store.

Import the fixtures `valkey` and `store_url` by name into a test module to use them there.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.paths import Paths
from proxy.stores.embedded import EmbeddedStore
from proxy.stores.open import Store, open_store


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """URL of a running embedded store."""
    directory = Path(tempfile.mkdtemp(prefix="egv-", dir="/tmp"))
    with asyncio.Runner() as runner:
        store = runner.run(EmbeddedStore.start(Paths(directory)))
        yield store.url
        runner.run(store.stop())
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["memory", "valkey"])
def store_url(request: pytest.FixtureRequest) -> str:
    """Each store in turn."""
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("valkey"))


@contextlib.asynccontextmanager
async def opened(url: str, *, empty: bool = True) -> AsyncIterator[Store]:
    """The store at `url`, emptied first."""
    store = open_store(url, Paths(Path("/nonexistent")))
    if empty and url.startswith("unix://"):
        await flush(url)
    try:
        yield store
    finally:
        await store.aclose()


async def flush(url: str) -> None:
    from redis.asyncio import Redis

    client = Redis.from_url(url, protocol=2)
    await client.execute_command("FLUSHALL")
    await client.aclose()


def over(url: str, scenario: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    """Runs `scenario` with an empty store."""

    async def run() -> None:
        async with opened(url) as store:
            await scenario(store)

    asyncio.run(run())


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    """Returns as soon as `condition` holds; TimeoutError when it does not come true."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes too
            await asyncio.sleep(0.005)
