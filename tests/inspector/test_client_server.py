"""Worker and inspector over real sockets: verdicts, many clients, faults. Every fault ends in a denial, in time."""

import asyncio
import os
import signal
import socket
import stat
import struct
import time
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config.snapshot import DlpPolicy, DlpRule
from proxy.errors import Denied
from proxy.inspector.client import InspectorClient
from proxy.inspector.link import HUNG_AFTER_S
from proxy.inspector.wire import Decoder, encode, job_fields, policy_fields
from tests.inspector.conftest import POLICY, Process, client, job, raw_socket

SLACK_S = 1.0
"""What a loaded machine may add to a deadline of the product."""


def test_verdict_memo_and_restore(inspector: Process) -> None:
    async def run() -> None:
        async with client(inspector.path) as asked:
            asking = job("I am Jane Roe, mail jane@example.com, card 4111 1111 1111 1111.")
            assert asked.cached(asking) is None
            verdict = await asked.inspect(asking)
            assert verdict.action == "transform"
            assert verdict.body is not None
            assert b"Jane" not in verdict.body
            assert b"4111" not in verdict.body
            assert set(verdict.restore.values()) == {"Jane Roe", "jane@example.com"}
            assert asked.cached(replace(asking)) is verdict
            assert asked.cached(replace(asking, app="other")) is None

    asyncio.run(run())


def test_socket_is_private(inspector: Process) -> None:
    assert stat.S_IMODE(Path(inspector.path).stat().st_mode) == 0o600


def test_a_denial_of_the_inspection_is_a_verdict(inspector: Process) -> None:
    async def run() -> None:
        async with client(inspector.path) as asked:
            coded = replace(job(), headers=((b"content-encoding", b"rot13"),))
            verdict = await asked.inspect(coded)
            assert (verdict.action, verdict.code) == ("block", "encoding")

    asyncio.run(run())


def test_many_clients_get_their_own_answers(inspector: Process) -> None:
    async def one(number: int) -> None:
        async with client(inspector.path, deadline_s=30.0) as asked:
            jobs = [job(f"client{number} job{index}: mail user{index}@example.com now") for index in range(8)]
            verdicts = await asyncio.gather(*(asked.inspect(each) for each in jobs))
            for index, verdict in enumerate(verdicts):
                assert verdict.body is not None
                assert verdict.body.startswith(b"client%d job%d: " % (number, index))
                assert list(verdict.restore.values()) == [f"user{index}@example.com"]

    async def run() -> None:
        await asyncio.gather(*(one(number) for number in range(12)))

    asyncio.run(run())


def test_a_policy_is_sent_once_and_again_when_the_inspector_lacks_it(inspector: Process) -> None:
    """After a reconnect the inspector knows no policy; one it was never sent is asked for."""

    async def run() -> None:
        async with client(inspector.path) as asked:
            await asked.inspect(job("one"))
            link = asked._links[0]
            other = DlpPolicy("strict", (DlpRule(frozenset({"PERSON"}), "block"),), "allow")
            link._policies.add(asked._policies.of(other))
            verdict = await asked.inspect(job("I am Jane Roe of Paris and my friend is John Smith.", dlp=other))
            assert verdict.code == "pii"

    asyncio.run(run())


