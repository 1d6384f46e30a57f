"""Limits hold over all workers of a machine, and a worker's death gives its connections back."""

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.snapshot import AppPolicy, DlpPolicy, Limits
from proxy.dataplane import limiter as limiter_module
from proxy.dataplane.limiter import FEW_CONNECTIONS, Limiter
from proxy.errors import Denied
from proxy.paths import Paths

T0_S = 1_795_500_000.0


def policy(name: str = "a", **limits: int) -> AppPolicy:
    dlp = DlpPolicy("balanced", (), "redact")
    at = f"apps/{name}.yaml:1:1"
    return AppPolicy(
        name, "", "", "production", None, "enforce", None, (), True, (), dlp, None, None, Limits(**limits), "", at
    )


@pytest.fixture
def workers(paths: Paths) -> Iterator[list[Limiter]]:
    made = [Limiter(paths, max_connections=100) for _ in range(3)]
    yield made
    for limiter in made:
        limiter.close()


def admitted(limiter: Limiter, app: AppPolicy, now_s: float) -> bool:
    try:
        limiter.admit_request(app, now_s)
    except Denied as denied:
        return bool(denied.code != "rate_limited")
    return True


def test_requests_count_over_all_workers(workers: list[Limiter]) -> None:
    app, other = policy(requests_per_minute=10), policy("b", requests_per_minute=10)
    assert sum(admitted(workers[n % 3], app, T0_S + n / 10) for n in range(30)) == 10
    assert admitted(workers[0], other, T0_S)
    with pytest.raises(Denied) as caught:
        workers[1].admit_request(app, T0_S + 3)
    assert caught.value.code == "rate_limited"
    assert caught.value.where == "apps/a.yaml:1:1"
    retry = caught.value.retry_after_s
    assert retry is not None
    assert not admitted(workers[2], app, T0_S + 3 + retry - 2)
    assert admitted(workers[2], app, T0_S + 3 + retry)


def test_without_a_limit_nothing_is_counted(workers: list[Limiter]) -> None:
    app = policy()
    assert all(admitted(workers[0], app, T0_S) for _ in range(1000))


def test_a_steady_pace_just_under_the_limit_is_never_refused(workers: list[Limiter]) -> None:
    app = policy(requests_per_minute=121)
    assert all(admitted(workers[n % 3], app, T0_S + n / 2) for n in range(1200))


@given(st.integers(0, 2**32), st.integers(1, 30))
def test_no_minute_sees_more_than_the_limit(seed: int, limit: int) -> None:
    """Against the exact sliding window; a request is placed within its second, hence the one second of tolerance."""
    import random
    import shutil
    import tempfile

    directory = tempfile.mkdtemp(prefix="egm-", dir="/tmp")
    made = [Limiter(Paths(Path(directory))) for _ in range(2)]
    chance, now_s, let_in = random.Random(seed), T0_S, []
    app = policy(requests_per_minute=limit)
    for _ in range(200):
        now_s += chance.choice((0.0, 0.01, 0.3, 1.0, 5.0, 30.0, 59.9, 61.0, 70.0) if chance.random() < 0.3 else (0.05,))
        if admitted(chance.choice(made), app, now_s):
            let_in.append(now_s)
            assert sum(then > now_s - 59 for then in let_in) <= limit
        else:
            assert sum(then > now_s - 61 for then in let_in) >= limit
    for limiter in made:
        limiter.close()
    shutil.rmtree(directory)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_window_is_the_sum_of_its_seconds(data: st.DataObject) -> None:
    """Whoever counted, and however often somebody looked before."""
    with tempfile.TemporaryDirectory(prefix="egm-", dir="/tmp") as directory:
        made = [Limiter(Paths(Path(directory))) for _ in range(2)]
        now_s, counted = T0_S, Counter[int]()
        steps = st.tuples(st.sampled_from((0.0, 0.01, 0.4, 1.0, 7.0, 40.0, 65.0)), st.booleans(), st.integers(0, 2))
        for n, (pause_s, counts, who) in enumerate(data.draw(st.lists(steps, max_size=60))):
            now_s += pause_s
            if n == 20:
                made.append(Limiter(Paths(Path(directory))))
            limiter = made[who % len(made)]
            index = limiter._index("a")
            if counts:
                limiter._count(index, int(now_s))
                counted[int(now_s)] += 1
            second = int(now_s)
            whole = sum(counted[n] for n in range(second - 59, second + 1))
            part = int(counted[second - 60] * (1 - (now_s - second)))
            assert [each._window(index, now_s) for each in made] == [whole + part] * len(made)
        for limiter in made:
            limiter.close()


def test_workers_of_a_version_that_did_not_count_slots_are_seen(workers: list[Limiter]) -> None:
    app = policy(requests_per_minute=2)
    workers[2].admit_request(app, T0_S)
    workers[0]._words[limiter_module._USED] = 0
    workers[1]._widen()
    assert admitted(workers[0], app, T0_S)
    assert not admitted(workers[0], app, T0_S)


def test_a_clock_set_back_neither_frees_nor_locks(workers: list[Limiter]) -> None:
    app = policy(requests_per_minute=5)
    for _ in range(5):
        workers[0].admit_request(app, T0_S)
    assert not admitted(workers[0], app, T0_S + 1)
    admitted(workers[0], app, T0_S - 30)
    assert not admitted(workers[1], app, T0_S + 2)
    assert admitted(workers[1], app, T0_S + 62)


