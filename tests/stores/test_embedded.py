"""The store that starts by itself: private, durable, alone, and gone when it is stopped."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.paths import NotPrivate, Paths
from proxy.stores import embedded
from proxy.stores.embedded import EmbeddedStore
from proxy.stores.open import open_store
from proxy.stores.ports import StoreUnavailable
from tests.lab.product import eventually


def listening_tcp_ports(pid: int) -> set[int]:
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        target = str(link.readlink())
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def test_private_and_without_tcp(paths: Paths) -> None:
    async def scenario() -> None:
        store = await EmbeddedStore.start(paths)
        try:
            assert store.running
            assert store.pid is not None
            assert listening_tcp_ports(store.pid) == set()
            assert stat.S_IMODE(paths.store_socket.stat().st_mode) == 0o700
            assert stat.S_IMODE(paths.store_dir.stat().st_mode) == 0o700
            assert stat.S_IMODE(paths.socket_dir.stat().st_mode) == 0o700
            for file in paths.store_dir.iterdir():
                if file.is_file():
                    assert not stat.S_IMODE(file.stat().st_mode) & 0o007, file
        finally:
            await store.stop()
        assert not store.running
        assert store.pid is None

    asyncio.run(scenario())


def test_data_survive_kill_nine_and_a_clean_stop(paths: Paths) -> None:
    async def scenario() -> None:
        store = await EmbeddedStore.start(paths)
        client = open_store(None, paths)
        await client.config.append_manifest(b"m1", seq=1, expect_seq=0)
        assert store.pid is not None
        os.kill(store.pid, signal.SIGKILL)
        assert await store.wait() == -signal.SIGKILL
        with pytest.raises(StoreUnavailable):
            await client.config.head_manifest()
        assert paths.store_socket.exists()
        await store.restart()
        assert await client.config.head_manifest() == b"m1"
        pid = store.pid
        await store.restart()
        assert store.pid == pid
        await client.config.append_manifest(b"m2", seq=2, expect_seq=1)
        await store.stop()
        store = await EmbeddedStore.start(paths)
        assert await client.config.head_manifest() == b"m2"
        await client.aclose()
        await store.stop()

    asyncio.run(scenario())


def test_a_torn_append_only_file_is_mended(paths: Paths) -> None:
    async def scenario() -> None:
        store = await EmbeddedStore.start(paths)
        client = open_store(None, paths)
        await client.config.put_revision("r", b"x" * 100)
        await store.stop()
        log = next(paths.store_dir.glob("appendonlydir/*.incr.aof"))
        log.write_bytes(log.read_bytes() + b"*3\r\n$3\r\nSET\r\n$1\r\nx")
        store = await EmbeddedStore.start(paths)
        assert await client.config.get_revision("r") == b"x" * 100
        await client.aclose()
        await store.stop()

    asyncio.run(scenario())


def test_two_supervisors_never_share_it(paths: Paths) -> None:
    async def scenario() -> None:
        store = await EmbeddedStore.start(paths)
        with pytest.raises(StoreUnavailable, match="another supervisor"):
            await EmbeddedStore.start(paths)
        assert store.running
        await store.stop()
        again = await EmbeddedStore.start(paths)
        await again.stop()

    asyncio.run(scenario())


def test_an_orphan_is_ended_first_and_its_data_kept(paths: Paths) -> None:
    async def scenario() -> None:
        orphan = await EmbeddedStore.start(paths)
        client = open_store(None, paths)
        await client.config.append_manifest(b"m1", seq=1, expect_seq=0)
        os.close(orphan._lock_fd)  # type: ignore[arg-type]  # what the kernel does when a supervisor is killed
        orphan._lock_fd = None
        store = await EmbeddedStore.start(paths)
        assert await asyncio.wait_for(orphan.wait(), 5) == 0
        assert store.pid != orphan.pid
        assert await client.config.head_manifest() == b"m1"
        await client.aclose()
        await store.stop()

    asyncio.run(scenario())


SUPERVISOR = """
import asyncio, pathlib, sys
from proxy.paths import Paths
from proxy.stores.embedded import EmbeddedStore
from proxy.stores.open import open_store

