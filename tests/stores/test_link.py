"""Every way a store can fail is a StoreFault with a reason, within the deadline, without the server's text."""

import asyncio
import contextlib
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis import exceptions as redis

from proxy.paths import Paths
from proxy.stores.embedded import _binary
from proxy.stores.faults import StoreFault, reason_of
from proxy.stores.link import RedisLink, Script, parse_url
from proxy.stores.open import open_store
from proxy.stores.orders import stopped
from proxy.stores.ports import StoreUnavailable
from proxy.stores.redis import RedisStore
from tests.stores.kit import opened, valkey

__all__ = ["valkey"]

SECRET = b"sk-topsecret"


@contextlib.asynccontextmanager
async def server(answer: bytes | None, *, hang_up: bool = False) -> AsyncIterator[str]:
    """A unix socket server that answers everything with `answer` (None: with silence)."""
    directory = tempfile.mkdtemp(prefix="egl-", dir="/tmp")
    path = f"{directory}/s"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(4096):
                if answer is not None:
                    writer.write(answer)
                    await writer.drain()
                if hang_up:
                    break
        writer.close()

    listening = await asyncio.start_unix_server(serve, path)
    try:
        yield f"unix://{path}"
    finally:
        listening.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"-NOAUTH Authentication required. " + SECRET + b"\r\n", "auth"),
        (b"-WRONGPASS invalid username-password pair\r\n", "auth"),
        (b"-NOPERM no permissions\r\n", "auth"),
        (b"-WRONGTYPE Operation against a key\r\n", "wrong_type"),
        (b"-ERR Error running script: @user_script:1: WRONGTYPE Operation against\r\n", "wrong_type"),
        (b"-READONLY You can't write against a read only replica.\r\n", "readonly"),
        (b"-LOADING dataset in memory\r\n", "loading"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "full"),
        (b"-MISCONF Errors writing to the AOF file\r\n", "disk"),
        (b"-MOVED 3999 127.0.0.1:6381\r\n", "cluster"),
        (b"-CLUSTERDOWN Hash slot not served\r\n", "cluster"),
        (b"-ERR " + SECRET + b"\r\n", "refused"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + SECRET, "garbage"),
        (b"$abc\r\n", "garbage"),
        (b":12x\r\n", "garbage"),
        (b"*2\r\n:1\r\n", "timeout"),
        (b"$100\r\nhalf", "timeout"),
        (b"+PONG\r\n", "garbage"),
        (b"*1\r\n$1\r\na\r\n", "garbage"),
    ],
)
def test_each_bad_answer_has_its_reason(answer: bytes, reason: str) -> None:
    async def scenario() -> None:
        async with server(answer) as url:
            store = RedisStore(url, connect_s=0.3, operation_s=0.1)
            for call in (store.config.epoch(), store.config.kills(), store.budget.spend("a", period="2026-11")):
                with pytest.raises(StoreFault) as caught:
                    await call
                assert SECRET.decode() not in str(caught.value)
                assert caught.value.__context__ is None or caught.value.__suppress_context__
            assert caught.value.reason == reason
            await store.aclose()

    asyncio.run(scenario())


def test_silence_and_hanging_up(valkey: str) -> None:
    async def scenario() -> None:
        async with server(None) as url:
            begun_s = time.monotonic()
            store = RedisStore(url, connect_s=0.2, operation_s=0.1)
            with pytest.raises(StoreFault) as caught:
                await store.config.epoch()
            assert caught.value.reason == "timeout"
            assert time.monotonic() - begun_s < 1.0
            await store.aclose()
        async with server(b"", hang_up=True) as url:
            store = RedisStore(url, connect_s=0.2, operation_s=0.1)
            with pytest.raises(StoreFault) as caught:
                await store.config.epoch()
            assert caught.value.reason == "connection"
            await store.aclose()
        store = RedisStore("redis://127.0.0.1:1", connect_s=0.2, operation_s=0.1)
        with pytest.raises(StoreFault) as caught:
            await store.config.epoch()
        assert caught.value.reason == "connection"
        with pytest.raises(StoreUnavailable):
            await store.config.changes()
        await store.aclose()

    asyncio.run(scenario())


def test_a_slow_drip_is_cut_at_the_deadline() -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(b"$100\r\n")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)

    async def scenario() -> None:
        path = f"{tempfile.mkdtemp(prefix='egl-', dir='/tmp')}/s"
        async with await asyncio.start_unix_server(drip, path):
            link = RedisLink(f"unix://{path}", connect_s=0.2, operation_s=0.2)
            begun_s = time.monotonic()
            with pytest.raises(StoreFault):
                await link.run("GET", "a")
            assert time.monotonic() - begun_s < 1.0
            await link.aclose()

    asyncio.run(scenario())


def test_wrong_types_in_a_real_store(valkey: str) -> None:
    async def scenario() -> None:
        async with opened(valkey) as store:
            link = RedisLink(valkey)
            for key in ("egress:{config}:kills", "egress:{config}:log", "egress:{a:x}:spend:2026-11"):
                await link.run("SET", key, "nonsense")
            await link.run("HSET", "egress:{config}:epoch", "a", "b")
            calls: list[Callable[[], object]] = [
                store.config.kills,
                store.config.head_manifest,
                store.config.epoch,
                lambda: store.budget.spend("x", period="2026-11"),
                lambda: store.budget.lease(
                    "x",
                    day="2026-11-24",
                    month="2026-11",
                    want_usd_nanos=1,
                    least_usd_nanos=1,
                    day_limit=5,
                    month_limit=5,
                    holder="w",
                ),
            ]
            for call in calls:
                with pytest.raises(StoreUnavailable):
                    await call()  # type: ignore[misc]
            await link.aclose()

    asyncio.run(scenario())


