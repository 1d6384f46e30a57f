"""`egress run`: the proxy itself. This process stays light; mitmproxy and the NLP model live in its children."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.cli import CliError, Verb
from proxy.sinks import sinks

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.supervisor.app import Supervisor
    from proxy.supervisor.options import Options

DEFAULT_DIRECTORY = "allowlists"
LISTENERS = ("explicit", "transparent", "dns", "metrics")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--directory", metavar="DIR", default=DEFAULT_DIRECTORY,
        help="policy that fills an empty store (default: allowlists; `none`: the store alone)",
    )  # fmt: skip
    parser.add_argument("--store", metavar="URL", help="redis://, rediss:// or unix:// (default: an embedded store)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="default 0: one per core")
    parser.add_argument("--inspectors", type=int, default=0, metavar="N", help="default 0: one per two cores")
    for name in LISTENERS:
        parser.add_argument(f"--{name}", metavar="HOST:PORT|off", help=f"instead of `listen.{name}` of platform.yaml")
    parser.add_argument("--drain", type=float, default=30.0, metavar="SECONDS", help="grace for open exchanges")
    parser.add_argument("--demo", action="store_true", help="also start look-alike providers, and print a tour")
    parser.add_argument(
        "--addon", action="append", default=[], metavar="MODULE:NAME", help="a mitmproxy addon to run beside ours"
    )
    mirrors = sorted(sink.name for sink in sinks().values() if not sink.durable)
    parser.add_argument(
        "--audit-mirror", action="append", default=[], choices=mirrors, metavar="SINK",
        help=f"a sink that gets every audit line beside the files: {', '.join(mirrors)}",
    )  # fmt: skip
    parser.add_argument("--watch", action="store_true", help="for development: push the directory whenever it changes")


def _run(args: argparse.Namespace) -> int:
    import asyncio
    import logging

    from proxy.config.errors import ConfigErrors
    from proxy.supervisor.app import Supervisor
    from proxy.supervisor.boot import StartRefused
    from proxy.supervisor.launch import no_core_dumps
    from proxy.supervisor.sockets import CannotListen

    no_core_dumps()
    os.umask(0o077)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        return asyncio.run(Supervisor(_options(args), on_ready=_announce(args)).run())
    except ConfigErrors as errors:
        raise errors.within(Path(args.directory)) from None
    except StartRefused as refused:
        raise CliError(refused.what, refused.where, refused.fix) from None
    except CannotListen as error:
        raise CliError(
            f"cannot listen on {error.address}: {error.why}",
            error.address,
            "stop the other process, or choose another port (`make run PORT=8888 METRICS_PORT=9999`)",
        ) from None


def _options(args: argparse.Namespace) -> "Options":
    from proxy.dataplane.limiter import SLOTS
    from proxy.supervisor.options import Options

    # Limits are counted in slots, and during a hot restart old and new workers hold one each.
    most = SLOTS // 2
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    listen = {name: getattr(args, name) for name in LISTENERS if getattr(args, name)}
    for name in ("workers", "inspectors"):
        if getattr(args, name) < 0:
            raise CliError(
                f"--{name} {getattr(args, name)} is not a number of processes", f"--{name}", "give 1 or more"
            )
    if args.workers > most:
        raise CliError(
            f"--workers {args.workers} are more than one machine runs", "--workers", f"give {most} or fewer, or 0"
        )
    if not 0 <= args.drain < float("inf"):
        raise CliError(f"--drain {args.drain:g} is not a time", "--drain", "give seconds, for example 30")
    return Options(
        paths=args.paths,
        directory=None if args.directory == "none" else Path(args.directory).absolute(),
        store_url=args.store,
        workers=args.workers or min(cores, most),
        inspectors=args.inspectors or max(1, cores // 2),
        listen=listen,
        demo=args.demo,
        watch=args.watch,
        addons=tuple(args.addon),
        audit_mirrors=tuple(dict.fromkeys(args.audit_mirror)),
        drain_s=args.drain,
    )


def _announce(args: argparse.Namespace) -> "Callable[[Supervisor], None]":
    def announce(supervisor: "Supervisor") -> None:
        from proxy.cli._tour import tour

        # Where audit lines go to standard output, nothing else does.
        out = sys.stderr if "stdout" in args.audit_mirror else sys.stdout
        for name, address in supervisor.listen.items():
            print(f"{name}: {address}", file=out)
        hint = "(`egress status` tells more; Ctrl-C drains and stops)"
        print(f"state: {supervisor.paths.state_dir}  {hint}", file=out)
        if args.demo:
            for line in tour(supervisor.paths.state_dir):
                print(line, file=out)
        out.flush()

    return announce


VERB = Verb("run", "start the proxy", _configure, _run)
