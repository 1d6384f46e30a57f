"""Issue bullet 5: the allowlist as traffic meets it. Every denial costs no byte upstream."""

import socket
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import openai
import pytest

from tests.full_stack.kit import CARD, EMAIL, OPENAI_KEY, House, say
from tests.lab.fixtures import Lab
from tests.lab.product import eventually


def _denied_connect(house: House, app: str, url: str) -> str:
    with house.product.httpx(app) as client, pytest.raises(httpx.ProxyError) as refused:
        client.get(url)
    return str(refused.value)


@pytest.mark.parametrize(
    ("app", "host", "port", "code"),
    [
        ("narrow", "evil.example", 443, "host_denied"),
        ("narrow", "api.lab.test", 1, "port_denied"),
        ("narrow", "lab.test", None, "host_denied"),
        ("narrow", "127.0.0.1", None, "ip_denied"),
        ("gone", "api.lab.test", None, "expired"),
        ("nobody-published", "api.lab.test", None, "identity_unknown"),
    ],
)
def test_connect_is_denied_before_anything_is_dialled(
    house: House, app: str, host: str, port: int | None, code: str
) -> None:
    reason = _denied_connect(house, app, f"https://{host}:{port or house.lab.api.port}/")
    assert reason.startswith(f"403 Egress denied ({code}): ")
    assert house.lab.api.connections == []
    record = house.one()
    assert (record["outcome"], record["code"], record.get("method", "CONNECT")) == (
        "denied", code, "CONNECT",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/v1/files/a", "method_denied"),
        ("GET", "/v1/files/a/b", "path_denied"),
        ("GET", "/v1/files", "path_denied"),
        ("GET", "/v1/files/%2e%2e/secret", None),
        ("GET", "/v1/files//a", None),
    ],
)
def test_method_and_path_inside_the_tunnel(house: House, method: str, path: str, code: str | None) -> None:
    with house.product.httpx("narrow") as client:
        answer = client.request(method, house.url() + path)
    assert answer.status_code in (400, 403)
    assert code in (None, answer.json()["code"])
    assert answer.json()["remedy"]
    assert house.lab.api.raw == b""
    assert house.one()["outcome"] == "denied"


def test_what_is_listed_passes(house: House) -> None:
    with house.product.httpx("narrow") as client:
        assert client.get(house.url() + "/v1/files/a").status_code == 200
    assert house.one()["rule_id"] == "read"


def test_a_model_that_is_not_listed_is_denied_and_the_sdk_says_why(house: House) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="model_denied") as denied:
        house.openai("narrow").chat.completions.create(**{**say("hi"), "model": "gpt-4o"})
    assert "gpt-4o-mini" in str(denied.value)
    assert house.lab.api.raw == b""


def test_the_name_in_the_handshake_must_be_the_name_in_connect(house: House) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        house.product.tunnel("open", f"api.lab.test:{house.lab.api.port}", sni="openai.lab.test")
    assert house.lab.api.connections == []
    assert house.one()["code"] == "target_mismatch"


def test_the_host_field_must_be_the_name_in_connect(house: House) -> None:
    with house.product.httpx("open") as client:
        answer = client.get(house.url(), headers={"Host": "evil.example"})
    assert answer.json()["code"] == "target_mismatch"
    assert house.lab.api.raw == b""


def test_a_public_name_that_resolves_to_loopback_is_never_dialled(house: House) -> None:
    with house.product.httpx("narrow") as client:
        answer = client.get(f"https://b.wild.lab.test:{house.lab.api.port}/")
    assert (answer.status_code, answer.json()["code"]) == (403, "ip_denied")
    assert house.lab.api.connections == []
    assert house.one()["code"] == "ip_denied"


def test_a_private_root_is_trusted_only_where_the_entry_says_so(house: House) -> None:
    with house.product.httpx("narrow") as client:
        answer = client.get(f"https://c.wild.lab.test:{house.lab.api.port}/")
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream_tls")
    assert "upstream_ca" in answer.json()["remedy"]
    assert house.lab.api.raw == b""


def _raw_tunnel(house: House, sni: str) -> ssl.SSLSocket:
    bare, head = house.product.connect("narrow", f"a.wild.lab.test:{house.lab.api.port}")
    assert b" 200 " in head
    return house.lab.ca.client_context().wrap_socket(bare, server_hostname=sni)


