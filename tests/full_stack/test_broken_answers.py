"""An upstream that breaks off: the client is told at once, whatever the framing, and one record says so."""

import socket
import threading

import httpx
import pytest

from tests.full_stack.kit import House, read_to_end
from tests.lab.product import eventually
from tests.lab.upstream import chunked, raw

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@pytest.mark.parametrize(
    "answer",
    [HEAD + b"Content-Length: 10\r\n\r\nhalf", HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"],
)
def test_a_broken_answer_ends_the_clients_connection(house: House, answer: bytes) -> None:
    house.lab.api.answer = raw(answer)
    with house.product.httpx("open") as client, client.stream("GET", house.url()) as response:
        parts = response.iter_raw()
        assert next(parts) == b"half"
        with pytest.raises(httpx.RemoteProtocolError):
            next(parts)
    record = house.one()
    assert (record["outcome"], record["aborted_by"]) == ("aborted", "upstream")


def test_a_broken_answer_is_never_whole_for_a_client_of_http_1_0(house: House) -> None:
    house.lab.plain.answer = raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
    with house.product.dial() as bare:
        token, host = house.product.token("open"), house.lab.plain_url.removeprefix("http://")
        bare.sendall(
            f"GET http://{host}/ HTTP/1.0\r\nHost: {host}\r\nProxy-Authorization: Bearer {token}\r\n\r\n".encode()
        )
        bare.settimeout(10)
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: bare.recv(1 << 16), b""))
    assert house.one()["outcome"] == "aborted"


def test_no_answer_at_all_is_a_502_with_its_reason(house: House) -> None:
    house.lab.api.answer = raw()
    with house.product.httpx("open") as client:
        answer = client.post(house.url(), content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream_unreachable")
    assert house.one()["code"] == "upstream_unreachable"


def test_an_inference_call_without_an_answer_costs_its_input(house: House) -> None:
    house.lab.api.answer = raw()
    with house.product.httpx("open") as client:
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "one two three"}]}
        answer = client.post(house.url() + "/v1/chat/completions", json=body)
    assert answer.status_code == 502
    record = house.one()
    assert record["code"] == "upstream_unreachable"
    assert record["gen_ai.usage.input_tokens"] > 0
    assert record["cost_usd_nanos"] > 0


def test_a_client_that_leaves_is_recorded_once_and_the_upstream_is_let_go(house: House) -> None:
    import threading

    gate = threading.Event()
    house.llm.before_part = lambda: gate.wait(10)
    stream = house.openai("open").chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": "one two three four five"}], stream=True
    )
    next(iter(stream))
    stream.response.close()
    record = house.one()
    gate.set()
    assert (record["outcome"], record["aborted_by"]) == ("aborted", "client")
    assert record["estimated"] is True
    assert house.lab.api.requests[0].connection.closed.wait(10)


def test_read_to_end_helper_is_honest(house: House) -> None:
    """Guards the other tests: what the proxy says before it closes is read to its last byte."""
    left, right = socket.socketpair()
    right.sendall(b"all")
    right.close()
    assert read_to_end(left) == b"all"
    left.close()


def test_a_kill_cuts_an_answer_that_streams(house: House) -> None:
    flowing = threading.Event()
    house.lab.api.answer = chunked([b"first", flowing.wait, *[b"later"] * 200])
    with house.product.httpx("narrow") as client, client.stream("GET", house.url() + "/v1/files/a") as response:
        parts = response.iter_raw()
        assert next(parts) == b"first"
        house.product.cli("kill", "narrow", "--reason", "test")
        try:
            eventually(lambda: all(w["kills"] for w in house.product.admin("workers")["workers"]), "the kill")
            flowing.set()
            with pytest.raises(httpx.RemoteProtocolError):
                list(parts)
        finally:
            flowing.set()
            house.product.cli("unkill", "narrow")
    record = house.one()
    assert (record["outcome"], record["code"]) == ("denied", "killed")
