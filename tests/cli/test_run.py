"""Options of `egress run` that cannot work are refused before anything starts."""

import argparse
import os
from pathlib import Path

import pytest

from proxy.cli import CliError
from proxy.cli import run as run_verb
from proxy.dataplane.limiter import SLOTS
from proxy.paths import Paths
from proxy.supervisor.options import Options


def options(*words: str) -> Options:
    parser = argparse.ArgumentParser()
    run_verb.VERB.configure(parser)
    args = parser.parse_args(words)
    args.paths = Paths(Path("/nonexistent"))
    return run_verb._options(args)


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (("--workers", "-1"), "--workers"),
        (("--workers", str(SLOTS // 2 + 1)), "--workers"),
        (("--inspectors", "-1"), "--inspectors"),
        (("--drain", "-1"), "--drain"),
        (("--drain", "nan"), "--drain"),
        (("--drain", "inf"), "--drain"),
    ],
)
def test_what_cannot_work_is_refused(words: tuple[str, ...], where: str) -> None:
    with pytest.raises(CliError) as refused:
        options(*words)
    assert refused.value.where == where


def test_a_machine_with_more_cores_than_slots_still_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(192)), raising=False)
    assert options().workers == SLOTS // 2
    assert options("--workers", "3", "--drain", "0").workers == 3
