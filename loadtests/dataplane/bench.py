"""`make bench-proxy`: everything up at once, interleaved rounds, a table, a picture, one JSON line."""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from loadtests.dataplane import cases, namespace, peers, product, report, rounds
from loadtests.dataplane.environments import closure, environment, subset
from loadtests.dataplane.peers import Running
from loadtests.dataplane.places import Missing, load_generator
from loadtests.dataplane.scene import Scene

QUICK_SERVERS: Final[Mapping[str, Callable[[Scene], Running]]] = {
    "direct": peers.direct, "mitmdump": peers.mitmdump, "product": product.start, "squid": peers.squid,
}  # fmt: skip


@contextmanager
def servers(
    scene: Scene, wanted: Mapping[str, Callable[[Scene], Running]]
) -> Iterator[tuple[dict[str, Running], dict[str, str]]]:
    """Everything started, by name, and why the absent ones are absent."""
    running: dict[str, Running] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        scene.start()
        stack.callback(scene.stop)
        for name, start in wanted.items():
            try:
                running[name] = start(scene)
            except Missing as missing:
                absent[name] = str(missing)
                continue
            stack.callback(running[name].stop)
        yield running, absent


def main() -> int:
    """Exit 0 when measured, 2 when it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.dataplane", description=__doc__)
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK") == "1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    args = parser.parse_args()
    load_generator()
    environment("mitmproxy", subset(closure("mitmproxy")))
    namespace.enter("loadtests.dataplane")
    with tempfile.TemporaryDirectory(prefix="egress-bench-") as folder:
        scene = Scene.prepare(Path(folder))
        table = [case for case in cases.quick(scene, args.seconds) if args.only in case.name]
        needed = {case.server for case in table}
        with servers(scene, {name: start for name, start in QUICK_SERVERS.items() if name in needed}) as (
            running,
            absent,
        ):
            results = rounds.measure(running, table, args.rounds)
        report.show(results, absent)
    return 0