def test_pass_through_shows_the_upstreams_own_certificate_and_counts_bytes(house: House) -> None:
    with _raw_tunnel(house, "a.wild.lab.test") as tunnel:
        tunnel.sendall(f"GET /{CARD.replace(' ', '')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert b"200" in tunnel.recv(100)
        eventually(lambda: tunnel.recv(4096) == b"", "the upstream's end")
    assert house.lab.api.connections[0].sni == "a.wild.lab.test"
    record = house.one()
    assert (record["protocol"], record["inspected"], record["rule_id"]) == ("tunnel", "none:passthrough", "raw")
    assert record["sent_bytes"] > 300
    assert record["received_bytes"] > 500
    assert record["upstream_ip"] == "127.0.0.1"
    assert len(house.product.records(kind="open", id=record["id"])) == 1


def test_pass_through_enforces_the_server_name(house: House) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _raw_tunnel(house, "api.lab.test")
    assert house.lab.api.connections == []
    assert house.one()["code"] == "target_mismatch"


def test_a_kill_ends_an_open_tunnel_within_a_second(house: House) -> None:
    with _raw_tunnel(house, "a.wild.lab.test") as tunnel:
        tunnel.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in tunnel.recv(100)
        eventually(lambda: house.product.metric("tunnels_open") == 1, "the gauge")
        house.product.cli("kill", "narrow", "--reason", "test")
        try:
            killed_s = time.monotonic()
            tunnel.settimeout(5)
            while True:
                try:
                    if not tunnel.recv(4096):
                        break
                except (ssl.SSLError, OSError):
                    break
            assert time.monotonic() - killed_s < 1.2
        finally:
            house.product.cli("unkill", "narrow")
    record = house.one()
    assert (record["outcome"], record["code"]) == ("denied", "killed")
    assert record["sent_bytes"] > 0
    with house.product.httpx("narrow") as client:
        eventually(lambda: client.get(house.url() + "/v1/files/a").status_code == 200, "the lifted kill")


def test_report_mode_lets_flow_and_records_what_it_would_have_denied(house: House) -> None:
    with house.product.httpx("trial") as client:
        assert client.post(house.url() + "/elsewhere", json={"card": CARD, "to": EMAIL}).status_code == 200
    (received,) = house.lab.api.requests
    assert received.json() == {"card": CARD, "to": EMAIL}
    record = house.one()
    assert record["outcome"] == "allowed"
    assert record["would_deny"] in ("path_denied", "pii")
    shown = house.product.cli("denials", "--app", "trial").stdout
    assert "report mode let it pass" in shown


def test_report_mode_does_not_lift_identity_addresses_or_authority(house: House) -> None:
    assert "ip_denied" in _denied_connect(house, "trial", f"https://127.0.0.1:{house.lab.api.port}/")
    with house.product.httpx("trial") as client:
        answer = client.get(house.url(), headers={"Host": "evil.example"})
    assert answer.json()["code"] == "target_mismatch"
    assert house.lab.api.raw == b""


def test_pins_and_ends_of_permissions(lab_factory: Callable[..., Lab]) -> None:
    """One product of its own: the admin makes a pin with `egress keys pin`; expiry bites to the second."""
    lab = lab_factory()
    pin = lab.product.cli("keys", "pin", stdin=OPENAI_KEY + "\n").stdout.strip()
    assert len(pin.removeprefix("hmac-sha256:")) == 64
    ends_s = float(int(time.time()) + 7)
    at = datetime.fromtimestamp(ends_s, UTC).isoformat().replace("+00:00", "Z")
    pinned = {"credentials": {"headers": ["authorization"], "pins": [pin]}}
    lab.policy.app("alpha", lab.policy.entry("api", lab.api, **pinned), dlp={"otherwise": "block"})
    lab.policy.app("short", lab.policy.entry("plain", lab.plain, expires=at))
    lab.policy.app("trial", mode="report", report_until=at, dlp={"otherwise": "allow"})
    lab.push()
    _only_the_pinned_key_travels(lab)
    _ends_to_the_second(lab, ends_s)


def _only_the_pinned_key_travels(lab: Lab) -> None:
    with lab.product.httpx("alpha") as client:
        good = client.get(lab.url, headers={"Authorization": f"Bearer {OPENAI_KEY}"})
        assert good.status_code == 200, good.text
        assert lab.api.requests[0].header("authorization") == f"Bearer {OPENAI_KEY}"
        lab.api.forget()
        other = client.get(lab.url, headers={"Authorization": f"Bearer {OPENAI_KEY[:-1]}x"})
    assert (other.status_code, other.json()["code"]) == (403, "credential_denied")
    assert OPENAI_KEY[:-1] not in other.text
    assert lab.api.raw == b""


def _ends_to_the_second(lab: Lab, ends_s: float) -> None:
    elsewhere = f"http://elsewhere.lab.test:{lab.plain.port}/"
    with lab.product.httpx("short") as short, lab.product.httpx("trial") as trial:
        assert trial.get(elsewhere).json()["code"] == "upstream_dns"
        seen: list[tuple[float, int]] = []
        while time.time() < ends_s + 1:
            begun_s = time.time()
            seen.append((begun_s, short.get(lab.plain_url).status_code))
        assert {status for at, status in seen if at < ends_s - 0.5} == {200}
        assert {status for at, status in seen if at > ends_s} == {403}
        assert short.get(lab.plain_url).json()["code"] == "expired"
        assert trial.get(elsewhere).json()["code"] == "host_denied"


def test_an_unknown_client_network_is_closed_out(house: House) -> None:
    """The socket itself tells nothing but the denial: no banner, no path to the admin socket."""
    with socket.create_connection(tuple_of(house.product.listen["explicit"]), 5) as bare:
        bare.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"HTTP/1.1 4" in bare.recv(100)


def tuple_of(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
