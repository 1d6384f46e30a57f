"""The runner itself: whatever a case does, every id is counted and the others get their turn. Needs no rights."""

import json
import threading
from collections.abc import Callable

import pytest

from tests import shared_data
from tests.attack import procedures
from tests.attack.__main__ import Report, conclude, known_cases, said
from tests.attack.procedures import Bench, Procedure, Shared
from tests.attack.wire import HERE, absent, load, runs


def carried_out(act: Callable[[Bench], None], report: Report, limit_s: float = 60.0) -> Shared:
    shared = Shared("")
    procedures.carry_out(Procedure("AUD-01", act, False, False, limit_s), shared, report, {})
    return shared


def concluded(report: Report, capsys: pytest.CaptureFixture[str], *ids: str, baseline: str = "") -> dict[str, object]:
    capsys.readouterr()
    titles = {number: known_cases()[number] for number in ids}
    passed = conclude(report, titles, set(), lambda _: True, baseline)
    line: dict[str, object] = json.loads(capsys.readouterr().out)
    assert passed is not bool(line["failed"])
    return line


def test_one_that_hangs_fails_and_its_world_is_thrown_away(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(verbose=False)
    left: list[str] = []

    def hang(bench: Bench) -> None:
        bench.shared.stack.callback(left.append, "the world")
        threading.Event().wait()

    carried_out(hang, report, limit_s=0.05)
    assert "OutOfTime" in report.problems["AUD-01"][0]
    assert left == ["the world"]
    line = concluded(report, capsys, "AUD-01")
    assert line == {"cases": 1, "passed": 0, "failed": ["AUD-01"]}


def test_one_that_swallows_every_exception_is_stopped_all_the_same() -> None:
    report = Report(verbose=False)

    def stubborn(_: Bench) -> None:
        while True:
            try:
                threading.Event().wait()
            except Exception:
                continue

    carried_out(stubborn, report, limit_s=0.05)
    assert "OutOfTime" in report.problems["AUD-01"][0]


def test_one_that_raises_fails_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(verbose=False)

    def broken(_: Bench) -> None:
        raise RuntimeError("no luck")

    carried_out(broken, report)
    assert "no luck" in report.problems["AUD-01"][0]
    assert concluded(report, capsys, "AUD-01")["failed"] == ["AUD-01"]


def test_a_world_that_does_not_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(verbose=False)

    def leaves_a_mess(bench: Bench) -> None:
        bench.shared.stack.callback(lambda: 1 / 0)
        raise RuntimeError("first")

    carried_out(leaves_a_mess, report)
    assert "ZeroDivisionError" in " ".join(report.problems["AUD-01"])
    assert concluded(report, capsys, "AUD-01")["failed"] == ["AUD-01"]


def test_one_that_did_not_run_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(verbose=False)
    carried_out(lambda _: None, report)
    line = concluded(report, capsys, "AUD-01", "AUD-02")
    assert line == {"cases": 2, "passed": 1, "failed": ["AUD-02"]}


@shared_data.needs("security/own/cases_public.jsonl")
def test_a_baseline_tells_the_known_leaks_that_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(verbose=False)
    report.add("DST-01", "a", ["the token reached 203.0.113.66:80"], leaked=True)
    line = concluded(report, capsys, "DST-01", "DST-02", "TLS-01", baseline="mitmdump")
    assert (line["known_leaks"], line["leaks_shown"], line["not_shown"]) == (2, 1, ["DST-02"])


def test_every_file_of_wire_cases_can_be_read() -> None:
    assert all(absent(case) or list(runs(case)) for case in load(sorted(HERE.glob("*.yaml"))))


@shared_data.needs("security/own/cases_public.jsonl")
def test_every_case_of_the_catalogue_is_said() -> None:
    assert set(known_cases()) == said()


def test_all_of_them_are_said() -> None:
    assert len(said()) == len(known_cases()) == 192
