"""A child process that is started again when it ends: at once the first time, then after growing pauses."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.paths import private_dir
from proxy.supervisor.launch import PARENT_VARIABLE

# The first restart is immediate: one crash must not cost more than the start itself. A child that keeps dying gets
# at most one start every two seconds.
BACKOFF_S: Final = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
# A child that says what it lacks will lack it again in a moment, and loading costs seconds of a core.
EXPLAINED_BACKOFF_S: Final = (2.0, 4.0, 8.0, 16.0, 30.0)
STABLE_AFTER_S: Final = 10.0
TERM_GRACE_S: Final = 5.0
LOG_LIMIT_BYTES: Final = 8 << 20

_LOG = logging.getLogger(__name__)


def module_command(module: str, *arguments: str) -> list[str]:
    """Runs `module` in this interpreter, tied to the supervisor's life. -P: never import from the current folder."""
    return [sys.executable, "-P", "-m", "proxy.supervisor.launch", module, *arguments]


def child_environment(**extra: str) -> dict[str, str]:
    """Our environment without proxy variables (children dial themselves), plus `extra`."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return inherited | {PARENT_VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"} | extra


async def spawn(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
    *,
    keep_stdout: bool = False,
) -> asyncio.subprocess.Process:
    """Starts one process; its stdout and stderr are appended to `log` (started anew above 8 MiB). `keep_stdout`: its
    stdout is ours."""
    private_dir(log.parent)
    too_long = log.exists() and log.stat().st_size > LOG_LIMIT_BYTES  # noqa: ASYNC240 - local, once per start
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if too_long else os.O_APPEND), 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=None if keep_stdout else descriptor,
            stderr=descriptor,
            env=dict(environment),
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


async def stop(process: asyncio.subprocess.Process, *, grace_s: float = TERM_GRACE_S) -> None:
    """SIGTERM, then SIGKILL after `grace_s`."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), patience_s)


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next start. `now_s` is a monotonic clock."""

    failures: int = 0
    started_s: float = 0.0

    def started(self, now_s: float) -> None:
        """A start was made."""
        self.started_s = now_s

    def pause_s(self, now_s: float, *, explained: bool = False) -> float:
        """The child has ended: seconds until it may be started again. `explained`: it has said what it lacks."""
        if now_s - self.started_s >= STABLE_AFTER_S:
            self.failures = 0
        pauses = EXPLAINED_BACKOFF_S if explained else BACKOFF_S
        pause = pauses[min(self.failures, len(pauses) - 1)]
        self.failures += 1
        return pause


@dataclass(frozen=True, slots=True)
class LastWords:
    """What a process said in three lines (error, at, fix) before it ended."""

    what: str
    fix: str


def last_words(log: Path) -> LastWords | None:
    """The last three lines of that form in a log. None when there are none."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return None
    for at in range(len(lines) - 3, -1, -1):
        what, _, fix = lines[at : at + 3]
        if what.startswith("error: ") and fix.startswith("  fix: "):
            return LastWords(what.removeprefix("error: "), fix.removeprefix("  fix: "))
    return None


class Child:
    """One supervised service process (inspector, demo). `run` returns only when cancelled; it then stops it.

    `explained`: exit codes before which the process says what it lacks. `fault`: what that was, until one has lived for
    a while."""

    def __init__(
        self,
        kind: str,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        on_end: Callable[[int], Awaitable[None] | None],
        explained: Collection[int] = (),
    ) -> None:
        self.kind = kind
        self.name = name
        self.command = list(command)
        self.log = log
        self.restarts = 0
        self.fault: LastWords | None = None
        self.process: asyncio.subprocess.Process | None = None
        self._explained = explained
        self._on_end = on_end

    @property
    def pid(self) -> int | None:
        """Of the running process, or None."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    async def run(self) -> None:
        """Keeps it running."""
        loop = asyncio.get_running_loop()
        backoff = Backoff()
        try:
            while True:
                backoff.started(loop.time())
                try:
                    self.process = await spawn(self.command, self.log, child_environment())
                except OSError as fault:  # no memory or no process now is no reason to give up for good
                    _LOG.warning("%s %s does not start: %s", self.kind, self.name, fault.strerror)
                    await asyncio.sleep(backoff.pause_s(loop.time()))
                    continue
                code = await self._ended(self.process)
                self.restarts += 1
                explained = code in self._explained
                self.fault = last_words(self.log) if explained else None
                ended = self._on_end(code)
                if ended is not None:
                    await ended
                await asyncio.sleep(backoff.pause_s(loop.time(), explained=explained))
        finally:
            if self.process is not None:
                await stop(self.process)

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(process.wait(), STABLE_AFTER_S)
        self.fault = None
        return await process.wait()
