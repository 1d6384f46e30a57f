"""Real inspector processes on real unix sockets, one started per test module unless a test harms its own."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from proxy.config.snapshot import DlpPolicy, DlpRule
from proxy.inspector.client import InspectorClient
from proxy.model import InspectJob

ROOT = Path(__file__).resolve().parents[2]
READY_S = 60.0
POLICY = DlpPolicy("balanced", (DlpRule(frozenset({"PERSON", "EMAIL_ADDRESS"}), "tokenize"),), "redact")


class Process:
    """One `python -m proxy.inspector.server`."""

    def __init__(self, path: str, *options: str) -> None:
        self.path = path
        self._options = options
        self._start()

    def _start(self) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "proxy.inspector.server", "--socket", self.path, *self._options],
            cwd=ROOT,
            stderr=subprocess.PIPE,
        )

    def start_again(self) -> None:
        """A successor on the same path, once this one has ended."""
        self.end()
        self._start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Returns once a connection is accepted; fails the test when the process ends instead."""
        poll = asyncio.new_event_loop()
        try:
            poll.run_until_complete(asyncio.wait_for(self._accepts(), READY_S))
        finally:
            poll.close()

    async def _accepts(self) -> None:
        while self.popen.poll() is None:
            try:
                _, writer = await asyncio.open_unix_connection(self.path)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
        raise AssertionError(f"the inspector ended with {self.popen.returncode}")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.popen.pid, number)

    def end(self) -> None:
        if self.popen.poll() is None:
            self.signal(signal.SIGCONT)
            self.popen.kill()
        self.popen.wait(10)
        if self.popen.stderr is not None:
            self.popen.stderr.close()


@pytest.fixture(scope="module")
def socket_dir() -> Iterator[Path]:
    with TemporaryDirectory(prefix="egi-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def inspector(socket_dir: Path) -> Iterator[Process]:
    """Shared by a module's tests, which must leave it as it was."""
    process = Process(str(socket_dir / "shared.sock"))
    process.wait_ready()
    yield process
    process.end()


@pytest.fixture(scope="module")
def _victims(socket_dir: Path) -> Iterator[Process]:
    process = Process(str(socket_dir / "victim.sock"))
    process.wait_ready()
    yield process
    process.end()


@pytest.fixture
def victim(_victims: Process) -> Process:
    """An inspector that a test may stop, hang, kill or end; the next test finds it, or its successor, well."""
    if _victims.popen.poll() is not None:
        _victims.start_again()
    return _victims


@asynccontextmanager
async def client(*paths: str, **options: object) -> AsyncIterator[InspectorClient]:
    """A started client whose first inspector has greeted."""
    made = InspectorClient(list(paths), **options)  # type: ignore[arg-type]
    await made.start()
    try:
        await asyncio.wait_for(made.wait_ready(), READY_S)
        yield made
    finally:
        await made.aclose()


def job(text: str = "I am Jane Roe.", *, dlp: DlpPolicy = POLICY, app: str = "app") -> InspectJob:
    """A plain-text POST."""
    headers = ((b"content-type", b"text/plain; charset=utf-8"),)
    return InspectJob(app, dlp, "POST", "/v1/x", headers, text.encode(), b"k" * 32)


def raw_socket(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect(path)
    return connection
