"""TLS on both sides of the running product: bad upstreams get no byte, weak clients no handshake (TLS-01 to TLS-05)."""

import contextlib
import socket
import ssl
from collections.abc import Iterator

import httpx
import pytest

from proxy.dataplane.tickets import FIRST, ONE_IN
from tests.lab.fixtures import Lab, build_lab
from tests.lab.product import read_all
from tests.lab.upstream import Upstream
from tests.tls.certificates import NAME, chains, save

# Old versions are what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")

ROOT, CHAINS = chains()
OLD = {"TLS 1.0": ssl.TLSVersion.TLSv1, "TLS 1.1": ssl.TLSVersion.TLSv1_1}
BAD = [*(name for name in CHAINS if name != "good"), *OLD]


@pytest.fixture(scope="module")
def bank() -> Iterator[tuple[Lab, dict[str, Upstream]]]:
    """One host, one port for each server, all of them allowed over HTTP/1.1 and HTTP/2."""
    with contextlib.ExitStack() as stack:
        servers: dict[str, Upstream] = {}

        def setup(lab: Lab) -> None:
            for number, name in enumerate([*CHAINS, *OLD]):
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.set_ciphers("ALL:@SECLEVEL=0")
                context.load_cert_chain(save(lab.directory / f"{number}.pem", CHAINS.get(name, CHAINS["good"])))
                context.set_alpn_protocols(["h2", "http/1.1"])
                if name in OLD:
                    context.minimum_version = ssl.TLSVersion.TLSv1
                    context.maximum_version = OLD[name]
                servers[name] = stack.enter_context(Upstream(None, NAME, context=context))
            entry = lab.policy.entry("bank", servers["good"], protocols=["http1", "h2"], upstream_ca="bank-root.pem")
            entry["ports"] = [server.port for server in servers.values()]
            (lab.policy.directory).mkdir(parents=True, exist_ok=True)
            (lab.policy.directory / "bank-root.pem").write_text(ROOT)
            pinned = lab.policy.entry("pinned", lab.api, host="pinned.lab.test", tls="passthrough")
            del pinned["upstream_ca"]
            lab.policy.app("alpha", entry, pinned)

        lab = build_lab(stack, setup)
        stack.enter_context(lab.product)
        yield lab, servers