def test_works_again_after_the_connection_was_cut(valkey: str) -> None:
    async def scenario() -> None:
        async with opened(valkey) as store:
            changes = await store.config.changes()
            assert await store.config.epoch() == 0
            link = RedisLink(valkey)
            await link.run("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await link.run("CLIENT", "KILL", "TYPE", "pubsub")
            assert [change async for change in changes] == []
            assert await store.config.epoch() == 0
            await link.run("SCRIPT", "FLUSH")
            await store.config.set_kill("a", {})
            assert await store.config.epoch() == 1
            await link.aclose()

    asyncio.run(scenario())


def test_a_cancelled_operation_does_not_mix_up_the_next_answer(valkey: str) -> None:
    async def scenario() -> None:
        async with opened(valkey) as store:
            await store.config.put_revision("r", b"content")
            for _ in range(50):
                task = asyncio.create_task(store.config.get_revision("r"))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                assert await store.config.epoch() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://u:hunter2@h", "scheme 'http'"),
        ("redis+sentinel://:hunter2@h:1", "names its service"),
        ("redis+sentinel://:hunter2@h:1/mymaster/x", "not a number"),
        ("redis+cluster://:hunter2@h:port", "host:port"),
        ("redis+cluster://:hunter2@", "host:port"),
    ],
)
def test_bad_urls_are_refused_without_repeating_them(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        open_store(url, Paths(Path("/x")))
    assert "hunter2" not in str(caught.value)


def test_urls() -> None:
    target = parse_url("rediss+sentinel://u%40x:p%3A@h1:1,[::1]:2,h3/main/4")
    assert (target.kind, target.service, target.db, target.tls) == ("sentinel", "main", 4, True)
    assert target.nodes == (("h1", 1), ("::1", 2), ("h3", 26379))
    assert (target.username, target.password) == ("u@x", "p:")
    assert parse_url("redis+cluster://h").nodes == (("h", 6379),)
    assert parse_url("unix:///a/b").url == "unix:///a/b"


def test_unknown_exceptions_are_garbage() -> None:
    assert reason_of(IndexError()) == "garbage"
    assert reason_of(redis.RedisError()) == "garbage"
    assert reason_of(ConnectionResetError()) == "connection"


def test_scripts_are_named_by_their_text() -> None:
    assert Script("return 1").sha == "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def process(directory: Path, *options: str) -> AsyncIterator[None]:
    running = await asyncio.create_subprocess_exec(
        str(_binary()), *options, cwd=directory, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        running.kill()
        await running.wait()


async def answering(port: int) -> None:
    link = RedisLink(f"redis://127.0.0.1:{port}")
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(StoreUnavailable):
                await link.run("PING")
                break
            await asyncio.sleep(0.02)
    await link.aclose()


async def exercise(store: RedisStore) -> None:
    changes = await store.config.changes()
    await store.config.append_manifest(b"m", seq=1, expect_seq=0)
    await asyncio.wait_for(anext(changes), 5)  # type: ignore[arg-type]
    await store.config.put_token("t", {"app": "a"}, ttl_s=60)
    for app in ("a", "b", "app-{x}"):
        grant = await store.budget.lease(
            app,
            day="2026-11-24",
            month="2026-11",
            want_usd_nanos=9,
            least_usd_nanos=1,
            day_limit=5,
            month_limit=None,
            holder="w",
        )
        assert grant.granted_usd_nanos == 5
        await store.cache.put_many([(app, bytes([n]) * 32, b"v", 60) for n in range(5)])
        assert len(await store.cache.keys(app)) == 5
        assert await store.cache.drop_app(app) == 5
    assert len(await store.budget.leased_by("w")) == 3
    row = {"id": "1", "day": "2026-11-24", "app": "a", "requests": 1}
    await store.budget.add_usage([row, row | {"id": "2", "day": "2026-11-25"}])
    assert len(await store.budget.usage(since="2026-11-24", until="2026-11-25", app="a")) == 2
    assert await store.config.epoch() == 1


def test_cluster(tmp_path: Path) -> None:
    """A real cluster of one node: every key's slot is checked by the server (CROSSSLOT)."""

    async def scenario() -> None:
        port = free_port()
        options = ("--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--save", "")
        async with process(tmp_path, *options, "--cluster-port", str(free_port())):
            await answering(port)
            link = RedisLink(f"redis://127.0.0.1:{port}")
            await link.run("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            async with asyncio.timeout(10):
                while b"cluster_state:ok" not in await link.run("CLUSTER", "INFO"):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await link.aclose()
            store = RedisStore(f"redis+cluster://127.0.0.1:{port}")
            await exercise(store)
            await store.aclose()

    asyncio.run(scenario())


def test_sentinel(tmp_path: Path) -> None:
    async def scenario() -> None:
        port, sentinel = free_port(), free_port()
        config = tmp_path / "sentinel.conf"
        config.write_text(f"port {sentinel}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {port} 1\n")
        async with (
            process(tmp_path, "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
            process(tmp_path, str(config), "--sentinel"),
        ):
            await answering(port)
            await answering(sentinel)
            store = RedisStore(f"redis+sentinel://127.0.0.1:{sentinel}/main")
            await exercise(store)
            await store.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("body", ["nonsense", "[1]", '{"a": ' * 100_000])
def test_a_damaged_order_stops_its_app_and_hides_no_other(valkey: str, body: str) -> None:
    async def scenario() -> None:
        async with opened(valkey) as store:
            link = RedisLink(valkey)
            await link.run("HSET", "egress:{config}:kills", "a", body)
            await store.config.set_kill("b", {"reason": "r"})
            found = await store.config.kills()
            assert (set(stopped(found)), found["b"]) == ({"a", "b"}, {"reason": "r"})
            await link.aclose()

    asyncio.run(scenario())
