"""Issue bullet 4: who calls, by network and by token; no identity, no traffic; revocation; `egress connect`."""

import subprocess
import sys
import time

import pytest

from tests.full_stack.kit import House
from tests.lab.product import ROOT, eventually, read_head
from tests.tools import need


def _connect_head(house: House, credential: str = "") -> bytes:
    with house.product.dial() as bare:
        authority = f"api.lab.test:{house.lab.api.port}"
        bare.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{credential}\r\n".encode())
        return read_head(bare)


def _curl_from(house: House, source_ip: str, app: str | None, url: str) -> tuple[str, str]:
    """A call from an address of its own (loopback has 2^24 of them): (status at the proxy, body or curl's words)."""
    status = "%{http_connect} " if url.startswith("https") else "%{http_code} "
    done = house.product.curl(app, "--interface", source_ip, "-D", "/dev/stderr", "-w", f"|{status}", url)
    body, _, code = done.stdout.rpartition("|")
    return code.strip(), body + done.stderr


def test_an_app_is_known_by_its_network(house: House) -> None:
    assert _curl_from(house, "127.0.1.9", None, house.url())[0] == "200"
    record = house.one()
    assert (record["app"], record["identity"], record["client_ip"]) == ("bynet", "network", "127.0.1.9")


def test_network_and_token_together(house: House) -> None:
    assert _curl_from(house, "127.0.2.9", "both", house.url())[0] == "200"
    assert house.one()["identity"] == "network+token"


@pytest.mark.parametrize(
    ("source", "app", "status"),
    [
        ("127.0.2.9", None, "407"),  # its network, no token
        ("127.0.0.1", "both", "403"),  # its token, another network
        ("127.0.2.9", "bynet", "403"),  # another app's token
        ("127.0.1.9", "both", "403"),
        ("127.0.0.1", None, "407"),  # nothing at all
        ("127.0.0.1", "bynet", "403"),  # a token where the policy knows networks only
    ],
)
def test_anything_less_is_nobody(house: House, source: str, app: str | None, status: str) -> None:
    for url in (house.url(), house.lab.plain_url):
        code, words = _curl_from(house, source, app, url)
        assert code == status, words
        assert "identity_unknown" in words
        assert ("proxy-authenticate" in words.lower()) == (status == "407")
    assert house.lab.api.connections == house.lab.plain.connections == []
    assert {record["code"] for record in house.new(2)} == {"identity_unknown"}


@pytest.mark.parametrize("kind", ["expired", "forged", "for nobody", "garbage"])
def test_a_token_that_is_not_good_is_403_and_nothing_leaves(house: House, kind: str) -> None:
    token = {
        "expired": lambda: house.product.token("open", ttl_s=60, now_s=time.time() - 61),
        "forged": lambda: house.product.token("open")[:-4] + "AAAA",
        "for nobody": lambda: house.product.token("nobody"),
        "garbage": lambda: "egp1.x.y",
    }[kind]()
    head = _connect_head(house, f"Proxy-Authorization: Bearer {token}\r\n")
    assert head.startswith(b"HTTP/1.1 403 Egress denied (identity_unknown): "), head[:80]
    assert token.encode() not in head
    assert house.lab.api.connections == []
    record = house.one()
    assert record["code"] == "identity_unknown"
    assert token not in str(record)


def test_a_revoked_token_is_refused_within_a_second_by_every_worker(house: House) -> None:
    token = house.product.cli("token", "issue", "--app", "open").stdout.strip()
    credential = f"Proxy-Authorization: Bearer {token}\r\n"
    assert token
    with house.product.dial() as bare:
        authority = f"api.lab.test:{house.lab.api.port}"
        bare.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{credential}\r\n".encode())
        assert b" 200 " in bare.recv(200)
    listed = house.product.cli("token", "list", "--app", "open").stdout
    house.product.cli("token", "revoke", token)
    revoked_s = time.monotonic()

    def refused_everywhere() -> bool | None:
        heads = [_connect_head(house, credential)[:60] for _ in range(8)]
        return (
            True if all(head.startswith(b"HTTP/1.1 403 Egress denied (identity_unknown): ") for head in heads) else None
        )

    eventually(refused_everywhere, "the revocation", 1.0)
    assert time.monotonic() - revoked_s < 1.5
    assert token.split(".")[1] not in listed


def test_credentials_of_the_proxy_never_travel(house: House) -> None:
    """Neither of the two forms, on CONNECT, on absolute-form, or within the tunnel."""
    token = house.product.token("open")
    with house.product.httpx("open") as client:
        client.get(house.lab.plain_url)
        client.get(house.url(), headers={"Proxy-Authorization": f"Bearer {token}"})
    bare, _ = house.product.connect("open", f"api.lab.test:{house.lab.api.port}")
    bare.close()
    everything = house.lab.api.raw + house.lab.plain.raw
    assert everything
    assert b"proxy-authorization" not in everything.lower()
    assert b"egp1." not in everything


def test_egress_connect_runs_a_command_with_its_own_token(house: House) -> None:
    need("curl")
    done = subprocess.run(
        [sys.executable, "-m", "proxy.cli", "connect", "--state", str(house.product.paths.state_dir), "--app", "open",
         "--", "curl", "-sS", "--max-time", "20", f"{house.url()}/v1/connect"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ok"), done.stderr
    (received,) = house.lab.api.requests
    assert received.target == "/v1/connect"
    assert house.one()["app"] == "open"


@pytest.mark.parametrize("language", ["shell", "python", "node"])
def test_egress_env_names_proxy_and_ca(house: House, language: str) -> None:
    shown = house.product.cli("env", "--app", "open", "--lang", language, check=False)
    assert shown.returncode == 0, shown.stderr
    assert house.product.listen["explicit"] in shown.stdout
    assert "PROXY" in shown.stdout.upper()
