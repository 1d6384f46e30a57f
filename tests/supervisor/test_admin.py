"""The admin socket: who may speak, what is answered to nonsense."""

import asyncio
import json
import socket
from pathlib import Path

import pytest

from proxy.cli import CliError
from proxy.cli._admin import ask, running
from proxy.paths import Paths
from proxy.supervisor import admin


async def _echo(request: admin.Request) -> dict[str, object]:
    return {"told": admin.text_of(request, "word")}


async def _broken(_: admin.Request) -> dict[str, object]:
    raise RuntimeError("4111 1111 1111 1111")


HANDLERS = {"echo": _echo, "broken": _broken}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"verb": "echo", "word": "x"}', {"ok": True, "told": "x"}),
        (b'{"verb": "echo"}', {"ok": False, "where": "admin socket"}),
        (b'{"verb": "echo", "word": 1}', {"ok": False}),
        (b'{"verb": "nothing"}', {"ok": False, "fix": "verbs: broken, echo"}),
        (b'{"verb": ["echo"]}', {"ok": False}),
        (b"[]", {"ok": False}),
        (b"not json", {"ok": False}),
        (b'{"verb": "broken"}', {"ok": False, "what": "broken failed: RuntimeError"}),
    ],
)
def test_each_line_has_one_answer(line: bytes, expected: dict[str, object]) -> None:
    answer = asyncio.run(admin.answer(line, HANDLERS))  # type: ignore[arg-type]
    assert expected.items() <= answer.items()


def test_an_unexpected_failure_never_shows_its_text() -> None:
    answer = asyncio.run(admin.answer(b'{"verb": "broken"}', HANDLERS))  # type: ignore[arg-type]
    assert "4111" not in json.dumps(answer)


async def _with_server(path: Path, client: "asyncio.Future[object] | object") -> object:
    server = await admin.serve(path, HANDLERS)  # type: ignore[arg-type]
    try:
        return await asyncio.to_thread(client)  # type: ignore[arg-type]
    finally:
        server.close()
        await server.wait_closed()


def test_a_round_trip_over_a_private_socket(paths: Paths) -> None:
    def client() -> dict[str, object]:
        assert paths.admin_socket.stat().st_mode & 0o777 == 0o600
        assert running(paths)
        return ask(paths, "echo", word="hello")

    answer = asyncio.run(_with_server(paths.admin_socket, client))
    assert answer == {"ok": True, "told": "hello"}


def test_a_refusal_becomes_a_three_line_error(paths: Paths) -> None:
    with pytest.raises(CliError) as caught:
        asyncio.run(_with_server(paths.admin_socket, lambda: ask(paths, "echo")))
    assert "`word`" in caught.value.what


def test_a_line_without_an_end_is_given_up(paths: Paths) -> None:
    def client() -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(20)
            peer.connect(str(paths.admin_socket))
            try:
                peer.sendall(b"x" * (admin.LINE_LIMIT_BYTES * 3))
                return peer.recv(100)
            except (ConnectionResetError, BrokenPipeError):
                return b""  # given up before all was sent

    assert asyncio.run(_with_server(paths.admin_socket, client)) == b""


def test_a_dead_predecessors_socket_is_replaced(paths: Paths) -> None:
    paths.socket_dir.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(paths.admin_socket))
    assert not running(paths)

    def client() -> dict[str, object]:
        assert running(paths)
        # Its answer comes after the look's connection was accepted: closing must not race with accepting.
        return ask(paths, "echo", word="x")

    assert asyncio.run(_with_server(paths.admin_socket, client))["ok"] is True


def test_without_a_supervisor_the_error_says_how_to_start_one(paths: Paths) -> None:
    with pytest.raises(CliError) as caught:
        ask(paths, "status")
    assert caught.value.what == "the proxy is not running"
    assert "make run" in caught.value.fix
