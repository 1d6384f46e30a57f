"""Issue bullet 3: what each listener speaks, WebSocket, HTTP/2."""

import asyncio
import ssl

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.full_stack.kit import CARD, EMAIL, House, read_to_end


def _websocket(house: House, app: str = "strict", path: str = "/chat"):  # type: ignore[no-untyped-def]
    return connect(
        f"wss://ws.lab.test:{house.talk.port}{path}",
        proxy=house.product.proxy_url(app),
        ssl=house.product.trust,
        open_timeout=20,
        close_timeout=5,
    )


def test_absolute_form_goes_out_in_origin_form(house: House) -> None:
    with house.product.httpx("open") as client:
        assert client.get(f"{house.lab.plain_url}/v1/x?a=1").content == b"ok"
    assert house.lab.plain.raw.startswith(b"GET /v1/x?a=1 HTTP/1.1\r\n")
    assert b"proxy-" not in house.lab.plain.raw.lower()
    record = house.one()
    assert (record["app"], record["scheme"], record["host"], record["path"], record["outcome"]) == (
        "open", "http", "plain.lab.test", "/v1/x", "allowed",
    )  # fmt: skip
    assert record["upstream_ip"] == "127.0.0.1"


def test_connect_is_opened_and_inspected(house: House) -> None:
    with house.product.httpx("open") as client:
        assert client.post(f"{house.url()}/v1/x", content=b"hello").content == b"ok"
    (received,) = house.lab.api.requests
    assert received.connection.sni == "api.lab.test"
    assert house.lab.api.raw.startswith(b"POST /v1/x HTTP/1.1\r\n")
    assert house.lab.api.raw.endswith(b"\r\n\r\nhello")
    record = house.one()
    assert (record["sni"], record["listener"], record["rule_id"]) == ("api.lab.test", "explicit", "api")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /v1/x HTTP/1.1", b"400"),
        ("GET https://api.lab.test/v1/x HTTP/1.1", b"403"),
        ("GET ftp://api.lab.test/ HTTP/1.1", b"400"),
        ("OPTIONS * HTTP/1.1", b"400"),
        ("PRI * HTTP/2.0", b"505"),
    ],
)
def test_the_explicit_listener_takes_connect_and_absolute_form_only(house: House, line: str, status: bytes) -> None:
    with house.product.dial() as bare:
        token = house.product.token("open")
        bare.sendall(f"{line}\r\nHost: api.lab.test\r\nProxy-Authorization: Bearer {token}\r\n\r\n".encode())
        head = read_to_end(bare)
    assert head.split(b" ")[1] == status, head
    assert b"remedy" in head
    assert house.lab.api.connections == house.lab.plain.connections == []
    assert house.one()["outcome"] == "denied"


def test_neither_tls_nor_http_ends_in_the_tunnel(house: House) -> None:
    bare, head = house.product.connect("open", f"api.lab.test:{house.lab.api.port}")
    assert b" 200 " in head
    bare.sendall(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    assert b"malformed" in read_to_end(bare)
    assert house.lab.api.connections == []
    assert house.one()["code"] == "malformed"


def test_websocket_text_and_binary_pass(house: House) -> None:
    with _websocket(house) as talk:
        talk.send("hello")
        assert talk.recv(timeout=20) == "hello"
        talk.send("grüße".encode())
        assert talk.recv(timeout=20) == "grüße".encode()
    assert house.talk.heard == ["hello", "grüße".encode()]
    assert "proxy-authorization" not in {name.lower() for name in house.talk.shaken[0].headers}
    record = house.one()
    assert (record["protocol"], record["outcome"], record["close_code"]) == ("websocket", "allowed", 1000)
    assert record["messages"] >= 4
    assert record["sent_bytes"] > 0
    assert house.product.records(kind="open", id=record["id"])


@pytest.mark.parametrize("message", [f"card {CARD}", f"card {CARD}".encode()])
def test_websocket_pii_is_never_sent_and_closes_with_1008(house: House, message: str | bytes) -> None:
    with _websocket(house) as talk:
        talk.send("before")
        assert talk.recv(timeout=20) == "before"
        talk.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            talk.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    assert "pii" in closed.value.rcvd.reason
    assert house.talk.heard == ["before"]
    record = house.one()
    assert (record["outcome"], record["code"]) == ("denied", "pii")


def test_a_binary_message_of_no_known_kind_is_not_sent(house: House) -> None:
    with _websocket(house) as talk:
        talk.send(b"\x00\x01\x02\xff")
        with pytest.raises(ConnectionClosed) as closed:
            talk.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    assert house.talk.heard == []
    assert house.one()["code"] == "uninspectable"


def test_websocket_values_are_tokenized_and_restored(house: House) -> None:
    with _websocket(house) as talk:
        talk.send(f"write to {EMAIL}")
        assert talk.recv(timeout=20) == f"write to {EMAIL}"
    (heard,) = house.talk.heard
    assert isinstance(heard, str)
    assert EMAIL not in heard
    assert heard.startswith("write to <EMAIL_ADDRESS_")
    assert house.one()["outcome"] == "allowed"


def test_websocket_pii_in_the_handshake_url_never_arrives(house: House) -> None:
    with pytest.raises(Exception, match="403"), _websocket(house, path="/chat?card=4111111111111111"):
        pass
    assert house.talk.shaken == []
    assert house.one()["code"] == "pii"


def test_websocket_needs_its_protocol_on_the_entry(house: House) -> None:
    with (
        pytest.raises(Exception, match="403"),
        connect(
            f"{house.url().replace('https', 'wss')}/x", proxy=house.product.proxy_url("open"), ssl=house.product.trust
        ),
    ):
        pass
    assert house.lab.api.connections == []
    assert house.one()["code"] == "proto_denied"


def test_http_2_is_not_offered_where_the_entry_does_not_name_it(house: House) -> None:
    with house.product.httpx("open", http2=True) as client:
        assert client.get(house.url()).http_version == "HTTP/1.1"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        house.product.tunnel("open", f"api.lab.test:{house.lab.api.port}", alpn=["h2"])
    assert {record.get("code") for record in house.new(2)} == {None, "proto_denied"}


def test_many_clients_share_two_workers(house: House) -> None:
    async def call_all() -> list[int]:
        proxy = httpx.Proxy(house.product.proxy_url("open"))
        async with httpx.AsyncClient(proxy=proxy, verify=house.product.trust, trust_env=False, timeout=20) as client:
            answers = await asyncio.gather(*(client.get(f"{house.url()}/v1/{n}") for n in range(40)))
        return [answer.status_code for answer in answers]

    assert asyncio.run(call_all()) == [200] * 40
    assert len(house.lab.api.requests) == 40
    assert len({record["id"] for record in house.new(40)}) == 40