def test_connections_count_over_all_workers(workers: list[Limiter]) -> None:
    app = policy(connections=4)
    for n in range(4):
        workers[n % 3].open_connection(app)
    with pytest.raises(Denied, match="rate_limited") as caught:
        workers[2].open_connection(app)
    assert "4 connections" in caught.value.detail
    workers[1].close_connection("a")
    workers[2].open_connection(app)
    assert workers[0].connections("a") == 4
    for _ in range(50):
        workers[0].close_connection("a")
    assert workers[0].connections("a") == 2


def test_the_last_part_of_the_room_is_for_apps_with_few_connections(workers: list[Limiter]) -> None:
    greedy = policy("greedy")
    for n in range(90):
        workers[n % 3].open_connection(greedy)
    with pytest.raises(Denied, match="overloaded"):
        workers[0].open_connection(greedy)
    modest = policy("modest")
    for _ in range(FEW_CONNECTIONS):
        workers[0].open_connection(modest)
    with pytest.raises(Denied, match="overloaded"):
        workers[0].open_connection(modest)
    third = policy("third")
    for _ in range(100 - 90 - FEW_CONNECTIONS):
        workers[0].open_connection(third)
    with pytest.raises(Denied, match="overloaded"):
        workers[0].open_connection(third)


CHILD = """
import os, signal, sys
from pathlib import Path
from proxy.dataplane.limiter import Limiter
from proxy.paths import Paths
from tests.dataplane.test_limiter import T0_S, policy

limiter = Limiter(Paths(Path(sys.argv[1])))
app = policy(connections=3, requests_per_minute=3)
for _ in range(3):
    limiter.open_connection(app)
    limiter.admit_request(app, T0_S)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_killed_worker_frees_its_connections_but_not_its_requests(paths: Paths) -> None:
    survivor = Limiter(paths)
    app = policy(connections=3, requests_per_minute=3)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(paths.state_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(Denied, match="rate_limited"):
            survivor.open_connection(app)
        os.kill(child.pid, signal.SIGKILL)
    survivor.open_connection(app)
    assert survivor.connections("a") == 1
    assert not admitted(survivor, app, T0_S + 1)
    survivor.close()


def test_slots_are_used_again_and_run_out_loudly(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    app = policy()
    first, other = Limiter(paths), Limiter(paths)
    first.open_connection(app)
    first.close()
    assert other.connections("a") == 0
    other.close()
    monkeypatch.setattr(limiter_module, "SLOTS", 2)
    made = [Limiter(paths), Limiter(paths)]
    assert made[0].connections("a") == 0
    with pytest.raises(OSError, match="more than 2 workers"):
        Limiter(paths)
    for limiter in made:
        limiter.close()


def test_many_apps(paths: Paths) -> None:
    limiter = Limiter(paths)
    other = Limiter(paths)
    for n in range(limiter_module.APPS):
        limiter.open_connection(policy(f"app-{n}"))
    assert all(other.connections(f"app-{n}") == 1 for n in range(0, limiter_module.APPS, 97))
    with pytest.raises(Denied, match="overloaded"):
        limiter.open_connection(policy("one-too-many"))
    limiter.close()
    other.close()


def test_places_of_apps_that_rest_are_given_away(paths: Paths) -> None:
    """More apps than places over the life of a state directory; who is active keeps its place and its counts."""
    now = [T0_S]
    limiter, other = (Limiter(paths, clock=lambda: now[0]) for _ in range(2))
    held, busy = policy("held", connections=1), policy("busy", requests_per_minute=1)
    other.open_connection(held)
    for n in range(limiter_module.APPS - 1):
        limiter.admit_request(policy(f"app-{n}", requests_per_minute=1), now[0])
    with pytest.raises(Denied, match="overloaded"):
        limiter.open_connection(policy("one-too-many"))
    now[0] += 70
    other.admit_request(policy("app-5", requests_per_minute=1), now[0])
    limiter.admit_request(busy, now[0])
    for n in range(limiter_module.APPS - 3):
        late = policy(f"late-{n}", connections=1)
        limiter.open_connection(late)
        with pytest.raises(Denied, match="rate_limited"):
            limiter.open_connection(late)
    with pytest.raises(Denied, match="overloaded"):
        other.open_connection(policy("still-too-many"))
    assert not admitted(limiter, policy("app-5", requests_per_minute=1), now[0] + 1)
    assert not admitted(other, busy, now[0] + 1)
    with pytest.raises(Denied, match="rate_limited"):
        limiter.open_connection(held)
    # A place that was given away is not counted in by who had it before.
    limiter.close_connection("late-0")
    other.admit_request(policy("app-0", requests_per_minute=1), now[0])
    limiter.open_connection(policy("app-0", connections=1))
    assert other.connections("app-0") == limiter.connections("late-1") == 1
    assert limiter.connections("held") == 1
    limiter.close()
    other.close()


def test_a_clock_that_was_ahead_does_not_shut_an_app_out(workers: list[Limiter]) -> None:
    """Counts of the wrong hours neither stay for ever nor pile up, in this worker or in another's region."""
    app = policy(requests_per_minute=10)
    for limiter in workers:
        while admitted(limiter, app, T0_S + 3600):
            pass
    assert sum(admitted(workers[n % 3], app, T0_S + n / 10) for n in range(30)) == 10
    assert sum(admitted(workers[n % 3], app, T0_S + 120 + n / 10) for n in range(30)) == 10
    assert sum(admitted(workers[0], app, T0_S + 120 + 60 * n) for n in range(2, 20)) == 18
