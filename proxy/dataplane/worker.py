"""One worker process: `python -m proxy.dataplane.worker --control FD`, started by the supervisor only.

It is told everything over the control channel: where the state is, which descriptors listen, which store. It serves
only after a first valid policy, and ends when the supervisor does.
"""

import argparse
import asyncio
import contextlib
import gc
import resource
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from proxy.dataplane.assembly import Assembly, assemble
from proxy.model import Listener
from proxy.supervisor.channel import Channel

DELTA_EVERY_S: Final = 0.25
FIRST_INSPECTOR_S: Final = 30.0
FIRST_LEASES_S: Final = 5.0
ORPHAN_DRAIN_S: Final = 1.0
"""When the supervisor is gone nobody restarts, meters or kills: open exchanges get a moment, no more."""


def eager_task_factory(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], *, eager_start: bool = True, **options: Any
) -> "asyncio.Task[Any]":
    """As asyncio.eager_task_factory, but takes `eager_start`: uvloop passes it, and Python 3.13's refuses it."""
    return asyncio.Task(coro, loop=loop, eager_start=eager_start, **options)


def log_fault(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Says what failed and where. The loop's own handler prints the text too, which may hold a client's bytes."""
    error = context.get("exception")
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    print(f"{context.get('message')}: {type(error).__name__}{place}", file=sys.stderr)  # noqa: T201 - the worker's log


class Worker:
    """The life of one worker after its start message."""

    def __init__(self, channel: Channel, start: Mapping[str, Any]) -> None:
        self._channel = channel
        self._start = start
        self._last_status: Mapping[str, Any] = {}
        self._drain_s: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serves until told to drain, or until the supervisor is gone."""
        parts = await assemble(self._start)
        listening = asyncio.create_task(self._listen(parts), name="control")
        serving = asyncio.create_task(self._serve(parts), name="serve")
        try:
            await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done() and not self._drain_s.done():
                self._drain_s.set_result(ORPHAN_DRAIN_S)
            await serving
        finally:
            listening.cancel()
            await parts.aclose()

    async def _serve(self, parts: Assembly) -> None:
        from proxy.dataplane.dns_server import DnsServer
        from proxy.dataplane.lane import serve

        if not await self._policy_or_drain(parts):
            return
        inherited = {name: socket.socket(fileno=fd) for name, fd in self._start["listeners"].items()}
        names: tuple[Listener, ...] = ("explicit", "transparent")
        server = await serve(parts.services, {name: [inherited[name]] for name in names if name in inherited})
        parts.connections = server
        dns = DnsServer(server)
        await dns.start(inherited.get("dns"), inherited.get("dns_udp"))
        gc.collect()
        gc.freeze()
        reporting = asyncio.create_task(self._report(parts), name="report")
        try:
            self._send_status(parts)
            self._channel.send({"is": "ready"})
            grace_s = await self._drain_s
            dns.close()
            await server.drain(grace_s)
        finally:
            reporting.cancel()
            self._send_delta(parts)

    async def _policy_or_drain(self, parts: Assembly) -> bool:
        """True once a policy is there (and an inspector, unless that takes too long); False when told to stop."""
        waiting = asyncio.create_task(parts.usable(FIRST_INSPECTOR_S, FIRST_LEASES_S))
        report = asyncio.create_task(self._report(parts))
        try:
            ends: set[asyncio.Future[Any]] = {waiting, self._drain_s}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
            return waiting.done()
        finally:
            waiting.cancel()
            report.cancel()

    async def _listen(self, parts: Assembly) -> None:
        async for message in self._channel.messages():
            verb = message.get("do")
            if verb == "drain":
                if not self._drain_s.done():
                    self._drain_s.set_result(float(message["grace_s"]))
            else:
                await parts.told(message)

    async def _report(self, parts: Assembly) -> None:
        while True:
            # Who has pushed a policy waits for the news that it is in force.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(parts.swapped.wait(), DELTA_EVERY_S)
            parts.swapped.clear()
            self._send_delta(parts)
            self._send_status(parts)

    def _send_status(self, parts: Assembly) -> None:
        status = parts.status()
        if status != self._last_status:
            self._last_status = status
            self._channel.send({"is": "status", **status})

    def _send_delta(self, parts: Assembly) -> None:
        delta = parts.services.counters.take_delta()
        if delta is not None:
            self._channel.send({"is": "delta", **delta})


async def serve_one(control: socket.socket) -> None:
    """Reads the start message and runs the worker."""
    asyncio.get_running_loop().set_task_factory(eager_task_factory)
    asyncio.get_running_loop().set_exception_handler(log_fault)
    channel = await Channel.over(control)
    async for start in channel.messages():
        await Worker(channel, start).run()
        break
    channel.close()


def _raise_file_limit() -> None:
    # Two descriptors per proxied request; distributions default to 1024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def main(argv: list[str]) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="proxy.dataplane.worker")
    parser.add_argument("--control", type=int, required=True)
    control = socket.socket(fileno=parser.parse_args(argv).control)
    _raise_file_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve_one(control))


if __name__ == "__main__":
    main(sys.argv[1:])
