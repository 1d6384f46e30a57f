"""`egress connect --app A [-- COMMAND …]`: a loopback proxy that adds a fresh token to every request.

A token in `HTTPS_PROXY` dies within the hour in a running process; this forwarder holds it instead and renews it.
Only processes of the same user may use it: what they send would count as the app's.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from proxy.cli import CliError, Verb
from proxy.cli._client_env import exports, proxy_url, variables, write_trust_files
from proxy.cli._forwarder import Forwarder, TokenSource
from proxy.cli._keys import load_ca, parse_duration


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--app", required=True, help="the app that the traffic belongs to")
    parser.add_argument(
        "--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="loopback address (default: any port)"
    )
    parser.add_argument(
        "--proxy", metavar="URL", help="the proxy (default: the one that runs with this state directory)"
    )
    parser.add_argument("--ttl", default="1h", help="lifetime of each token (default: 1h)")
    parser.add_argument("--no-proxy", default="", metavar="HOSTS", help="hosts that go round the proxy (default: none)")
    parser.add_argument("--store", metavar="URL", help="store of a shared installation (default: the embedded one)")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="after `--`: run it with all variables set")


def _run(args: argparse.Namespace) -> int:
    return asyncio.run(_connect(args))


def _listen_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if host not in ("127.0.0.1", "::1", "localhost") or not port.isdigit() or int(port) > 65535:
        raise CliError(
            f"{text!r} is not a loopback address with a port", "--listen", "give 127.0.0.1:0 or another free port"
        )
    return ("127.0.0.1" if host == "localhost" else host), int(port)


def _upstream(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    try:
        port = parts.port or 8080
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port:
        raise CliError(f"{url!r} is not a proxy URL", "--proxy", "write it like http://127.0.0.1:8080")
    return parts.hostname, port


async def _connect(args: argparse.Namespace) -> int:
    host, port = _listen_address(args.listen)
    source = TokenSource(args.paths, args.store, args.app, parse_duration(args.ttl))
    await source.authorization()
    files = write_trust_files(args.paths, load_ca(args.paths), java=True)
    forwarder = Forwarder(_upstream(proxy_url(args.paths, args.proxy)), source.authorization)
    try:
        server = await asyncio.start_server(forwarder.serve, host, port, limit=1 << 16)
    except OSError as error:
        raise CliError(
            f"cannot listen on {args.listen}: {os.strerror(error.errno or 0)}", "--listen", "use port 0"
        ) from None
    async with server:
        bound_host, bound_port = server.sockets[0].getsockname()[:2]
        shown = f"[{bound_host}]" if ":" in bound_host else bound_host
        values = variables(f"http://{shown}:{bound_port}", files, language="shell", no_proxy=args.no_proxy)
        if args.command:
            return await _run_command(args.command, values)
        stopped = _on_stop()
        print(exports(values), flush=True)
        print(f"# forwarding as {args.app}; Ctrl-C ends it", file=sys.stderr, flush=True)
        await stopped.wait()
    return 0


def _on_stop() -> asyncio.Event:
    """Set by Ctrl-C or SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


async def _run_command(command: Sequence[str], values: dict[str, str]) -> int:
    """Runs it with the variables and gives back its exit code (128 + n for signal n, as shells do)."""
    own_jvm = os.environ.get("JAVA_TOOL_OPTIONS", "")
    jvm = f"{own_jvm} {values['JAVA_TOOL_OPTIONS']}".strip()
    # SOCKS and catch-all variables would lead some clients past the forwarder.
    inherited = {name: value for name, value in os.environ.items() if name.lower() != "all_proxy"}
    loop = asyncio.get_running_loop()
    # Ctrl-C reaches the command by itself; we stay until it has ended.
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    try:
        process = await asyncio.create_subprocess_exec(*command, env={**inherited, **values, "JAVA_TOOL_OPTIONS": jvm})
    except OSError as error:
        raise CliError(
            f"cannot run {command[0]}: {os.strerror(error.errno or 0).lower()}", "COMMAND", "check its name and PATH"
        ) from None
    loop.add_signal_handler(signal.SIGTERM, process.terminate)
    code = await process.wait()
    return code if code >= 0 else 128 - code


VERB = Verb("connect", "forward a program's traffic with tokens that renew themselves", _configure, _run)