def test_a_long_body_does_not_hold_up_a_short_prompt(inspector: Process) -> None:
    async def run() -> None:
        async with client(inspector.path, deadline_s=30.0) as asked:
            text = "".join(f"On day {n} John Smith met Jane Roe, user{n}@example.com, in Paris. " for n in range(1500))
            long = asyncio.create_task(asked.inspect(job(text)))
            await asyncio.sleep(0)
            for number in range(5):
                await asked.inspect(job(f"short {number}"))
            assert not long.done()
            verdict = await long
            assert sum(finding.entity == "EMAIL_ADDRESS" for finding in verdict.findings) == 1500

    asyncio.run(run())


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 64,
        b"\xff" * 64,
        struct.pack(">II", 2, 0) + b"{}",
        b"".join(encode({"t": "job", "id": 1})),
        b"".join(encode({"t": "policy", "digest": "x", "policy": {"profile": 1}})),
        b"".join(encode({"t": "dance"})),
        b"".join(encode({"t": "job", "id": 1, "policy": {}, "deadline_ms": 1}, b"", b"")),
    ],
)
def test_garbage_ends_that_connection_and_no_other(inspector: Process, garbage: bytes) -> None:
    async def run() -> None:
        async with client(inspector.path) as asked:
            with raw_socket(inspector.path) as bad:
                bad.sendall(garbage)
                _read_to_end(bad)
            assert (await asked.inspect(job(garbage.hex()))).action == "allow"

    asyncio.run(run())
    assert inspector.popen.poll() is None


def _read_to_end(connection: socket.socket) -> None:
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass


def test_an_unknown_policy_and_a_late_job_are_named(inspector: Process) -> None:
    with raw_socket(inspector.path) as connection:
        facts = job_fields(job())
        wanted = {"t": "job", "deadline_ms": 2000, **facts}
        parts = [
            *encode({**wanted, "id": 1, "policy": "unknown"}, b"k" * 32, b"x"),
            *encode({"t": "policy", "digest": "p", "policy": policy_fields(POLICY), "key_ids": []}),
            *encode({**wanted, "id": 2, "policy": "p", "deadline_ms": -1}, b"k" * 32, b"x"),
            *encode({**wanted, "id": 3, "policy": "p"}, b"k" * 32, b"x"),
        ]
        connection.sendall(b"".join(parts))
        decoder = Decoder()
        answers: dict[int, str] = {}
        while len(answers) < 3:
            for frame in decoder.feed(connection.recv(65536)):
                if frame.kind in {"done", "error"}:
                    answers[frame.header["id"]] = frame.header.get("why", "done")
        assert answers == {1: "policy", 2: "late", 3: "done"}


def test_a_huge_body_is_inspected_whole(inspector: Process) -> None:
    async def run() -> None:
        async with client(inspector.path, deadline_s=30.0) as asked:
            text = "0123456789abcdef " * 60_000 + "card 4111 1111 1111 1111"
            verdict = await asked.inspect(job(text))
            assert verdict.body is not None
            assert b"4111 1111" not in verdict.body[-100:]

    asyncio.run(run())


def test_the_deadline_ends_in_a_denial(inspector: Process) -> None:
    async def run() -> None:
        async with client(inspector.path, deadline_s=-1.0) as asked:
            with pytest.raises(Denied) as refused:
                await asked.inspect(job("unseen text for a deadline of nothing"))
            assert refused.value.code == "inspector_unavailable"

    asyncio.run(run())


def test_too_many_at_once_are_refused_at_once(inspector: Process) -> None:
    async def run() -> None:
        async with client(inspector.path, max_jobs=2, deadline_s=30.0) as asked:
            results = await asyncio.gather(
                *(asked.inspect(job(f"crowd {number}")) for number in range(10)), return_exceptions=True
            )
            denied = [item for item in results if isinstance(item, Denied)]
            assert len(denied) == 8
            assert {item.code for item in denied} == {"overloaded"}
            assert (await asked.inspect(job("afterwards"))).action == "allow"

    asyncio.run(run())


def test_too_many_bytes_at_once_are_refused(inspector: Process) -> None:
    async def run() -> None:
        async with client(inspector.path, max_job_bytes=1000) as asked:
            with pytest.raises(Denied) as refused:
                await asked.inspect(job("x" * 1001))
            assert refused.value.code == "overloaded"

    asyncio.run(run())


