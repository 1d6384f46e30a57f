"""The whole product as real processes on free ports: `egress run` with a state directory of its own."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import requests

from proxy.cli._admin import ask
from proxy.keys.root import RootKey
from proxy.keys.tokens import issue
from proxy.paths import Paths
from tests.tools import need

START_S = 60.0
WAIT_S = 20.0
ROOT = Path(__file__).parents[2]


def eventually[T](look: Callable[[], T | None], what: str, deadline_s: float = WAIT_S) -> T:
    """The first true answer of `look`, asked again and again: for effects in other processes that send no signal."""
    until_s = time.monotonic() + deadline_s
    while not (found := look()):
        if time.monotonic() > until_s:
            raise TimeoutError(f"{what}: not within {deadline_s:g} s")
        time.sleep(0.02)
    return found


class Product:
    """`egress run`. A context manager: leaves after a clean drain. `extra`: further arguments of `egress run`;
    `stdout`: where its standard output goes, instead of into the log."""

    def __init__(
        self, state_dir: Path, directory: Path, *, workers: int = 1, inspectors: int = 1, drain_s: float = 5.0,
        extra: Sequence[str] = (), transparent: bool = False, environment: Mapping[str, str] | None = None,
        stdout: Path | None = None,
    ) -> None:  # fmt: skip
        self.paths = Paths(state_dir)
        self.directory = directory
        self._environment = environment or {}
        self._stdout = stdout
        self._arguments = [
            "run", "--state", str(state_dir), "--directory", str(directory), "--workers", str(workers),
            "--inspectors", str(inspectors), "--explicit", "127.0.0.1:0", "--metrics", "127.0.0.1:0",
            "--transparent", "127.0.0.1:0" if transparent else "off", "--drain", str(drain_s), *extra,
        ]  # fmt: skip
        self.prefix: Sequence[str] = ()  # a command that starts `egress run` in a place of its own
        self.process: subprocess.Popen[str] | None = None
        self.listen: dict[str, str] = {}

    # -- life

    def start(self, *, wait: bool = True) -> Self:
        """Starts it; with `wait`, returns when it is ready."""
        log = (self.paths.state_dir / "run.log").open("w")
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "proxy.cli", *self._arguments],
            stdout=self._stdout.open("w") if self._stdout else log, stderr=log, stdin=subprocess.DEVNULL, text=True,
            cwd=ROOT, env={**os.environ, **self._environment}, start_new_session=True,
        )  # fmt: skip
        log.close()
        if wait:
            try:
                eventually(self._is_up, "the proxy did not get ready", START_S)
            except BaseException:
                self.kill()
                raise
        return self

    def _is_up(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"egress run ended with {self.process.returncode}:\n{self.log()}")
        try:
            self.listen = json.loads(self.paths.status_file.read_text())["listen"]
            status = self.status()
        except Exception:
            return False
        return bool(status["ready"]) and all(worker["state"] == "serving" for worker in status["workers"])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends the signal and waits: the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(WAIT_S + 20)

    def kill(self) -> None:
        """SIGKILL, as a crash of the supervisor."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self.kill()

    def log(self) -> str:
        """What all its processes printed."""
        files = [self.paths.state_dir / "run.log", *sorted(self.paths.log_dir.glob("*.log"))]
        return "\n".join(f"== {file.name}\n{file.read_text()}" for file in files if file.exists())

    # -- asking it

    def status(self) -> dict[str, Any]:
        """As `egress status --json`, without the directory's drift."""
        return ask(self.paths, "status")

    def admin(self, verb: str, **fields: Any) -> dict[str, Any]:
        """One request over the admin socket."""
        return ask(self.paths, verb, **fields)

    def cli(self, *arguments: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """`egress ARGUMENTS --state ...` in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "proxy.cli", *arguments, "--state", str(self.paths.state_dir)],
            capture_output=True, text=True, cwd=ROOT, check=False, input=stdin,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"egress {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def page(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the metrics listener."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self.listen['metrics']}{path}", timeout=WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all series of `egress_<name>` that carry `labels`; 0 when there are none."""
        total = 0.0
        for line in self.page("/metrics")[1].splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == f"egress_{name}" and all(f'{k}="{v}"' in series for k, v in labels.items()):
                total += float(value)
        return total

    # -- audit

    def records(self, **wanted: object) -> list[dict[str, Any]]:
        """Audit records of all writers whose fields equal `wanted`, in order of time."""
        found = []
        for file in sorted(self.paths.audit_dir.glob("*/*.jsonl")):
            for line in file.read_bytes().splitlines():
                record = json.loads(line)
                if all(record.get(name) == value for name, value in wanted.items()):
                    found.append(record)
        return sorted(found, key=lambda record: (record["time"], record["writer"], record["seq"]))

    def wait_for_records(self, count: int = 1, **wanted: object) -> list[dict[str, Any]]:
        """Blocks until that many records match (the trail is written in groups, some ms later)."""
        return eventually(
            lambda: found if len(found := self.records(**wanted)) >= count else None, f"{count} record(s) {wanted}"
        )

    # -- clients

    def token(self, app: str, *, ttl_s: int = 3600, now_s: float | None = None) -> str:
        """A proxy token, signed with the installation's root key."""
        root = RootKey.load(self.paths.root_key)
        return issue(root, app, ttl_s, time.time() if now_s is None else now_s)[0]

    def proxy_url(self, app: str | None) -> str:
        """For HTTPS_PROXY; None: without a credential."""
        credential = f"{app}:{self.token(app)}@" if app else ""
        return f"http://{credential}{self.listen['explicit']}"

    @property
    def trust(self) -> ssl.SSLContext:
        """Trusts the proxy's CA and nothing else."""
        return ssl.create_default_context(cafile=str(self.paths.ca_cert))

    def httpx(self, app: str | None, **options: Any) -> httpx.Client:
        """An httpx client of the app (HTTP/1.1)."""
        return httpx.Client(proxy=self.proxy_url(app), verify=self.trust, timeout=WAIT_S, trust_env=False, **options)

    def requests(self, app: str | None) -> requests.Session:
        """A requests session of the app."""
        session = requests.Session()
        session.trust_env = False
        session.proxies = {"http": self.proxy_url(app), "https": self.proxy_url(app)}
        session.verify = str(self.paths.ca_cert)
        return session

    def curl(self, app: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
        """curl through the proxy."""
        need("curl")
        return subprocess.run(
            ["curl", "-sS", "--max-time", str(WAIT_S), "--proxy", self.proxy_url(app), "--cacert",
             str(self.paths.ca_cert), *arguments], capture_output=True, text=True, check=False,
        )  # fmt: skip

    def environment(self, app: str) -> dict[str, str]:
        """Variables with which an unchanged client process goes through the proxy."""
        trust = str(self.paths.ca_cert)
        url = self.proxy_url(app)
        return {
            "HTTPS_PROXY": url, "HTTP_PROXY": url, "https_proxy": url, "http_proxy": url, "NO_PROXY": "",
            "SSL_CERT_FILE": trust, "REQUESTS_CA_BUNDLE": trust, "NODE_EXTRA_CA_CERTS": trust,
        }  # fmt: skip

    def dial(self) -> socket.socket:
        """A bare connection to the explicit listener, for bytes that no client would send."""
        host, _, port = self.listen["explicit"].rpartition(":")
        return socket.create_connection((host, int(port)), WAIT_S)

    def connect(self, app: str | None, authority: str) -> tuple[socket.socket, bytes]:
        """CONNECT by hand: the socket and the proxy's answer head."""
        bare = self.dial()
        credential = f"Proxy-Authorization: Bearer {self.token(app)}\r\n" if app else ""
        bare.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{credential}\r\n".encode())
        return bare, read_head(bare)

    def tunnel(self, app: str, authority: str, *, sni: str | None = None, alpn: Sequence[str] = ()) -> ssl.SSLSocket:
        """CONNECT and TLS: a socket inside the tunnel, for raw HTTP."""
        bare, head = self.connect(app, authority)
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise ConnectionRefusedError(head.split(b"\r\n", 1)[0].decode("latin-1"))
        context = self.trust
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context.wrap_socket(bare, server_hostname=sni or authority.rpartition(":")[0])


def read_head(stream: socket.socket) -> bytes:
    """Bytes up to and with the blank line, one at a time (nothing behind it is taken)."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte:
            break
        head += byte
    return bytes(head)


def read_all(stream: socket.socket) -> bytes:
    """Everything until the peer closes or resets."""
    received = bytearray()
    try:
        while chunk := stream.recv(1 << 16):
            received += chunk
    except (ConnectionResetError, ssl.SSLError):
        pass
    return bytes(received)
