"""`egress test`: runs the `.test.yaml` files beside the apps through the real exchange, without any network."""

import argparse
import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.cli import EXIT_CLEAN, EXIT_FINDINGS, EXIT_USAGE, CliError, Verb
from proxy.cli._out import show

if TYPE_CHECKING:
    from proxy.config.snapshot import Snapshot
    from proxy.config.testfile import PolicyCase
    from proxy.model import Inspection, InspectJob


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", nargs="?", type=Path, default=Path("allowlists"), help="default: ./allowlists")
    parser.add_argument("--app", help="only this app's tests")
    parser.add_argument("--name", help="only tests whose name holds this text")


def _run(args: argparse.Namespace) -> int:
    from proxy.cli._policy import load
    from proxy.config.compile import compile_snapshot

    content = load(args.directory, args.paths, preview=True)
    if content is None:
        return EXIT_USAGE
    snapshot = compile_snapshot(content.canonical, seq=0, preview=True)
    cases = [case for case in _cases(args) if _wanted(case, args)]
    if not cases:
        raise CliError("there is no test to run", str(args.directory), "write one, for example apps/APP.test.yaml")
    rows = _results(args, cases, snapshot)
    failed = [row for row in rows if row["problems"]]
    show(args, {"passed": len(rows) - len(failed), "failed": len(failed), "tests": rows}, _text(rows))
    return EXIT_FINDINGS if failed else EXIT_CLEAN


def _cases(args: argparse.Namespace) -> "list[PolicyCase]":
    from proxy.config.errors import ConfigErrors
    from proxy.config.testfile import parse_tests

    cases: list[PolicyCase] = []
    for path in sorted(args.directory.glob("apps/*.test.yaml")):
        try:
            cases += parse_tests(path.read_bytes(), str(path.relative_to(args.directory)))
        except ConfigErrors as errors:
            first = errors.errors[0]
            raise CliError(first.message, f"{first.file}:{first.line}:{first.col}", first.fix) from None
    return cases


def _wanted(case: "PolicyCase", args: argparse.Namespace) -> bool:
    return (args.app is None or case.app == args.app) and (args.name is None or args.name in case.name)


def _results(args: argparse.Namespace, cases: "list[PolicyCase]", snapshot: "Snapshot") -> list[dict[str, Any]]:
    from proxy.cli._digest import credential_digest
    from proxy.pricing import PriceBook
    from proxy.rehearsal import World, mismatches, rehearse, unknown_app

    with asyncio.Runner() as runner:
        inspect, close = _inspector(args, runner)
        world = World(snapshot, inspect, PriceBook.of(snapshot.platform), credential_digest(args.paths))
        rows = []
        for case in cases:
            begun_s = time.perf_counter()
            if unknown_app(case, snapshot):
                problems = [f"there is no app {case.app!r}"]
            else:
                problems = mismatches(rehearse(case, world, time.time()), case.expect)
            took_ms = round((time.perf_counter() - begun_s) * 1000, 1)
            rows.append({"app": case.app, "name": case.name, "at": case.at, "ms": took_ms, "problems": problems})
        close()
    return rows


def _inspector(
    args: argparse.Namespace, runner: asyncio.Runner
) -> "tuple[Callable[[InspectJob], Inspection], Callable[[], None]]":
    """The running proxy's inspector, which is warm; without one, an engine of our own."""
    socket = args.paths.inspector_socket(0)
    if not Path(socket).exists():
        return _own_engine(args), lambda: None
    from proxy.cli._indexes import index_keys
    from proxy.inspector.client import InspectorClient

    client = InspectorClient(str(socket), deadline_s=10.0, index_keys=index_keys(args.paths))
    try:
        runner.run(_connected(client))
    except TimeoutError:
        runner.run(client.aclose())
        return _own_engine(args), lambda: None
    return lambda job: runner.run(client.inspect(job)), lambda: runner.run(client.aclose())


async def _connected(client: Any) -> None:
    await client.start()
    async with asyncio.timeout(1.0):
        await client.wait_ready()


def _own_engine(args: argparse.Namespace) -> "Callable[[InspectJob], Inspection]":
    from proxy.cli._indexes import detectors
    from proxy.inspection import inspect
    from proxy.recognizers.engine import Engine

    detector_of = detectors(Engine.load(), args.paths, args.directory)
    return lambda job: inspect(job, detector_of(job.dlp), now_s=time.time())


def _text(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        lines.append(f"{'FAIL' if row['problems'] else 'ok  '}  {row['app']}: {row['name']}  ({row['ms']} ms)")
        lines += [f"        {problem}" for problem in row["problems"]]
        if row["problems"]:
            lines.append(f"        at {row['at']}")
    passed = sum(not row["problems"] for row in rows)
    return "\n".join([*lines, f"{passed} passed, {len(rows) - passed} failed"])


VERB = Verb("test", "run the policy tests beside the apps", _configure, _run)
