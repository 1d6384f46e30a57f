"""Binding: one SO_REUSEPORT socket per slot on one address; a taken address is refused, never shared by accident."""

import socket

import pytest

from proxy.supervisor.sockets import CannotListen, bind_slots, format_address, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_addresses_that_can_be_read(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected
    assert format_address(*expected) == text


@pytest.mark.parametrize(
    "text",
    ["", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "::1:80",
     "[127.0.0.1:80", "[127.0.0.1]:80", "127.0.0.1:٨٠", "127.0.0.1: 80"],
)  # fmt: skip
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(CannotListen) as caught:
        parse_address(text)
    assert caught.value.address == text
    assert "127.0.0.1:8080" in caught.value.why


def test_all_slots_share_one_port_and_each_has_its_own_queue() -> None:
    slots = bind_slots("127.0.0.1:0", 3)
    try:
        ports = {listener.getsockname()[1] for listener in slots}
        assert len(ports) == 1
        assert 0 not in ports
        assert len({listener.fileno() for listener in slots}) == 3
        for _ in range(6):
            with socket.create_connection(("127.0.0.1", ports.pop() if len(ports) > 1 else next(iter(ports))), 2):
                pass
    finally:
        for listener in slots:
            listener.close()


def test_off_binds_nothing() -> None:
    assert bind_slots("off", 4) == []


def test_a_port_of_another_reuseport_listener_is_refused() -> None:
    (first,) = bind_slots("127.0.0.1:0", 1)
    with first, pytest.raises(CannotListen) as caught:
        bind_slots(f"127.0.0.1:{first.getsockname()[1]}", 1)
    assert caught.value.why == "another process listens there"


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotListen):
        bind_slots("203.0.113.7:0", 1)


def test_ipv6_does_not_take_ipv4_along() -> None:
    (listener,) = bind_slots("[::1]:0", 1)
    with listener:
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
