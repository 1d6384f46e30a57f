"""`egress connect`: fresh credentials on every request, for this user only."""

import asyncio
import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy.cli._forwarder import Forwarder, TokenSource, rewrite_head, same_user
from proxy.keys.tokens import verify
from proxy.paths import Paths
from tests.cli._trust import Run, runner, start_once
from tests.tools import need

ROOT = Path(__file__).parents[2]


class FakeProxy:
    """Records request heads and answers: CONNECT with 200 and an echo, others with a small body."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if head.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            while chunk := await reader.read(65536):
                writer.write(chunk)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()


def _with_forwarder(steps: Callable[[FakeProxy, int], Awaitable[None]], *, authorization: bytes = b"Basic x") -> None:
    async def go() -> None:
        fake = FakeProxy()
        upstream = await asyncio.start_server(fake.serve, "127.0.0.1", 0)

        async def credential() -> bytes:
            return authorization

        forwarder = Forwarder(upstream.sockets[0].getsockname()[:2], credential)
        server = await asyncio.start_server(forwarder.serve, "127.0.0.1", 0)
        async with upstream, server, asyncio.timeout(20):
            await steps(fake, server.sockets[0].getsockname()[1])

    asyncio.run(go())


HEADS = [
    (
        b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n",
        b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\nProxy-Authorization: NEW\r\n\r\n",
    ),
    (
        b"CONNECT a:443 HTTP/1.1\r\nproxy-AUTHORIZATION : old\r\n\tfolded\r\nProxy-Connection: keep-alive\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: NEW\r\n\r\n",
    ),
    (
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nProxy-Connection: keep-alive\r\nX: 1\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\nX: 1\r\nConnection: close\r\nProxy-Authorization: NEW\r\n\r\n",
    ),
    (
        b"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        (
            b"GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Proxy-Authorization: NEW\r\n\r\n"
        ),
    ),
    (
        b"GET http://a/ HTTP/1.0\r\n\r\n",
        b"GET http://a/ HTTP/1.0\r\nConnection: close\r\nProxy-Authorization: NEW\r\n\r\n",
    ),
]


@pytest.mark.parametrize(("head", "expected"), HEADS)
def test_rewrite_head(head: bytes, expected: bytes) -> None:
    """Ours in place of any other credential; a plain request owns its connection."""
    assert rewrite_head(head, b"NEW") == expected


def test_a_tunnel_copies_both_ways() -> None:
    """Bytes sent with the head included, and a half-close ends it."""

    async def steps(fake: FakeProxy, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\nearly")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert await reader.readexactly(5) == b"early"
        payload = os.urandom(300_000)
        writer.write(payload)
        assert await reader.readexactly(len(payload)) == payload
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        assert b"Proxy-Authorization: Basic x\r\n" in fake.heads[0]

    _with_forwarder(steps)


def test_real_clients() -> None:
    """curl, plain and tunnelled, keeps its manners through it."""
    need("curl")

    async def steps(fake: FakeProxy, port: int) -> None:
        command = ["curl", "-sS", "-x", f"http://127.0.0.1:{port}", "http://api.test/a", "http://api.test/b"]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        out, _ = await process.communicate()
        assert out == b"okok"
        assert [head.count(b"Proxy-Authorization: Basic x") for head in fake.heads] == [1, 1]

    _with_forwarder(steps)


def test_a_dead_proxy_is_explained() -> None:
    """In the reason phrase, since clients drop the body of a failed CONNECT."""

    async def go() -> None:
        async def credential() -> bytes:
            return b"x"

        server = await asyncio.start_server(Forwarder(("127.0.0.1", 1), credential).serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"CONNECT a:443 HTTP/1.1\r\n\r\n")
            answer = await reader.read()
            writer.close()
        assert answer.startswith(b"HTTP/1.1 502 egress connect: the egress proxy at 127.0.0.1:1 does not answer")

    asyncio.run(go())


def test_without_a_token_nothing_is_sent() -> None:
    """Fail closed, and no reason that could hold data."""

    async def go() -> None:
        fake = FakeProxy()
        upstream = await asyncio.start_server(fake.serve, "127.0.0.1", 0)

        async def credential() -> bytes:
            raise RuntimeError("secret")

        server = await asyncio.start_server(
            Forwarder(upstream.sockets[0].getsockname()[:2], credential).serve, "127.0.0.1", 0
        )
        async with upstream, server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"CONNECT a:443 HTTP/1.1\r\n\r\n")
            answer = await reader.read()
            writer.close()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"secret" not in answer
        assert fake.heads == []

    asyncio.run(go())


def test_other_users_are_refused() -> None:
    """The kernel says whose socket it is; a socket that nobody has is nobody's."""
    assert not same_user(("127.0.0.1", 1), ("127.0.0.1", 2))
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    need("curl")

    async def steps(fake: FakeProxy, port: int) -> None:
        process = await asyncio.create_subprocess_exec(
            "curl", "-sS", "-x", f"http://127.0.0.1:{port}", "http://api.test/", user=65534, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert b"only processes of the user" in out
        assert fake.heads == []

    _with_forwarder(steps)


@pytest.mark.parametrize(
    ("family", "listen", "target"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "127.0.0.1", "::ffff:127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
    ],
)
def test_this_user_is_known_over_every_kind_of_socket(family: int, listen: str, target: str) -> None:
    """Dual-stack sockets too, as every JVM opens them."""
    listening = socket.AF_INET6 if ":" in listen else socket.AF_INET
    with socket.create_server((listen, 0), family=listening) as server, socket.socket(family) as client:
        client.connect((target, server.getsockname()[1]))
        accepted, peer = server.accept()
        with accepted:
            assert same_user(peer, accepted.getsockname())
            assert not same_user((peer[0], peer[1] ^ 1), accepted.getsockname())


@pytest.mark.parametrize("head", [b"", b"GET", b"x" * 100_000])
def test_junk_ends_the_connection(head: bytes) -> None:
    """No head within bounds, no upstream connection."""

    async def steps(fake: FakeProxy, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        writer.write_eof()
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        writer.close()
        assert fake.heads == []

    _with_forwarder(steps)


def test_tokens_are_renewed(paths: Paths) -> None:
    """Kept for two thirds of their life; renewed after that, and when the clock was set back; good without a store."""
    root = start_once(paths)
    now_s = [1_800_000_000.0]

    async def go() -> list[bytes]:
        source = TokenSource(paths, None, "a", 3600, clock=lambda: now_s[0])
        values = []
        for step_s in (0, 2399, 1, 2399, -5000):
            now_s[0] += step_s
            values.append(await source.authorization())
        return values

    first, same, second, also_second, third = asyncio.run(go())
    assert first == same
    assert second == also_second
    assert len({first, second, third}) == 3

    user, _, token = base64.b64decode(first[6:]).decode().partition(":")
    assert (user, verify(root, token, time.time()).app) == ("a", "a")


def _egress(paths: Paths, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "proxy.cli", "--state", str(paths.state_dir), "connect", *arguments]


def test_a_command_runs_with_everything_set(paths: Paths) -> None:
    """Its exit code comes back, its requests carry the app's token, and inherited detours are gone."""
    root = start_once(paths)

    async def go() -> None:
        fake = FakeProxy()
        upstream = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
        script = 'curl -sS http://api.test/; test -z "$ALL_PROXY$NO_PROXY" && test -r "$SSL_CERT_FILE" && exit 7'
        process = await asyncio.create_subprocess_exec(
            *_egress(paths, "--app", "a", "--proxy", url, "--", "sh", "-c", script),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            env={**os.environ, "ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "api.test"},
        )
        async with upstream, asyncio.timeout(30):
            out, _ = await process.communicate()
        assert (process.returncode, out) == (7, b"ok")
        field = next(line for line in fake.heads[0].split(b"\r\n") if line.startswith(b"Proxy-Authorization: Basic "))
        token = base64.b64decode(field.partition(b"Basic ")[2]).decode().partition(":")[2]

        assert verify(root, token, time.time()).app == "a"

    asyncio.run(go())


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143)])
def test_exit_codes(paths: Paths, script: str, code: int) -> None:
    """As a shell reports them."""
    start_once(paths)
    done = subprocess.run(_egress(paths, "--app", "a", "--", "sh", "-c", script), cwd=ROOT, check=False, timeout=30)
    assert done.returncode == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_a_command_it_stays_until_told(paths: Paths, number: int) -> None:
    """Prints the variables, serves, and ends cleanly."""
    start_once(paths)
    with subprocess.Popen(
        _egress(paths, "--app", "a"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("export HTTPS_PROXY=http://127.0.0.1:")
        assert "forwarding as a" in process.stderr.readline()
        process.send_signal(number)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--listen", "0.0.0.0:0"), "not a loopback address"),
        (("--listen", "127.0.0.1"), "not a loopback address"),
        (("--listen", "127.0.0.1:99999"), "not a loopback address"),
        (("--proxy", "https://x:1"), "not a proxy URL"),
        (("--proxy", "http://:1"), "not a proxy URL"),
        (("--proxy", "http://x:0x1"), "not a proxy URL"),
        (("--ttl", "1y"), "not a duration"),
        (("--", "no-such-command-here"), "cannot run"),
    ],
)
def test_bad_input(paths: Paths, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], what: str) -> None:
    """Three lines, exit 2."""
    start_once(paths)
    run: Run = runner(paths, capsys)
    outcome = run("connect", "--app", "a", *arguments)
    assert outcome.code == 2
    assert what in outcome.err


def test_no_root_key(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """Says so before anything listens."""
    outcome = runner(paths, capsys)("connect", "--app", "a", "--", "true")
    assert outcome.code == 2
    assert "root key" in outcome.err