def test_nobody_listens(socket_dir: object) -> None:
    async def run() -> None:
        asked = InspectorClient(f"{socket_dir}/nobody.sock", deadline_s=0.2)
        await asked.start()
        begun = time.monotonic()
        with pytest.raises(Denied) as refused:
            await asked.inspect(job())
        assert refused.value.code == "inspector_unavailable"
        assert time.monotonic() - begun < 0.2 + SLACK_S
        assert not asked.ready
        await asked.aclose()

    asyncio.run(run())


def test_a_stopped_process_costs_two_seconds_at_most(victim: Process) -> None:
    process = victim

    async def run() -> None:
        async with client(process.path) as asked:
            assert (await asked.inspect(job("before"))).action == "allow"
            process.signal(signal.SIGSTOP)
            begun = time.monotonic()
            with pytest.raises(Denied) as refused:
                await asked.inspect(job("while stopped"))
            assert refused.value.reason.status == 503
            assert time.monotonic() - begun < 2.0 + SLACK_S
            process.signal(signal.SIGCONT)
            await asyncio.wait_for(asked.wait_ready(), 10)
            assert (await asked.inspect(job("after"))).action == "allow"

    asyncio.run(run())


async def _all_ready(asked: InspectorClient) -> None:
    while not all(link.ready for link in asked._links):  # noqa: ASYNC110 - the client tells of the first one only
        await asyncio.sleep(0.01)


def test_a_hung_inspector_s_jobs_go_to_another(inspector: Process, victim: Process) -> None:
    process = victim

    async def run() -> None:
        async with client(process.path, inspector.path, deadline_s=HUNG_AFTER_S + 10) as asked:
            await asyncio.wait_for(_all_ready(asked), 10)
            process.signal(signal.SIGSTOP)
            jobs = [job(f"mail spread{number}@example.com") for number in range(8)]
            verdicts = await asyncio.gather(*(asked.inspect(each) for each in jobs))
            assert [list(verdict.restore.values()) for verdict in verdicts] == [
                [f"spread{number}@example.com"] for number in range(8)
            ]

    try:
        asyncio.run(run())
    finally:
        process.signal(signal.SIGCONT)


def test_a_killed_process_and_its_successor(victim: Process) -> None:
    process = victim

    async def run() -> None:
        async with client(process.path, deadline_s=60.0) as asked:
            assert (await asked.inspect(job("before"))).action == "allow"
            text = "".join(f"On day {n} John Smith met Jane Roe in Paris. " for n in range(1000))
            working = asyncio.create_task(asked.inspect(job(text)))
            await asyncio.sleep(0.1)
            process.signal(signal.SIGKILL)
            await asyncio.to_thread(process.start_again)
            verdict = await working
            assert verdict.action == "transform"

    asyncio.run(run())
    assert process.popen.poll() is None


def test_sigterm_is_a_clean_end(victim: Process) -> None:
    process = victim
    process.signal(signal.SIGTERM)
    assert process.popen.wait(10) == 0
    assert not Path(process.path).exists()
    assert process.popen.stderr is not None
    assert process.popen.stderr.read() == b""


def test_a_taken_path_is_not_taken_over(inspector: Process) -> None:
    second = Process(inspector.path)
    assert second.popen.wait(60) not in {0, None}
    second.end()
    with raw_socket(inspector.path):
        pass


def test_it_dies_with_its_parent(socket_dir: object) -> None:
    """The parent is a shell that is killed; nobody is left to end the inspector but itself."""
    import subprocess
    import sys

    path = f"{socket_dir}/orphan.sock"
    script = f"{sys.executable} -m proxy.inspector.server --socket {path} & echo $!; wait"
    parent = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    orphan = Process.__new__(Process)
    orphan.path, orphan.popen = path, parent
    orphan.wait_ready()
    parent.kill()
    parent.wait(10)
    parent.stdout.close()
    handle = os.pidfd_open(pid)
    try:
        import select

        assert select.select([handle], [], [], 10)[0], "the inspector outlived its parent"
    finally:
        os.close(handle)
