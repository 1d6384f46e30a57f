"""`egress demo`: OpenAI and Anthropic look-alikes on loopback, to try the proxy without the internet."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from proxy.cli import CliError, Verb

if TYPE_CHECKING:
    from proxy.demo.server import Running

_DEFAULT_PORT = 9443


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=_DEFAULT_PORT, help="port; 0 takes a free one (default: 9443)")


def _run(args: argparse.Namespace) -> int:
    import asyncio
    import contextlib
    import signal

    from proxy.demo.server import run

    def announce(running: "Running") -> None:
        facts = {"url": f"https://{args.host}:{running.port}", "ca": str(running.ca), "port": running.port}
        text = f"demo providers listen on {facts['url']} (trust {facts['ca']}); stop with Ctrl-C"
        sys.stdout.write((json.dumps(facts) if args.json else text) + "\n")
        sys.stdout.flush()

    async def serve() -> None:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await run(args.state, args.host, args.port, announce)

    try:
        asyncio.run(serve())
    except OSError as error:
        raise CliError(
            f"the demo cannot listen: {error.strerror or error}",
            f"--host {args.host} --port {args.port}",
            "stop what listens there, or choose another port with --port",
        ) from error
    return 0


VERB = Verb("demo", "serve OpenAI and Anthropic look-alikes on loopback", _configure, _run)
