"""The shipped redirect script, in namespaces: the proxy's listener is the app's only way out, over IPv4 and IPv6."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from tests.transparent import kit
from tests.transparent.kit import ADMIN, APP4, GW4, GW6, GW_OUT4, LISTENER, NET4, NET6, RESOLVER, Lab

WHY_NOT = kit.missing()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with kit.lab() as made:
        yield made


@pytest.fixture(params=["nft", "iptables"])
def backend(request: pytest.FixtureRequest, lab: Lab) -> Iterator[str]:
    yield request.param
    assert lab.script("down", "-i", "gw0", "-b", request.param).returncode == 0


def up(lab: Lab, backend: str, *options: str) -> None:
    done = lab.script("up", "-i", "gw0", "-b", backend, *options)
    assert done.returncode == 0, done.stderr


def ways(lab: Lab) -> dict[str, Callable[[], bool]]:
    """Every way out of the app's network (or to another service of the gateway), and how to try it."""
    both_nets, both_gateways = (NET4, NET6), (GW4, GW6)
    tries: dict[str, Callable[[], bool]] = {}
    for address, port in product(both_nets, kit.TCP_PORTS):
        tries[f"tcp {address} {port}"] = lambda a=address, p=port: lab.tcp(a, p) == b"net"
    for address, port in product(both_nets, kit.UDP_PORTS):
        tries[f"udp {address} {port}"] = lambda a=address, p=port: lab.udp(a, p) == b"net:hello"
    for address in (*both_nets, *both_gateways, GW_OUT4):
        tries[f"ping {address}"] = lambda a=address: lab.ping(a)
    for address in both_gateways:
        tries[f"admin {address}"] = lambda a=address: lab.tcp(a, ADMIN) == b"admin"
        tries[f"listener {address}"] = lambda a=address: lab.tcp(a, LISTENER) is not None
        tries[f"resolver {address}"] = lambda a=address: lab.udp(a, RESOLVER) not in {None, b"refused"}
    tries["sctp"], tries["gre"] = lambda: lab.raw(132), lambda: lab.raw(47)
    return tries


def open_ways(lab: Lab) -> set[str]:
    """The names of those that work."""
    tries = ways(lab)
    with ThreadPoolExecutor(16) as pool:
        works = pool.map(lambda attempt: attempt(), tries.values())
        return {name for name, open_ in zip(tries, works, strict=True) if open_}


def test_without_the_script_every_way_is_open(lab: Lab) -> None:
    # Else the next test would prove nothing.
    assert open_ways(lab) == set(ways(lab))


def test_with_the_script_no_way_is_left(lab: Lab, backend: str) -> None:
    up(lab, backend)
    assert open_ways(lab) == set()


def test_redirecting_all_ports_leaves_no_way_either(lab: Lab, backend: str) -> None:
    up(lab, backend, "-a")
    assert open_ways(lab) == set()
    assert lab.tcp(GW4, ADMIN) == f"gw:{GW4}:{ADMIN}".encode()


@pytest.mark.parametrize("port", [80, 443])
@pytest.mark.parametrize("address", [NET4, NET6, "203.0.113.66", "169.254.169.254"])
def test_web_ports_reach_the_listener_with_their_original_destination(
    lab: Lab, backend: str, address: str, port: int
) -> None:
    up(lab, backend)
    assert lab.tcp(address, port) == f"gw:{address}:{port}".encode()


def test_other_ports_are_redirected_only_when_asked(lab: Lab, backend: str) -> None:
    up(lab, backend)
    assert lab.tcp(NET4, 8443) is None
    up(lab, backend, "-a")
    assert lab.tcp(NET4, 8443) == f"gw:{NET4}:8443".encode()
    assert lab.tcp(NET4, 53) is None


def test_quic_is_refused_at_once(lab: Lab, backend: str) -> None:
    up(lab, backend)
    for address in (NET4, NET6, GW4, GW6):
        assert lab.udp(address, 443) == b"refused"


def test_dns_goes_to_our_resolver_whatever_server_was_asked(lab: Lab, backend: str) -> None:
    up(lab, backend, "-d", "5353")
    for address in (NET4, NET6, "203.0.113.53", GW4):
        assert lab.udp(address, 53) == b"gw:hello"
    assert lab.udp(GW4, 5353) is None  # only by redirect
    assert lab.udp(NET4, 123) is None


