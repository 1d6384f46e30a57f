"""`python -m loadtests.dataplane.profile CASE`: where a worker's time goes under one case of the benchmark.

Needs py-spy (`pip install py-spy`). Prints the share of samples in which a function was on top of the stack (self) and
anywhere on it (total), and keeps the collapsed stacks for a flame graph.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

from loadtests.dataplane import bench, cases, namespace, processes, product
from loadtests.dataplane.load import Generator
from loadtests.dataplane.places import load_generator
from loadtests.dataplane.scene import Scene
from loadtests.dataplane.steps import by_step

_HERTZ: Final = 500


def shares(stacks: str) -> tuple[Counter[str], Counter[str], int]:
    """Samples by function, on top and anywhere, of py-spy's `raw` format; and their number."""
    own, anywhere, total = Counter[str](), Counter[str](), 0
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        # "function (module/file.py:line)": the line number would split a function's samples.
        frames = [frame.rpartition(":")[0] + ")" if ":" in frame else frame for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        total += int(count)
        for frame in set(frames):
            anywhere[frame] += int(count)
    return own, anywhere, total


def main() -> int:
    """Exit 0 when profiled."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.dataplane.profile", description=__doc__)
    parser.add_argument("case", help='as in the table, for example "all keepalive"')
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--stacks", type=Path, help="keep the collapsed stacks here")
    args = parser.parse_args()
    load_generator()
    namespace.enter("loadtests.dataplane.profile")
    processes.end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="egress-bench-") as folder:
        scene = Scene.prepare(Path(folder))
        case = next(case for case in cases.table(cases.QUICK, scene, args.seconds) if case.name == args.case)
        with bench.servers(scene, {case.server: bench.SERVERS[case.server]}) as (running, _absent):
            server = running[case.server]
            if server.process is None:
                raise ValueError(f"{case.server} has no process here")
            generator = Generator(server.routes[case.route], replace(case.load, seconds=args.seconds + 1))
            kept = args.stacks or scene.folder / "stacks.txt"
            worker = processes.matching(product.WORKER, server.process.pid)[0]
            py_spy = str(Path(sys.executable).with_name("py-spy"))
            spy = subprocess.Popen(
                [py_spy, "record", "--format", "raw", "--rate", str(_HERTZ), "--duration",
                 str(int(args.seconds)), "--gil", "--pid", str(worker), "--output", str(kept)],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            before, threads_before = processes.sample(server.process.pid), processes.threads(worker)
            answer = generator.go()
            show_processes(before, processes.sample(server.process.pid), answer["requests"])
            for name, cpu_s in processes.threads(worker).items():
                print(f"{(cpu_s - threads_before.get(name, 0)) / answer['requests'] * 1e6:8.1f} us/req  thread {name}")
            error = spy.communicate(timeout=60)[1]
            if spy.returncode:
                raise RuntimeError(error.decode())
            show(kept.read_text(), args.top)
    return 0


def show_processes(before: processes.Sample, after: processes.Sample, requests: int) -> None:
    """CPU per request of each process of the tree."""
    for pid, cpu_s in after.cpu_s.items():
        name = " ".join(Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0"))
        spent_s = cpu_s - before.cpu_s.get(pid, 0.0)
        print(f"{spent_s / requests * 1e6:8.1f} us/req  {name[-90:]}")


def show(stacks: str, top: int) -> None:
    """Prints both tables. Only samples that held the GIL count: waiting threads would hide the rest."""
    print("-- by step")
    for step, share in by_step(stacks).items():
        print(f"{share:7.1%}  {step}")
    own, anywhere, total = shares(stacks)
    for title, counts in (("self", own), ("total", anywhere)):
        print(f"-- {title} ({total} samples)")
        for frame, count in counts.most_common(top):
            print(f"{count / total:7.1%}  {frame}")


if __name__ == "__main__":
    sys.exit(main())