@pytest.mark.parametrize("http2", [False, True], ids=["http/1.1", "h2"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_upstream_is_sent_nothing(bank: tuple[Lab, dict[str, Upstream]], name: str, http2: bool) -> None:
    lab, servers = bank
    with lab.product.httpx("alpha", http2=http2, http1=not http2) as client:
        answer = client.post(f"https://{NAME}:{servers[name].port}/", content=b"confidential")
    assert answer.status_code == 502
    assert "upstream_tls" in answer.headers["proxy-status"]
    assert servers[name].raw == b""


def test_the_good_chain_is_served(bank: tuple[Lab, dict[str, Upstream]]) -> None:
    lab, servers = bank
    servers["good"].forget()
    with lab.product.httpx("alpha") as client:
        assert client.get(f"https://{NAME}:{servers['good'].port}/").status_code == 200
    assert servers["good"].connections[-1].sni == NAME


CLIENTS = {
    "TLS 1.0": (ssl.TLSVersion.TLSv1, "ALL:@SECLEVEL=0"),
    "TLS 1.1": (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
    "no encryption": (ssl.TLSVersion.TLSv1_2, "eNULL:@SECLEVEL=0"),
    "no authentication": (ssl.TLSVersion.TLSv1_2, "aNULL:@SECLEVEL=0"),
    "static RSA": (ssl.TLSVersion.TLSv1_2, "AES128-SHA:@SECLEVEL=0"),
    "SHA-1 MAC": (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"),
}


@pytest.mark.parametrize(("version", "ciphers"), CLIENTS.values(), ids=CLIENTS)
def test_a_weak_client_gets_no_handshake(
    bank: tuple[Lab, dict[str, Upstream]], version: ssl.TLSVersion, ciphers: str
) -> None:
    lab, servers = bank
    servers["good"].forget()
    context = ssl.create_default_context(cafile=str(lab.product.paths.ca_cert))
    context.set_ciphers(ciphers)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, version
    stream, head = lab.product.connect("alpha", f"{NAME}:{servers['good'].port}")
    assert b" 200 " in head
    with stream, pytest.raises(ssl.SSLError):
        context.wrap_socket(stream, server_hostname=NAME)
    assert servers["good"].connections == []


def test_a_client_that_resumes_does_so_beside_others_that_do_not(bank: tuple[Lab, dict[str, Upstream]]) -> None:
    lab, servers = bank
    context = lab.product.trust

    def ask(session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
        stream, _ = lab.product.connect("alpha", f"{NAME}:{servers['good'].port}")
        with context.wrap_socket(stream, server_hostname=NAME, session=session) as tls:
            tls.sendall(f"GET / HTTP/1.1\r\nHost: {NAME}:{servers['good'].port}\r\nConnection: close\r\n\r\n".encode())
            assert read_all(tls).startswith(b"HTTP/1.1 200 ")
            return bool(tls.session_reused), tls.session

    for _ in range(FIRST + 1):
        assert not ask(None)[0]
    sessions = (ask(None)[1] for _ in range(ONE_IN))
    session = next(session for session in sessions if session is not None and session.has_ticket)
    for _ in range(3):
        reused, session = ask(session)
        assert reused


def hello_with(extension: int, content: bytes, name: str) -> bytes:
    """A real ClientHello for `name` with one extension more."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    message = outgoing.read()[5:]
    at = 4 + 2 + 32
    at += 1 + message[at]
    at += 2 + int.from_bytes(message[at : at + 2])
    at += 1 + message[at]
    extensions = message[at + 2 :] + extension.to_bytes(2) + len(content).to_bytes(2) + content
    body = message[4:at] + len(extensions).to_bytes(2) + extensions
    handshake = b"\1" + len(body).to_bytes(3) + body
    return b"\x16\x03\x01" + len(handshake).to_bytes(2) + handshake


ECH = b"\0" + b"\0\1\0\1" + b"\7" + (32).to_bytes(2) + bytes(32) + (64).to_bytes(2) + bytes(64)


def first_byte(stream: socket.socket) -> bytes:
    try:
        return stream.recv(1)
    except ConnectionResetError:
        return b""


def test_an_encrypted_hello_is_answered_for_its_outer_name_only(bank: tuple[Lab, dict[str, Upstream]]) -> None:
    lab, servers = bank
    stream, _ = lab.product.connect("alpha", f"{NAME}:{servers['good'].port}")
    with stream:
        stream.sendall(hello_with(0xFE0D, ECH, NAME))
        assert first_byte(stream) == b"\x16", "terminated here: what is inside is inspected like anything else"


def test_an_encrypted_hello_never_passes_through(bank: tuple[Lab, dict[str, Upstream]]) -> None:
    lab, _ = bank
    lab.api.forget()
    stream, _ = lab.product.connect("alpha", f"pinned.lab.test:{lab.api.port}")
    with stream:
        stream.sendall(hello_with(0xFE0D, ECH, "pinned.lab.test"))
        assert first_byte(stream) == b"\x15"
    assert lab.api.connections == []
    assert lab.product.wait_for_records(1, code="proto_denied")


def test_pass_through_needs_the_exact_name(bank: tuple[Lab, dict[str, Upstream]]) -> None:
    lab, _ = bank
    lab.api.forget()
    for name in ("pinned.lab.test.evil.test", "xpinned.lab.test", "evil.test"):
        stream, _ = lab.product.connect("alpha", f"pinned.lab.test:{lab.api.port}")
        with stream, pytest.raises((ssl.SSLError, OSError)):
            ssl._create_unverified_context().wrap_socket(stream, server_hostname=name)
    assert lab.api.connections == []


def test_no_leaf_is_shown_for_a_name_that_is_not_allowed(bank: tuple[Lab, dict[str, Upstream]]) -> None:
    lab, servers = bank
    stream, _ = lab.product.connect("alpha", f"{NAME}:{servers['good'].port}")
    with stream:
        stream.sendall(hello_with(0xFAFA, b"", "evil.test"))
        answer = stream.recv(4096)
    assert answer[:1] == b"\x15", "an alert, no ServerHello and no certificate"
    with pytest.raises(httpx.ProxyError, match="host_denied"), lab.product.httpx("alpha") as client:
        client.get("https://evil.test/")
