"""`make attack`: every case, against the running product (or a baseline), in namespaces made here.

Prints a row per case and ends with one JSON line {"cases": N, "passed": M, "failed": [ids]}. Exit 0 when all pass.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests import shared_data
from tests.attack import procedures
from tests.attack.judge import Judge
from tests.attack.limit import OutOfTime, limited
from tests.attack.net import missing, sweep
from tests.attack.procedures import Shared
from tests.attack.wire import HERE, Run, absent, load, runs

MOST_BASELINE_RUNS = 24
MOST_BROKEN = 3
CASE_S = 240.0
RUN_S = 3.0


def known_cases() -> dict[str, dict[str, Any]]:
    """The catalogue: id -> row, in its order; where it is not on this machine, what is said here, by id."""
    rows = shared_data.rows("security/own/cases_public.jsonl")
    return {row["id"]: row for row in rows} if rows else {number: {"id": number} for number in sorted(said())}


def said() -> set[str]:
    """Ids of all that can be carried out, as wire cases, as a procedure, or both."""
    return {case["id"] for case in load(sorted(HERE.glob("*.yaml")))} | {one.case for one in procedures.all_of("")}


class Report:
    """Collects what went wrong per case and prints the table."""

    def __init__(self, *, verbose: bool) -> None:
        self.problems: dict[str, list[str]] = defaultdict(list)
        self.ran: Counter[str] = Counter()
        self.leaked: set[str] = set()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.verbose = verbose

    def add(self, case: str, label: str, found: Iterable[str], *, leaked: bool = False, seen: str = "") -> None:
        """One run's result."""
        found = list(found)
        self.ran[case] += 1
        self.problems[case].extend(f"{label}: {problem}" for problem in found)
        if leaked:
            self.leaked.add(case)
        if self.verbose or found:
            print(f"    {label}: {'; '.join(found)[:1500] or 'ok'}  [{seen}]", file=sys.stderr, flush=True)

    def row(self, case: str, title: str) -> None:
        """The table's line of a case that is done."""
        wrong = len({problem.partition(":")[0] for problem in self.problems[case]})
        state = "did not run" if not self.ran[case] else f"FAILED ({wrong})" if wrong else "passed"
        print(f"{case:<8} {state:<12} {self.ran[case]:>5} runs {self.seconds[case]:>6.1f} s  {title}", flush=True)


def wire_cases(shared: Shared, cases: list[dict[str, Any]], report: Report, titles: dict[str, Any]) -> None:
    """All wire cases, in one world for as long as it is sound."""
    by_id: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for case in cases:
        by_id[case["id"]].append(case)
    broken = 0
    for number, group in by_id.items():
        started_s = time.monotonic()
        try:
            shared.bury()
            planned = [(run, int(case.get("repeat", 1))) for case in group for run in runs(case)]
            missing_rows = {absent(case) for case in group} - {""}
            report.problems[number].extend(f"{file}: the development data are not here" for file in missing_rows)
            with limited(CASE_S + RUN_S * len(planned)):
                _wire_case(Judge(shared.world()), number, planned, report)
            broken = 0
        except (Exception, OutOfTime) as error:
            broken += 1
            report.add(number, "the world", [f"broke: {type(error).__name__}: {error}", *shared.renew()])
        report.seconds[number] += time.monotonic() - started_s
        report.row(number, titles.get(number, {}).get("attack") or group[0].get("title", ""))
        if broken >= MOST_BROKEN:
            print(f"the world breaks again and again; {number} is the last wire case", file=sys.stderr)
            return


def _wire_case(judge: Judge, number: str, planned: list[tuple[Run, int]], report: Report) -> None:
    before = judge.world.metrics()
    codes: Counter[str] = Counter()
    for run, times in planned:
        # A baseline has nothing left to show once it leaked, and its hangs cost minutes.
        if judge.world.baseline and (number in report.leaked or report.ran[number] >= MOST_BASELINE_RUNS):
            return
        for _ in range(times):
            try:
                verdict = judge.run(run)
            except Exception as error:
                report.add(number, run.label, [f"the run broke: {type(error).__name__}: {error}"])
                judge.world.metrics()  # raises where it was the product that broke
                continue
            codes += verdict.codes
            report.add(number, run.label, verdict.problems, leaked=verdict.leaked, seen=verdict.seen)
    found = judge.check_metrics(before, codes)
    report.problems[number].extend(f"metric: {problem}" for problem in found)


def main() -> int:
    """Exit code: 0 all passed, 1 some did not, 2 cannot run here."""
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__)
    parser.add_argument("--cases", type=Path, nargs="*", default=[], help="more files of wire cases (YAML)")
    parser.add_argument("--only", default="", help="ids or families, with commas: DST,TLS-01")
    parser.add_argument("--baseline", default="", help="mitmdump: the same against bare mitmdump")
    parser.add_argument("--skip-procedures", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="print every run")
    options = parser.parse_args()
    why = missing()
    if why:
        print(f"error: {why}\n  at:  this machine\n  fix: see tests/attack/README.md", file=sys.stderr)
        return 2
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("EGRESS_")]:
        del os.environ[name]
    sweep()
    # The namespaces and processes made here go away also when `timeout` or a CI job ends us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    only = [one for one in options.only.split(",") if one]

    def wanted(number: str) -> bool:
        return not only or any(number == one or number.startswith(f"{one}-") for one in only)

    titles = known_cases()
    files = [*sorted(HERE.glob("*.yaml")), *options.cases]
    cases = [case for case in load(files) if wanted(case["id"])]
    report = Report(verbose=options.verbose)
    shared = Shared(options.baseline)
    try:
        wire_cases(shared, cases, report, titles)
        shared.renew()
        for found in [] if options.skip_procedures else procedures.all_of(options.baseline):
            if wanted(found.case):
                procedures.carry_out(found, shared, report, titles)
    finally:
        shared.renew()
        passed = conclude(report, titles, {case["id"] for case in cases}, wanted, options.baseline)
    return 0 if passed else 1


def conclude(
    report: Report, titles: dict[str, Any], extra: set[str], wanted: Callable[[str], bool], baseline: str
) -> bool:
    """The JSON line; also of a run that was broken off, where all that did not run has failed."""
    numbers = [number for number in [*titles, *sorted(extra - set(titles))] if wanted(number)]
    failed = [number for number in numbers if report.problems[number] or not report.ran[number]]
    result: dict[str, Any] = {"cases": len(numbers), "passed": len(numbers) - len(failed), "failed": failed}
    if baseline:
        known = {
            number for number in numbers if titles.get(number, {}).get("measured_bare_mitmproxy", "").startswith("L")
        }
        result["known_leaks"] = len(known)
        result["leaks_shown"] = len(known & report.leaked)
        result["not_shown"] = sorted(known - report.leaked)
    print(json.dumps(result), flush=True)
    return not failed


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # A thread that a case left stuck in a namespace would keep the process for ever.
    os._exit(code)