def test_connections_from_before_do_not_survive(lab: Lab, backend: str) -> None:
    sock = kit.inside(lab.app, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.settimeout(kit.WAIT_S)
        sock.connect((NET4, 4433))
        sock.send(b"1")
        assert sock.recv(100) == b"net:1"
        up(lab, backend)
        sock.send(b"2")
        with pytest.raises(TimeoutError):
            sock.recv(100)


def test_nobody_outside_opens_a_way_in_and_out(lab: Lab, backend: str) -> None:
    server = kit.inside(lab.app, lambda: socket.create_server((APP4, 0)))
    with server:
        port = server.getsockname()[1]

        def dial() -> bool:
            try:
                socket.create_connection((APP4, port), timeout=kit.WAIT_S).close()
            except OSError:
                return False
            return True

        assert kit.inside(lab.net, dial)
        up(lab, backend)
        assert not kit.inside(lab.net, dial)
        assert kit.inside(lab.gw, dial)  # the gateway may still look after the app


def test_up_twice_is_up_once_and_down_opens_again(lab: Lab, backend: str) -> None:
    up(lab, backend)
    first = _rules(lab)
    up(lab, backend)
    assert _rules(lab) == first
    for _ in range(2):
        assert lab.script("down", "-i", "gw0", "-b", backend).returncode == 0
    assert lab.tcp(NET4, 443) == b"net"
    assert lab.ping(NET6)


def _rules(lab: Lab) -> str:
    command = ["ip", "netns", "exec", lab.gw, "nft", "-s", "list", "ruleset"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_check_sees_exactly_these_rules(lab: Lab, backend: str) -> None:
    options = ["-i", "gw0", "-b", backend]
    missing = lab.script("check", *options)
    assert missing.returncode == 1
    assert "egress-redirect up" in missing.stderr
    up(lab, backend)
    good = lab.script("check", *options)
    assert (good.returncode, good.stderr) == (0, "")
    assert lab.script("check", *options, "-a").returncode == 1
    assert lab.script("check", *options, "-p", "8099").returncode == 1


def test_check_sees_a_rule_that_somebody_added_or_took_away(lab: Lab, backend: str) -> None:
    def inside_gw(*command: str) -> None:
        subprocess.run(["ip", "netns", "exec", lab.gw, *command], check=True, capture_output=True)

    up(lab, backend)
    if backend == "nft":
        table = next(line.split()[2] for line in _rules(lab).splitlines() if "inet egress_gw0" in line)
        inside_gw("nft", "insert", "rule", "inet", table, "forward", "tcp", "dport", "22", "accept")
    else:
        inside_gw("iptables", "-I", "EG-gw0-F", "1", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
    assert lab.script("check", "-i", "gw0", "-b", backend).returncode == 1


def test_check_sees_that_nothing_listens(lab: Lab, backend: str) -> None:
    up(lab, backend, "-p", "8099")
    done = lab.script("check", "-i", "gw0", "-b", backend, "-p", "8099")
    assert done.returncode == 1
    assert "egress run --transparent" in done.stderr


def test_another_interface_is_left_alone(lab: Lab, backend: str) -> None:
    done = lab.script("up", "-i", "gw9", "-b", backend)
    assert done.returncode == 0
    assert lab.tcp(NET4, 443) == b"net"
    assert lab.script("down", "-i", "gw9", "-b", backend).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["up"],
        ["sideways", "-i", "gw0"],
        ["up", "-i", "gw0; drop"],
        ["up", "-i", 'x"'],
        ["up", "-i", "an-interface-name-too-long"],
        ["up", "-i", "gw0", "-p", "0"],
        ["up", "-i", "gw0", "-p", "70000"],
        ["up", "-i", "gw0", "-d", "x"],
        ["up", "-i", "gw0", "-b", "pf"],
        ["up", "-i", "gw0", "more"],
    ],
)
def test_bad_usage_changes_nothing_and_says_what_is_wanted(lab: Lab, arguments: list[str]) -> None:
    before = _rules(lab)
    done = lab.script(*arguments)
    assert done.returncode == 2
    assert done.stderr.strip()
    assert _rules(lab) == before
