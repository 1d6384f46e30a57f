"""DNS of an app in its namespace: answered here for what it may call, and a way out for nothing."""

import contextlib
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import pytest

from proxy.dns import synthetic_address
from tests.lab.ca import LabCA
from tests.lab.policy import PolicyDirectory
from tests.lab.product import Product, eventually
from tests.lab.upstream import Upstream, echo
from tests.net.dns_kit import Answer, query, read
from tests.tools import need
from tests.transparent import kit
from tests.transparent.kit import GW4, NET4, Lab
from tests.transparent.test_product import Running

WHY_NOT = kit.missing()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

LISTENER, DNS = 8181, 5454
ETH_P_IP = 0x0800
NXDOMAIN, NOERROR = 3, 0
SECRET = "4a6f686e20446f652c203132332d34352d36373839"


@dataclass
class Asked:
    """The running product with its rules; `ask` sends one query from the app over UDP or TCP."""

    running: Running

    def ask(self, name: str, kind: int = 1, *, server: str = NET4, tcp: bool = False) -> Answer:
        raw = query(name, kind, query_id=77, edns=True)
        return read(self.send(raw, server=server, tcp=tcp))

    def send(self, raw: bytes, *, server: str = NET4, tcp: bool = False) -> bytes:
        def attempt() -> bytes:
            kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
            with socket.socket(socket.AF_INET, kind) as sock:
                sock.settimeout(10)
                sock.connect((server, 53))
                if not tcp:
                    sock.send(raw)
                    return sock.recv(2048)
                sock.sendall(struct.pack("!H", len(raw)) + raw)
                answer = b""
                while part := sock.recv(2048):
                    answer += part
                    if len(answer) >= 2 and len(answer) == 2 + int.from_bytes(answer[:2]):
                        break
                return answer[2:]

        return kit.inside(self.running.lab.app, attempt)


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    with ExitStack() as stack:
        lab = stack.enter_context(kit.lab())
        directory = Path(tempfile.mkdtemp(prefix="egd-", dir="/tmp"))
        stack.callback(rmtree, directory, ignore_errors=True)
        ca = LabCA(directory)
        made = kit.inside(lab.net, lambda: Upstream(ca, "up.test", host=NET4, answer=echo()))
        upstream = stack.enter_context(made)
        policy = PolicyDirectory(directory / "allowlists", ca)
        exact = policy.entry("up", upstream, addresses=["10.77.2.0/24"])
        wild = policy.entry("wild", upstream, host="*.wide.test", addresses=["10.77.2.0/24"])
        del policy.platform["resolve"]["*.wide.test"]
        policy.app("boxed", exact, wild, identify={"networks": ["10.77.1.0/24"]})
        policy.platform["listen"] = {"dns": f"0.0.0.0:{DNS}"}
        policy.write()
        state = directory / "state"
        state.mkdir(mode=0o700)
        product = Product(state, policy.directory, extra=("--transparent", f"0.0.0.0:{LISTENER}"), transparent=True)
        stack.callback(product.kill)
        kit.inside(lab.gw, product.start)
        stack.callback(product.stop)
        done = lab.script("up", "-i", "gw0", "-p", str(LISTENER), "-a", "-d", str(DNS))
        assert done.returncode == 0, done.stderr
        yield Asked(Running(lab, product, upstream, product.paths.ca_dir / "ca.pem"))


def leaving(lab: Lab, act: Callable[[], object]) -> list[bytes]:
    """IPv4 packets that left the gateway towards the outside while `act` ran."""

    def sniffer() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        sock.bind(("gw1", ETH_P_IP))
        sock.setblocking(False)
        return sock

    with kit.inside(lab.gw, sniffer) as sock:
        act()
        packets = []
        with contextlib.suppress(BlockingIOError):
            while True:
                packets.append(sock.recv(4096))
    return packets


