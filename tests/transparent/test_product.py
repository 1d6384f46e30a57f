"""The whole product in transparent mode: an app in its namespace, unchanged clients, `egress run` in the gateway."""

import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree, which

import pytest

from tests.lab.ca import LabCA
from tests.lab.policy import PolicyDirectory
from tests.lab.product import Product
from tests.lab.upstream import Upstream, echo
from tests.tools import need
from tests.transparent import kit
from tests.transparent.kit import APP4, NET4, Lab

WHY_NOT = kit.missing()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

LISTENER = 8181
ELSEWHERE = "203.0.113.66"  # where the app believes the host to be: never dialled


@dataclass
class Running:
    """`trust`: file of the proxy's CA."""

    lab: Lab
    product: Product
    upstream: Upstream
    trust: Path

    @property
    def url(self) -> str:
        return f"https://up.test:{self.upstream.port}"

    def app(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a client inside the app's namespace."""
        settings = [f"{name}={value}" for name, value in environment.items()]
        full = ["ip", "netns", "exec", self.lab.app, "env", *settings, *command]
        return subprocess.run(full, capture_output=True, text=True, check=False, timeout=60)

    def metric(self, name: str, **labels: str) -> float:
        """The product's metrics are read inside its own namespace."""
        return kit.inside(self.lab.gw, lambda: self.product.metric(name, **labels))

    def curl(self, url: str, *more: str) -> subprocess.CompletedProcess[str]:
        names = (f"{host}:{self.upstream.port}:{ELSEWHERE}" for host in ("up.test", "evil.test"))
        hosts = [word for name in names for word in ("--resolve", name)]
        need("curl")
        return self.app("curl", "-sS", "-i", "--max-time", "20", "--cacert", str(self.trust), *hosts, *more, url)

    def dial(self, address: str) -> socket.socket:
        connect = (address, self.upstream.port)
        return kit.inside(self.lab.app, lambda: socket.create_connection(connect, timeout=10))

    def tls(self, address: str, name: str) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.trust))
        return context.wrap_socket(self.dial(address), server_hostname=name)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with ExitStack() as stack:
        lab = stack.enter_context(kit.lab())
        directory = Path(tempfile.mkdtemp(prefix="egt-", dir="/tmp"))
        stack.callback(rmtree, directory, ignore_errors=True)
        ca = LabCA(directory)
        made = kit.inside(lab.net, lambda: Upstream(ca, "up.test", host=NET4, answer=echo()))
        upstream = stack.enter_context(made)
        policy = PolicyDirectory(directory / "allowlists", ca)
        entry = policy.entry("up", upstream, addresses=["10.77.2.0/24"])
        policy.app("boxed", entry, identify={"networks": ["10.77.1.0/24"]})
        policy.write()
        state = directory / "state"
        state.mkdir(mode=0o700)
        product = Product(state, policy.directory, extra=("--transparent", f"0.0.0.0:{LISTENER}"), transparent=True)
        stack.callback(product.kill)
        # Processes belong to the namespace of the thread that starts them.
        kit.inside(lab.gw, product.start)
        stack.callback(product.stop)
        done = lab.script("up", "-i", "gw0", "-p", str(LISTENER), "-a")
        assert done.returncode == 0, done.stderr
        yield Running(lab, product, upstream, product.paths.ca_dir / "ca.pem")


@pytest.fixture(autouse=True)
def _fresh(running: Running) -> None:
    running.upstream.forget()


def test_the_shipped_check_is_content(running: Running) -> None:
    done = running.lab.script("check", "-i", "gw0", "-p", str(LISTENER), "-a")
    assert (done.returncode, done.stderr) == (0, "")


def test_curl_reaches_an_allowed_host_at_its_vetted_address(running: Running) -> None:
    done = running.curl(f"{running.url}/x", "-d", "hello")
    assert "HTTP/1.1 200" in done.stdout, done.stdout + done.stderr + running.product.log()
    assert running.upstream.requests[0].body == b"hello"
    record = running.product.wait_for_records(1, kind="terminal")[-1]
    assert record["app"] == "boxed"


@pytest.mark.skipif(which("node") is None, reason="node is not installed")
def test_nodes_fetch_needs_no_proxy_setting(running: Running) -> None:
    hosts = Path(f"/etc/netns/{running.lab.app}/hosts")  # ip netns exec shows it to the app as /etc/hosts
    hosts.parent.mkdir(parents=True)
    try:
        hosts.write_text(f"{ELSEWHERE} up.test\n")
        program = (
            f"fetch('{running.url}/n', {{method: 'POST', body: '42 apples'}})"
            ".then(answer => answer.text()).then(console.log)"
        )
        done = running.app("node", "-e", program, NODE_EXTRA_CA_CERTS=str(running.trust))
    finally:
        rmtree(hosts.parent)
    assert "42 apples" in done.stdout, done.stderr
    assert running.upstream.requests[0].body == b"42 apples"


def test_a_host_that_is_not_listed_is_refused_at_its_client_hello(running: Running) -> None:
    done = running.curl(f"https://evil.test:{running.upstream.port}/", "-d", "secret")
    assert done.returncode != 0
    assert running.upstream.connections == []
    assert running.product.wait_for_records(1, code="host_denied")


def test_the_address_dialled_by_the_app_is_no_way_round_the_name(running: Running) -> None:
    with pytest.raises((ssl.SSLError, OSError)):
        running.tls(NET4, "evil.test")
    assert running.upstream.connections == []


def test_a_host_field_that_differs_from_the_server_name_is_refused(running: Running) -> None:
    done = running.curl(f"{running.url}/", "-H", "Host: evil.test")
    assert "target_mismatch" in done.stdout
    assert running.upstream.connections == []


@pytest.mark.parametrize(
    "data",
    [
        b"CONNECT up.test:443 HTTP/1.1\r\nHost: up.test:443\r\n\r\n",
        b"GET http://up.test/ HTTP/1.1\r\nHost: up.test\r\n\r\n",
        b"\x00\x01\x02\x03secret",
        b"SSH-2.0-client\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: up.test\r\n\r\n",
    ],
    ids=["connect", "absolute-form", "binary", "ssh", "leading-crlf"],
)
def test_what_this_listener_does_not_speak_reaches_nobody(running: Running, data: bytes) -> None:
    with running.dial(NET4) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while part := sock.recv(4096):
            answer += part
    assert b" 200 " not in answer.partition(b"\r\n")[0]
    assert running.upstream.connections == []


def test_the_listener_itself_is_no_destination(running: Running) -> None:
    def dial() -> bytes:
        with socket.create_connection(("127.0.0.1", LISTENER), timeout=10) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: up.test\r\n\r\n")
            answer = b""
            while part := sock.recv(4096):
                answer += part
            return answer

    answer = kit.inside(running.lab.gw, dial)
    assert b"self_connection" in answer
    assert running.upstream.connections == []


def test_the_app_has_no_other_way(running: Running) -> None:
    assert APP4 != NET4
    assert not running.lab.ping(NET4)
    assert running.lab.udp(NET4, 443) == b"refused"
    assert running.lab.udp(NET4, 53) is None
