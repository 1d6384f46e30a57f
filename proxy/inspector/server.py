"""One inspector process: `python -m proxy.inspector.server --socket PATH`.

The event loop's thread only reads, writes and answers pings; two threads inspect, one of them for large bodies, so that
a long body does not hold up short prompts. A job that outlives its deadline by far, or a loop that stands still, ends
the process: the supervisor starts another, and nothing was let through.
"""

import argparse
import asyncio
import contextlib
import errno
import faulthandler
import gc
import hashlib
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from proxy.config.snapshot import DlpPolicy
from proxy.errors import REASONS, Denied
from proxy.inspector import exits
from proxy.inspector.indexes import Indexes
from proxy.inspector.wire import (
    LARGE_BYTES,
    VERSION,
    Decoder,
    Frame,
    WireError,
    encode,
    job_from,
    policy_from,
    verdict_frame,
)
from proxy.model import Inspection, InspectJob

if TYPE_CHECKING:
    from proxy.recognizers.engine import Engine

MAX_QUEUED_JOBS: Final = 512
MAX_QUEUED_BYTES: Final = 256 << 20
MAX_POLICIES: Final = 1024
TICK_S: Final = 0.5
STUCK_CPU_S: Final = 10.0
"""The loop is held up at most by one regular expression's scan of one body; ten seconds of a processor mean it will not
come back. Not of the clock: where others use the machine as well, a scan of one second takes ten."""
OVERTIME: Final = 3.0
"""A job may compute this many times its deadline before the process is ended: the client gave up long ago."""
WAITING: Final = 10.0
"""And take this many times as long without computing so much."""
STOP_GRACE_S: Final = 2.0
_STATUS_OURS: Final = 503
_FIX_SOCKET: Final = "end the process that listens there, or give another --socket in a directory of yours"

type Judge = Callable[[InspectJob], Inspection]


@dataclass(slots=True)
class _Work:
    """One job from arrival to answer. Times are monotonic seconds; `clock`: that of its thread's processor time."""

    job_id: int
    job: InspectJob
    end_s: float
    limit_s: float
    started_s: float | None = None
    clock: int = 0
    started_cpu_s: float = 0.0
    cancelled: bool = False

    def overdue(self, now_s: float) -> bool:
        """It runs far past what its client waits for."""
        if self.started_s is None or now_s - self.started_s <= self.limit_s:
            return False
        used_s = time.clock_gettime(self.clock) - self.started_cpu_s
        return used_s > self.limit_s or now_s - self.started_s > WAITING * self.limit_s


@dataclass(slots=True)
class Bench:
    """The jobs in hand and the threads that do them."""

    judge: Judge
    small: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "inspect-small"))
    large: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "inspect-large"))
    works: dict[int, asyncio.Future[list[bytes]]] = field(default_factory=dict)
    running: dict[int, _Work] = field(default_factory=dict)
    queued_bytes: int = 0

    def full(self, size: int) -> bool:
        return len(self.works) >= MAX_QUEUED_JOBS or self.queued_bytes + size > MAX_QUEUED_BYTES

    def submit(self, work: _Work, reply: Callable[[list[bytes]], None]) -> None:
        """Answers through `reply` on the event loop, unless the work is cancelled by then."""
        loop = asyncio.get_running_loop()
        token, size = id(work), len(work.job.body)
        self.queued_bytes += size
        future = loop.run_in_executor(self.large if size > LARGE_BYTES else self.small, self._do, work)
        self.works[token] = future

        def done(answer: asyncio.Future[list[bytes]]) -> None:
            self.works.pop(token, None)
            self.queued_bytes -= size
            if not answer.cancelled() and not work.cancelled:
                reply(answer.result())

        future.add_done_callback(done)

    def _do(self, work: _Work) -> list[bytes]:
        """Runs in a thread. Whatever goes wrong becomes an error frame: silence would only cost the client time."""
        if work.cancelled or time.monotonic() > work.end_s:
            return _error(work.job_id, "late")
        work.clock = time.pthread_getcpuclockid(threading.get_ident())
        work.started_cpu_s = time.clock_gettime(work.clock)
        work.started_s = time.monotonic()
        self.running[id(work)] = work
        try:
            verdict, keep = _judged(self.judge, work.job)
            return verdict_frame(work.job_id, verdict, keep=keep)
        except Exception as error:  # noqa: BLE001 - fail closed: the type is logged, never the text
            print(f"inspection failed: {type(error).__name__} {_where(error)}", file=sys.stderr)  # noqa: T201
            return _error(work.job_id, "failed")
        finally:
            self.running.pop(id(work), None)

    async def finish(self, grace_s: float) -> None:
        """Lets jobs in hand answer for a moment; the threads cannot be stopped, so the process ends without them."""
        if self.works:
            await asyncio.wait(self.works.values(), timeout=grace_s)
        self.small.shutdown(wait=False, cancel_futures=True)
        self.large.shutdown(wait=False, cancel_futures=True)

    def overdue(self, now_s: float) -> bool:
        """True when one of them is."""
        return any(work.overdue(now_s) for work in list(self.running.values()))


def _judged(judge: Judge, job: InspectJob) -> tuple[Inspection, bool]:
    """The verdict and whether it may be remembered. A denial is a verdict; one of ours (503) may pass next time."""
    try:
        verdict = judge(job)
    except Denied as denied:
        verdict = Inspection("block", code=denied.code, detail=denied.detail, where=denied.where)
    ours = verdict.code is not None and REASONS[verdict.code].status == _STATUS_OURS
    return verdict, not ours


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""


def _error(job_id: int, why: str) -> list[bytes]:
    return encode({"t": "error", "id": job_id, "why": why})


