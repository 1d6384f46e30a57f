"""Back-off, logs and the life of a child process."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from proxy.paths import NotPrivate
from proxy.supervisor.child import (
    BACKOFF_S,
    EXPLAINED_BACKOFF_S,
    STABLE_AFTER_S,
    Backoff,
    Child,
    LastWords,
    child_environment,
    last_words,
    spawn,
    stop,
)
from tests.lab.product import eventually


def test_the_first_restart_is_immediate_and_later_ones_wait_longer_up_to_two_seconds() -> None:
    backoff = Backoff()
    pauses = []
    for _ in range(8):
        backoff.started(100.0)
        pauses.append(backoff.pause_s(100.1))
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[-1] == max(BACKOFF_S) <= 2.0


def test_a_child_that_ran_for_a_while_starts_over_without_a_pause() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.started(0.0)
        backoff.pause_s(0.1)
    backoff.started(10.0)
    assert backoff.pause_s(10.0 + STABLE_AFTER_S) == 0


def test_a_child_that_says_what_it_lacks_is_not_hurried() -> None:
    backoff = Backoff()
    pauses = []
    for _ in range(8):
        backoff.started(100.0)
        pauses.append(backoff.pause_s(103.0, explained=True))
    assert pauses == sorted(pauses)
    assert pauses[0] > BACKOFF_S[0]
    assert pauses[-1] == EXPLAINED_BACKOFF_S[-1]


SAID = "error: the model is gone\n  at:  inspector\n  fix: install it\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SAID, LastWords("the model is gone", "install it")),
        ("Traceback\n" + SAID + "and then some\n", LastWords("the model is gone", "install it")),
        (SAID + SAID.replace("model", "list"), LastWords("the list is gone", "install it")),
        ("", None),
        ("error: no more\n", None),
        ("error: a\n  at:  b\n  other: c\n", None),
    ],
)
def test_the_last_three_lines_of_a_log_tell_what_was_lacking(
    tmp_path: Path, text: str, words: LastWords | None
) -> None:
    log = tmp_path / "child.log"
    log.write_text(text)
    assert last_words(log) == words
    assert last_words(tmp_path / "none") is None


def test_what_a_child_lacks_is_known_when_its_end_is_told(state_dir: Path) -> None:
    program = f"import sys; sys.stderr.write({SAID!r}); sys.exit(3)"
    told: list[LastWords | None] = []

    async def run(explained: set[int]) -> None:
        ended = asyncio.Event()

        def note(_: int) -> None:
            told.append(child.fault)
            ended.set()

        log = state_dir / "log" / "child.log"
        child = Child("x", "0", [sys.executable, "-c", program], log, on_end=note, explained=explained)
        running = asyncio.ensure_future(child.run())
        await asyncio.wait_for(ended.wait(), 20)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run({3}))
    asyncio.run(run({4}))
    assert told == [LastWords("the model is gone", "install it"), None]


def test_children_dial_themselves_and_know_their_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://elsewhere:1")
    monkeypatch.setenv("no_proxy", "x")
    monkeypatch.setenv("EGRESS_RECOGNIZERS", "/own")
    environment = child_environment(EXTRA="1")
    assert not [name for name in environment if name.lower().endswith("_proxy")]
    assert environment["EGRESS_PARENT_PID"] == str(os.getpid())
    assert environment["EXTRA"] == "1"
    assert environment["EGRESS_RECOGNIZERS"] == "/own", "inspectors must find what `egress check` finds"


def test_output_goes_to_a_private_log(state_dir: Path) -> None:
    log = state_dir / "log" / "child.log"

    async def run() -> int:
        process = await spawn([sys.executable, "-c", "print('said')"], log, child_environment())
        return await process.wait()

    assert asyncio.run(run()) == 0
    assert log.read_text() == "said\n"
    assert log.stat().st_mode & 0o077 == 0


def test_a_log_directory_that_others_may_enter_is_refused(state_dir: Path) -> None:
    folder = state_dir / "log"
    folder.mkdir()
    folder.chmod(0o755)  # whatever this process's umask is
    with pytest.raises(NotPrivate, match="0700"):
        asyncio.run(spawn([sys.executable, "-c", ""], folder / "x.log", {}))


def test_a_child_that_ignores_sigterm_is_killed(state_dir: Path) -> None:
    program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    log = state_dir / "log" / "child.log"

    async def run() -> int | None:
        process = await spawn([sys.executable, "-c", program], log, child_environment())
        await asyncio.to_thread(eventually, log.read_text, "its first word")
        await stop(process, grace_s=0.1)
        return process.returncode

    assert asyncio.run(run()) == -9


def test_it_is_started_again_and_its_end_is_told(state_dir: Path) -> None:
    told: list[int] = []

    async def run() -> Child:
        third = asyncio.Event()

        def ended(code: int) -> None:
            told.append(code)
            if len(told) == 3:
                third.set()

        child = Child(
            "kind", "name", [sys.executable, "-c", "raise SystemExit(3)"], state_dir / "log" / "x", on_end=ended
        )
        task = asyncio.create_task(child.run())
        await asyncio.wait_for(third.wait(), 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return child

    child = asyncio.run(run())
    assert told[:3] == [3, 3, 3]
    assert child.restarts >= 3
    assert child.pid is None


def test_a_child_that_cannot_be_started_is_tried_again(state_dir: Path) -> None:
    program = state_dir / "program"

    async def run() -> None:
        child = Child("inspector", "0", [str(program)], state_dir / "log" / "x.log", on_end=lambda _: ended.set())
        ended = asyncio.Event()
        task = asyncio.create_task(child.run())
        await asyncio.sleep(0)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o700)
        await asyncio.wait_for(ended.wait(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