async def main():
    paths = Paths(pathlib.Path(sys.argv[1]))
    store = await EmbeddedStore.start(paths)
    await open_store(None, paths).config.append_manifest(b"m1", seq=1, expect_seq=0)
    print(store.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def killed_supervisor(paths: Paths, *, stop_the_store: bool = False) -> int:
    """A supervisor that started a store and was killed: the store's process id."""
    command = [sys.executable, "-c", SUPERVISOR, str(paths.state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        if stop_the_store:
            os.kill(pid, signal.SIGSTOP)
        supervisor.kill()
    return pid


def test_it_ends_with_the_supervisor_and_keeps_the_data(paths: Paths) -> None:
    pid = killed_supervisor(paths)
    eventually(lambda: ended(pid), "the end of the store")

    async def scenario() -> None:
        store = await EmbeddedStore.start(paths)
        client = open_store(None, paths)
        assert await client.config.head_manifest() == b"m1"
        await client.aclose()
        await store.stop()

    asyncio.run(scenario())


def test_an_orphan_that_does_not_answer_is_killed(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STOP_S", 0.3)
    pid = killed_supervisor(paths, stop_the_store=True)
    assert not ended(pid)

    async def scenario() -> None:
        store = await EmbeddedStore.start(paths)
        assert ended(pid)
        client = open_store(None, paths)
        assert await client.config.head_manifest() == b"m1"
        await client.aclose()
        await store.stop()

    asyncio.run(scenario())


def ended(pid: int) -> bool:
    """Gone, or a zombie that nobody waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_is_in_the_way_is_named(paths: Paths) -> None:
    async def scenario() -> None:
        paths.socket_dir.mkdir(mode=0o700, parents=True)
        paths.store_socket.write_text("a file")
        with pytest.raises(StoreUnavailable, match="not a socket"):
            await EmbeddedStore.start(paths)
        assert paths.store_socket.read_text() == "a file"
        paths.store_socket.unlink()
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(paths.store_socket))
        store = await EmbeddedStore.start(paths)
        await store.stop()
        paths.store_dir.chmod(0o755)
        with pytest.raises(NotPrivate, match="0700"):
            await EmbeddedStore.start(paths)

    asyncio.run(scenario())


def test_a_server_that_cannot_start_says_where_its_log_is(paths: Paths) -> None:
    async def scenario() -> None:
        paths.store_dir.mkdir(mode=0o700, parents=True)
        (paths.store_dir / "appendonlydir").write_text("not a directory")
        with pytest.raises(StoreUnavailable, match=r"code \d+; see .*valkey\.log"):
            await EmbeddedStore.start(paths)
        (paths.store_dir / "appendonlydir").unlink()
        store = await EmbeddedStore.start(paths)
        await store.stop()

    asyncio.run(scenario())


def test_deep_and_odd_directories_work(state_dir: Path) -> None:
    async def scenario(directory: Path) -> None:
        paths = Paths(directory)
        store = await EmbeddedStore.start(paths)
        client = open_store(None, paths)
        assert await client.config.epoch() == 0
        await client.aclose()
        await store.stop()

    asyncio.run(scenario(state_dir / ("deep" * 30)))
    asyncio.run(scenario(state_dir / "with space ü #1?x%41"))


def test_full_memory_is_a_fault_and_nothing_is_evicted(paths: Paths) -> None:
    async def scenario() -> None:
        store = await EmbeddedStore.start(paths, maxmemory_bytes=3 << 20)
        client = open_store(None, paths)
        await client.config.set_kill("a", {"reason": "r"})

        async def fill() -> None:
            for n in range(200):
                await client.cache.put_many([("a", bytes([n]) * 32, b"x" * 100_000, 600)])

        with pytest.raises(StoreUnavailable, match="no memory"):
            await fill()
        assert await client.config.kills() == {"a": {"reason": "r"}}
        assert await client.config.revoked_tokens() == frozenset()
        with pytest.raises(StoreUnavailable, match="no memory"):
            await client.config.set_kill("b", {"reason": "x" * 200_000})
        await client.aclose()
        await store.stop()

    asyncio.run(scenario())
