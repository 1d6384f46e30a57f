"""`make bench-proxy`: everything up at once, interleaved rounds, a table, a picture, one JSON line.

QUICK=1: direct, bare mitmdump, the lane, everything on, squid. Nothing leaves this machine: the benchmark runs in
namespaces of its own.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from loadtests.dataplane import (
    cases,
    environments,
    extras,
    figures,
    litellm,
    namespace,
    peers,
    picture,
    processes,
    product,
    report,
    rounds,
)
from loadtests.dataplane.load import Load
from loadtests.dataplane.peers import TRANSPARENT_MARKS, Running
from loadtests.dataplane.places import LOAD_CORE, SERVED_CORE, Missing, load_generator
from loadtests.dataplane.scene import Scene

type Starter = Callable[[Scene], Running]

SERVERS: Final[Mapping[str, Starter]] = {
    "direct": peers.direct, "mitmdump": peers.mitmdump, "product": product.start, "squid": peers.squid,
    "mitmdump-transparent": peers.mitmdump_transparent, "proxy-py": peers.proxy_py, "nginx": peers.nginx,
    "haproxy": peers.haproxy, "litellm": litellm.litellm, "litellm-presidio": litellm.litellm_presidio,
}  # fmt: skip
_ENVIRONMENTS: Final = ("proxy-py", "litellm", "presidio")
_RESTARTS: Final = 20


@contextmanager
def servers(scene: Scene, wanted: Mapping[str, Starter]) -> Iterator[tuple[dict[str, Running], dict[str, str]]]:
    """Everything started, by name, and why the absent ones are absent."""
    running: dict[str, Running] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        stack.callback(scene.stop)
        scene.start()
        for name, start in wanted.items():
            print(f"starting {name}", file=sys.stderr, flush=True)
            try:
                running[name] = start(scene)
            except (Missing, RuntimeError, TimeoutError) as error:
                if name in ("direct", "mitmdump", "product"):
                    raise  # without these there is nothing to compare
                absent[name] = str(error).strip().splitlines()[0]
                continue
            stack.callback(running[name].stop)
        yield running, absent


def install(*, quick: bool) -> None:
    """Makes what a run needs, while the registries can still be reached. A peer that cannot be had is absent later."""
    load_generator()
    environments.environment("mitmproxy", environments.subset(environments.closure("mitmproxy")))
    for name in () if quick else _ENVIRONMENTS:
        try:
            environments.environment(name)
        except Missing as missing:
            print(missing, file=sys.stderr)


def measure_extras(scene: Scene, running: Mapping[str, Running], count: int, seconds: float) -> dict[str, Any]:
    """Everything that is no table row. Each stands for itself: one that fails is told and is not measured."""
    ours, kinds = running["product"], cases.loads(scene, seconds)
    found: dict[str, Any] = {}

    def run(name: str, what: Callable[[], Any]) -> None:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        try:
            found[name] = what()
        except (RuntimeError, TimeoutError, KeyError, TypeError) as error:
            print(f"not measured: {name}: {error}", file=sys.stderr)

    for name, route in (("direct", "direct"), ("mitmdump", "explicit"), ("product", "bench-all")):
        server = running[name]
        run(f"stream {name}", partial(extras.streams, scene, server, server.routes[route]))
    run("memory", partial(_memory, scene, kinds["lane-keepalive"]))
    bare = running["mitmdump"]
    run("idle_kb mitmdump", partial(extras.idle, bare, bare.route, kinds["keepalive"], 1000))
    run("download mitmdump", partial(extras.download, bare, bare.route))
    run("two_workers", partial(_two_workers, scene, ours, count, seconds))
    run("restarts", partial(extras.restarts, ours, ours.routes["bench-all"], kinds["keepalive"], _RESTARTS))
    return found


def _memory(scene: Scene, load: Load) -> dict[str, Any]:
    """On an installation of its own: where others have been busy before, memory that they freed hides the growth."""
    fresh = product.start(scene, port=9401, name="product-memory")
    try:
        route = fresh.routes["lane"]
        return {
            "download": extras.download(fresh, route),
            "idle_kb": round(extras.idle(fresh, route, load, 1000), 1),
            "idle_kb_of_10000": round(extras.idle(fresh, route, load, 10_000), 1),
        }
    finally:
        fresh.stop()


def _two_workers(scene: Scene, ours: Running, count: int, seconds: float) -> dict[str, float]:
    two = product.start(scene, workers=2, cores=f"{SERVED_CORE},{LOAD_CORE}", port=9301)
    try:
        return extras.two_workers(scene, ours, two, count, seconds)
    finally:
        two.stop()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.dataplane", description=__doc__)
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK") == "1")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of each case in each round")
    parser.add_argument("--only", default="", metavar="TEXT", help="only table rows whose name contains TEXT")
    parser.add_argument("--table-only", action="store_true", help="no streams, memory, second worker, restarts")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the comparison")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all figures of all rounds")
    return parser.parse_args()


def main() -> int:
    """Exit 0 when measured (whether the bars are met or not), 2 when it cannot be."""
    args = _arguments()
    try:
        install(quick=args.quick)
        namespace.enter("loadtests.dataplane")
        processes.end_on_sigterm()
    except Missing as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="egress-bench-") as folder:
        scene = Scene.prepare(Path(folder))
        rows = [row for row in cases.QUICK + (() if args.quick else cases.MORE) if args.only in row[0]]
        table = cases.table(rows, scene, args.seconds)
        needed = {case.server for case in table}
        with servers(scene, {name: start for name, start in SERVERS.items() if name in needed}) as (running, absent):
            _redirect(running, absent)
            results = rounds.measure(running, table, args.rounds)
            narrow = args.quick or args.only or args.table_only
            more = {} if narrow else measure_extras(scene, running, args.rounds, args.seconds)
    _tell(args, results, absent, more)
    return 0


def _redirect(running: Mapping[str, Running], absent: dict[str, str]) -> None:
    if "mitmdump-transparent" not in running:
        return
    ports = {"mitmdump-transparent": peers.MITMDUMP_TRANSPARENT_PORT, "lane-transparent": product.TRANSPARENT_PORT}
    try:
        namespace.redirect({TRANSPARENT_MARKS[name]: port for name, port in ports.items()})
    except Missing as missing:
        absent["transparent"] = str(missing)


def _tell(
    args: argparse.Namespace, results: Mapping[str, rounds.Result], absent: Mapping[str, str], more: Mapping[str, Any]
) -> None:
    print("\n".join(report.lines(results, absent, more)))
    line = figures.key_figures(results, more)
    short = figures.missed(line)
    print(f"bars missed: {', '.join(short) or 'none'}")
    if args.picture:
        args.picture.write_text(picture.draw(results, absent))
    if args.json:
        everything = {name: {"cpu_us": result.cpu_us, "runs": result.runs} for name, result in results.items()}
        args.json.write_text(
            json.dumps({"figures": line, "cases": everything, "extras": more, "absent": absent}, indent=1)
        )
    print(json.dumps(line | {"absent": sorted(absent), "bars_missed": short}))