def test_the_shipped_check_knows_the_listener(asked: Asked) -> None:
    done = asked.running.lab.script("check", "-i", "gw0", "-p", str(LISTENER), "-a", "-d", str(DNS))
    assert (done.returncode, done.stderr) == (0, "")
    assert asked.running.product.listen["dns"] == f"0.0.0.0:{DNS}"


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("server", [NET4, GW4, "203.0.113.53"])
def test_an_allowed_name_has_a_synthetic_address_whatever_server_is_asked(asked: Asked, server: str, tcp: bool) -> None:
    found = asked.ask("UP.test", server=server, tcp=tcp)
    assert found == Answer(77, NOERROR, "UP.test", 1, (synthetic_address("up.test", 1),), edns=True)


@pytest.mark.parametrize("kind", [28, 65, 64, 16, 15], ids=["AAAA", "HTTPS", "SVCB", "TXT", "MX"])
def test_an_allowed_name_has_nothing_else(asked: Asked, kind: int) -> None:
    found = asked.ask("up.test", kind)
    assert (found.rcode, found.addresses) == (NOERROR, ())


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("kind", [1, 28, 16, 65, 255])
@pytest.mark.parametrize(
    "name",
    [
        f"{SECRET}.evil.test",
        "evil.test",
        "notup.test",
        "up.test.evil.test",
        "wide.test",
        f"{SECRET}.wide.test",
        "test",
        "",
    ],
)
def test_any_other_name_does_not_exist_and_nothing_leaves(asked: Asked, name: str, kind: int, tcp: bool) -> None:
    answers: list[Answer] = []
    assert leaving(asked.running.lab, lambda: answers.append(asked.ask(name, kind, tcp=tcp))) == []
    assert (answers[0].rcode, answers[0].addresses) == (NXDOMAIN, ())


def test_a_denied_name_is_recorded_without_what_it_carries(asked: Asked) -> None:
    asked.ask(f"{SECRET}.recorded.test")
    (record,) = asked.running.product.wait_for_records(1, host="*.recorded.test")
    assert (record["code"], record["listener"], record["app"]) == ("host_denied", "dns", "boxed")
    assert SECRET not in "".join(str(one) for one in asked.running.product.records())
    eventually(lambda: asked.running.metric("dns_queries_total", result="denied"), "the denied question is counted")


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_data_behind_a_question_goes_nowhere(asked: Asked, tcp: bool) -> None:
    raw = query("up.test") + b"secret"
    assert leaving(asked.running.lab, lambda: asked.send(raw, tcp=tcp)) == []
    assert asked.send(raw, tcp=tcp)[3] & 15 == 1


def test_an_unchanged_client_finds_its_way_by_name(asked: Asked) -> None:
    running = asked.running
    folder = Path(f"/etc/netns/{running.lab.app}")  # ip netns exec shows it to the app as /etc
    folder.mkdir(parents=True)
    try:
        (folder / "resolv.conf").write_text(f"nameserver {GW4}\n")
        assert synthetic_address("up.test", 1) in running.app("getent", "ahostsv4", "up.test").stdout
        assert running.app("getent", "hosts", "evil.test").returncode != 0
        need("curl")
        found = running.app("curl", "-sS", "--max-time", "20", "--cacert", str(running.trust), f"{running.url}/by-name")
    finally:
        rmtree(folder)
    assert running.upstream.requests[-1].target == "/by-name", found.stderr


def test_a_flood_is_told_to_stop(asked: Asked) -> None:
    raw = query("up.test")

    def flood() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(10)
            sock.connect((GW4, 53))
            for _ in range(2000):
                sock.send(raw)
                answer = sock.recv(2048)
                if answer[3] & 15 == 5:
                    return answer
        return b""

    refused = kit.inside(asked.running.lab.app, flood)
    assert refused, "a client that asks without end is refused"
    eventually(lambda: asked.ask("up.test").rcode == NOERROR, "and served again once it has slowed down")
