"""Vetting and dialling over real sockets: mixed answers, rebinding, our own addresses, happy eyeballs, deadlines."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network

import pytest

from proxy.errors import Denied
from proxy.model import Authority
from proxy.net.dial import OwnAddresses, _interleave, connect, keep_alive, vetted_addresses

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
NOBODY = OwnAddresses()


class Answers:
    """A resolver that gives one answer per call, the last one for ever."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.answers = list(answers)

    async def resolve(self, host: str, port: int) -> tuple[str, ...]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server


def port_of(server: socket.socket) -> int:
    port: int = server.getsockname()[1]
    return port


def vet(answers: Answers, addresses: object = None, host: str = "a.test") -> tuple[str, ...]:
    return asyncio.run(vetted_addresses(answers, Authority("https", host, 443), addresses))  # type: ignore[arg-type]


def closed_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return port_of(server)


@pytest.mark.parametrize(
    "answer",
    [
        ("10.9.8.7",),
        ("8.8.8.8", "10.0.0.1"),
        ("10.0.0.1", "8.8.8.8"),
        ("8.8.8.8", "::1"),
        ("fe80::1%eth0",),
        ("8.8.8.8", "junk"),
        ("::ffff:8.8.8.8",),
    ],
)
def test_any_forbidden_address_denies_the_whole_answer(answer: tuple[str, ...]) -> None:
    with pytest.raises(Denied) as caught:
        vet(Answers(answer))
    assert caught.value.code == "ip_denied"
    assert "a.test resolves to" in caught.value.detail


def test_public_answers_pass_in_order() -> None:
    assert vet(Answers(("8.8.8.8", "2606:4700:4700::1111"))) == ("8.8.8.8", "2606:4700:4700::1111")


def test_entry_networks_admit_these_and_nothing_else() -> None:
    assert vet(Answers(("127.0.0.1", "::1")), LOOPBACK) == ("127.0.0.1", "::1")
    with pytest.raises(Denied) as caught:
        vet(Answers(("127.0.0.1", "8.8.8.8")), LOOPBACK)
    assert "permits only 127.0.0.0/8, ::1/128" in caught.value.detail


def test_a_literal_is_named_as_such() -> None:
    with pytest.raises(Denied) as caught:
        vet(Answers(("169.254.169.254",)), host="169.254.169.254")
    assert caught.value.detail.startswith("The address 169.254.169.254 is link-local, cloud metadata (RFC 3927)")


def test_each_dial_is_vetted_anew() -> None:
    flips = Answers(("8.8.8.8",), ("10.9.8.7",))
    assert vet(flips) == ("8.8.8.8",)
    with pytest.raises(Denied):
        vet(flips)


def test_an_empty_answer_is_no_address() -> None:
    with pytest.raises(Denied) as caught:
        vet(Answers(()))
    assert caught.value.code == "upstream_dns"


def test_connects_non_blocking_to_the_vetted_address(listener: socket.socket) -> None:
    with closing(asyncio.run(connect(("127.0.0.1",), port_of(listener), own=NOBODY, deadline_s=5))) as sock:
        assert sock.getpeername() == listener.getsockname()
        assert sock.gettimeout() == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not sock.get_inheritable()


def test_falls_over_to_the_next_address_at_once(listener: socket.socket) -> None:
    ips = ("::1", "127.0.0.2", "127.0.0.1")
    with closing(asyncio.run(connect(ips, port_of(listener), own=NOBODY, deadline_s=5))) as sock:
        assert sock.getpeername()[0] == "127.0.0.1"


def test_a_black_hole_is_overtaken_by_the_next_address(full: socket.socket) -> None:
    port = port_of(full)
    with (
        closing(socket.create_server(("127.0.0.2", port))),
        closing(asyncio.run(connect(("127.0.0.1", "127.0.0.2"), port, own=NOBODY, deadline_s=5))) as sock,
    ):
        assert sock.getpeername()[0] == "127.0.0.2"


def test_refusal_everywhere_is_unreachable() -> None:
    with pytest.raises(Denied) as caught:
        asyncio.run(connect(("127.0.0.1", "::1"), closed_port(), own=NOBODY, deadline_s=5))
    assert caught.value.code == "upstream_unreachable"


@pytest.fixture
def full() -> Iterator[socket.socket]:
    """A listener whose accept queue is full: SYNs are dropped, as by a black hole."""
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server
        for filler in fillers:
            filler.close()


def test_silence_ends_at_the_deadline(full: socket.socket) -> None:
    with pytest.raises(Denied) as caught:
        asyncio.run(connect(("127.0.0.1",), port_of(full), own=NOBODY, deadline_s=0.05))
    assert caught.value.code == "upstream_timeout"


def test_cancelling_leaves_no_socket_behind(full: socket.socket) -> None:
    async def run() -> None:
        dial = asyncio.create_task(connect(("127.0.0.1",), port_of(full), own=NOBODY, deadline_s=60))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        dial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dial
        assert [task for task in asyncio.all_tasks() if task.get_name() == "dial"] == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("ips", "port", "ours"),
    [
        (("127.0.0.1",), 8080, True),
        (("127.8.9.10",), 8080, True),  # all of 127/8 leads here
        (("::1",), 8080, True),
        (("0.0.0.0",), 8080, True),
        (("::",), 8080, True),
        (("::ffff:127.0.0.1",), 8080, True),
        (("8.8.8.8", "127.0.0.1"), 8080, True),  # one is enough
        (("203.0.113.9",), 443, True),  # listed: a load balancer's address that leads here
        (("127.0.0.1",), 8082, False),
        (("203.0.113.9",), 8080, False),
        (("203.0.113.8",), 443, False),
    ],
)
def test_our_own_listeners_are_recognised(ips: tuple[str, ...], port: int, ours: bool) -> None:
    own = OwnAddresses([("0.0.0.0", 8080), ("127.0.0.1", 9090), ("203.0.113.9", 443)])
    assert any(own.holds(ip, port) for ip in ips) is ours


def test_dialling_ourselves_is_refused_before_any_connection(listener: socket.socket) -> None:
    own = OwnAddresses([("0.0.0.0", port_of(listener))])
    with pytest.raises(Denied) as caught:
        asyncio.run(connect(("127.0.0.1",), port_of(listener), own=own, deadline_s=5))
    assert caught.value.code == "self_connection"
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_families_alternate_from_the_resolvers_first() -> None:
    assert _interleave(["::1", "::2", "::3", "10.0.0.1"]) == ["::1", "10.0.0.1", "::2", "::3"]
    assert _interleave(["10.0.0.1", "10.0.0.2", "::1"]) == ["10.0.0.1", "::1", "10.0.0.2"]
    assert _interleave(["10.0.0.1"]) == ["10.0.0.1"]


def test_silent_peers_are_probed_on_both_sides(listener: socket.socket) -> None:
    keep_alive(listener)
    with closing(asyncio.run(connect(["127.0.0.1"], port_of(listener), own=OwnAddresses(), deadline_s=5))) as ours:
        accepted, _ = listener.accept()
        with closing(accepted):
            for sock in (ours, accepted):
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
