"""The wire cases that need no namespaces, on loopback: every variant through the running product, explicit modes only.

`make attack` runs all of them, in namespaces, with the packet log and the resolver.
"""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.attack.judge import Judge
from tests.attack.wire import HERE, Run, absent, load, runs
from tests.attack.world import LoopWorld

MODES = {"explicit", "connect", "connect-plain", "h2"}
# Each takes a second and more by its nature; `make attack` runs them.
SLOW = {"RES-01", "TUN-08", "TUN-12", "TLS-06", "DLP-14"}


ABSENT: dict[str, str] = {}


def _runs() -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for case in load(sorted(HERE.glob("*.yaml"))):
        if "net" not in case.get("needs", ()) and case["id"] not in SLOW:
            chosen = [run for run in runs(case) if run.mode in MODES and "net" not in run.spec.get("needs", ())]
            found.setdefault(case["id"], []).extend(chosen)
            if absent(case):
                ABSENT[case["id"]] = absent(case)
    return {number: chosen for number, chosen in found.items() if chosen or number in ABSENT}


RUNS = _runs()


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with LoopWorld() as world:
        yield Judge(world)


@pytest.mark.parametrize("number", RUNS)
def test_case(judge: Judge, number: str) -> None:
    before = judge.world.metrics()
    codes: Counter[str] = Counter()
    problems = []
    for run in RUNS[number]:
        verdict = judge.run(run)
        codes += verdict.codes
        problems += [f"{run.label}: {problem} [{verdict.seen}]" for problem in verdict.problems]
    problems += judge.check_metrics(before, codes)
    assert not problems, "\n".join(problems)
    if number in ABSENT:
        pytest.skip(f"passed but for the rows of the development data {ABSENT[number]}, which are not on this machine")