class Session(asyncio.Protocol):
    """One worker's connection: its policies and its jobs."""

    def __init__(self, bench: Bench, engine_id: str, indexes: Indexes) -> None:
        self._bench = bench
        self._indexes = indexes
        self._engine_id = engine_id
        self._decoder = Decoder()
        self._policies: OrderedDict[str, DlpPolicy] = OrderedDict()
        self._works: dict[int, _Work] = {}
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio.Transport, so asking for the type would refuse them.
        self._transport = cast("asyncio.Transport", transport)
        self._send(encode({"t": "hello", "version": VERSION, "engine": self._engine_id}))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._transport = None
        for work in self._works.values():
            work.cancelled = True
        self._works.clear()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._take(frame)
        except (WireError, KeyError, TypeError, ValueError):
            # Nothing after a broken frame can be trusted; other connections go on.
            if self._transport is not None:
                self._transport.abort()

    def _take(self, frame: Frame) -> None:
        if frame.kind == "job":
            self._take_job(frame)
        elif frame.kind == "policy":
            self._policies[frame.header["digest"]] = policy_from(frame.header["policy"])
            self._indexes.trust(dict(zip(frame.header["key_ids"], frame.attachments, strict=True)))
            if len(self._policies) > MAX_POLICIES:
                self._policies.popitem(last=False)
        elif frame.kind == "ping":
            self._send(encode({"t": "pong"}))
        elif frame.kind == "cancel":
            work = self._works.pop(frame.header["id"], None)
            if work is not None:
                work.cancelled = True
        else:
            raise ValueError("unknown frame")

    def _take_job(self, frame: Frame) -> None:
        job_id = frame.header["id"]
        dlp = self._policies.get(frame.header["policy"])
        if type(job_id) is not int or job_id in self._works:
            raise ValueError("no new job id")
        if dlp is None:
            return self._send(_error(job_id, "policy"))
        job = job_from(frame, dlp)
        if self._bench.full(len(job.body)):
            return self._send(_error(job_id, "busy"))
        deadline_s = frame.header["deadline_ms"] / 1000
        work = _Work(job_id, job, time.monotonic() + deadline_s, deadline_s * OVERTIME + 1)
        self._works[job_id] = work

        def reply(buffers: list[bytes]) -> None:
            self._works.pop(job_id, None)
            self._send(buffers)

        self._bench.submit(work, reply)
        return None

    def _send(self, buffers: list[bytes]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(buffers)


def engine_digest() -> str:
    """Names the code that judges: a worker forgets verdicts of other code."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def judge_with(engine: "Engine", indexes: Indexes) -> Judge:
    """The real inspection: the engine, and each policy's own data."""
    from proxy.customdata.detector import with_custom_data
    from proxy.inspection import inspect

    def judge(job: InspectJob) -> Inspection:
        return inspect(job, with_custom_data(engine.naming(job.dlp), job.dlp, indexes.of), now_s=time.time())

    return judge


def warm(engine: "Engine") -> None:
    """Builds what the first odd character would, half a second that no request should pay, and has the model take the
    memory of a full batch: what it takes once, it keeps."""
    from proxy.bodies.views import readings

    readings("\u200b")
    engine.detect(["".join(f"Please ask Anna Meyer{at} of Hamburg{at} to call Thomas.\n" for at in range(200))])


def bind(path: str) -> socket.socket:
    """A listening unix socket, mode 0600. Takes the place of one that nobody listens on; raises OSError otherwise."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode) or _answers(path):
            raise OSError(errno.EADDRINUSE, "the path is taken", path)
        Path(path).unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(128)
    return listener


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True


async def serve(path: str, judge: Judge, indexes: Indexes, parent: int) -> None:
    """Serves until SIGTERM or SIGINT, or until the parent is gone."""
    bench = Bench(judge)
    engine_id = engine_digest()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_unix_server(lambda: Session(bench, engine_id, indexes), sock=bind(path))
    faulthandler.register(signal.SIGPROF, chain=True)
    while not stop.is_set() and os.getppid() == parent:
        # Rearmed on every tick; the signal ends the process, and needs neither this thread nor the interpreter lock.
        signal.setitimer(signal.ITIMER_PROF, STUCK_CPU_S)
        if bench.overdue(time.monotonic()):
            print("an inspection does not end; stopping", file=sys.stderr)  # noqa: T201
            os._exit(exits.STUCK)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICK_S):
                await stop.wait()
    signal.setitimer(signal.ITIMER_PROF, 0)
    server.close()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - one local call at the very end
    await bench.finish(STOP_GRACE_S)


def main(argv: list[str] | None = None) -> int:
    """Loads and warms the engine, then listens: a connection means ready."""
    parent = os.getppid()
    parser = argparse.ArgumentParser(prog="proxy.inspector.server")
    parser.add_argument("--socket", required=True, metavar="PATH")
    parser.add_argument("--data", action="append", default=[], metavar="DIR", help="where indexes lie")
    args = parser.parse_args(argv)
    path, indexes = args.socket, Indexes([Path(directory) for directory in args.data])
    from proxy.recognizers.base import ModelUnavailable
    from proxy.recognizers.engine import Engine

    try:
        engine = Engine.load()
    except ModelUnavailable as missing:
        print(f"error: {missing.what}\n  at:  inspector\n  fix: {missing.fix}", file=sys.stderr)  # noqa: T201
        return exits.NO_MODEL
    warm(engine)
    gc.collect()
    gc.freeze()
    try:
        asyncio.run(serve(path, judge_with(engine, indexes), indexes, parent))
    except OSError as error:
        print(f"error: {error.strerror}\n  at:  {path}\n  fix: {_FIX_SOCKET}", file=sys.stderr)  # noqa: T201
        return exits.NO_SOCKET
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
