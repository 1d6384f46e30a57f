"""Leaves: shape, strict verifiers, clocks, bounds."""

import contextlib
import os
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.errors import Denied
from proxy.keys.authority import DAY_S, LIFETIME_S, CertificateAuthority
from proxy.keys.leaf import LeafStore, MintBudget
from proxy.keys.root import RootKey

NOW_S = 1_800_000_000.0


class Clock:
    """A wall clock that tests turn."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def ca(state_dir: Path) -> CertificateAuthority:
    root = RootKey.load_or_create(state_dir / "root.key")
    return CertificateAuthority.load_or_create(state_dir / "ca", root, NOW_S)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW_S)


@pytest.fixture
def store(ca: CertificateAuthority, clock: Clock) -> LeafStore:
    return LeafStore(ca, 4, clock=clock)


def test_leaf_key_is_not_the_ca_key(store: LeafStore, ca: CertificateAuthority) -> None:
    """CRY-03."""
    leaf = store.leaf("api.example.com").certificate.public_key()
    spki = [
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for key in (leaf, ca.authorities[0].certificate.public_key())
    ]
    assert spki[0] != spki[1]


@pytest.mark.parametrize(
    "host", ["api.example.com", "xn--bcher-kva.example", "203.0.113.5", "fd00::66", "a." * 60 + "test"]
)
def test_shape(store: LeafStore, ca: CertificateAuthority, host: str) -> None:
    """CRY-04: seven days at most, one name, server only, linked to its issuer by key id."""
    certificate = store.leaf(host).certificate
    certificate.verify_directly_issued_by(ca.authorities[0].certificate)
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime.total_seconds() <= 7 * DAY_S
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [host]
    assert isinstance(next(iter(names)), x509.IPAddress) == (host[0] in "2f")
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    issuer = ca.authorities[0].certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    key_id = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert key_id.key_identifier == issuer.digest
    assert certificate.serial_number.bit_length() > 64


def _handshake(
    server_context: ssl.SSLContext, client: ssl.SSLContext, host: str, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    import socket

    near, far = socket.socketpair()
    far_tls: list[ssl.SSLSocket] = []

    def serve() -> None:
        with contextlib.suppress(ssl.SSLError):
            far_tls.append(server_context.wrap_socket(far, server_side=True))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client_tls = client.wrap_socket(near, server_hostname=host, session=session)
    finally:
        thread.join(10)
    far_tls[0].sendall(b"x")
    assert client_tls.recv(1) == b"x"
    return client_tls, far_tls[0]


def _strict_client(ca: CertificateAuthority) -> ssl.SSLContext:
    client = ssl.create_default_context(cadata=ca.pem.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    return client


@pytest.fixture
def live(state_dir: Path) -> tuple[CertificateAuthority, LeafStore]:
    import time

    root = RootKey.load_or_create(state_dir / "root.key")
    ca = CertificateAuthority.load_or_create(state_dir / "live", root, time.time())
    return ca, LeafStore(ca)


@pytest.mark.parametrize("host", ["api.example.com", "203.0.113.5", "fd00::66"])
def test_strict_clients_accept(live: tuple[CertificateAuthority, LeafStore], host: str) -> None:
    """VERIFY_X509_STRICT, as Python 3.13 sets it by default."""
    ca, store = live
    client, server = _handshake(store.context(host), _strict_client(ca), host)
    with client, server:
        assert client.version() == "TLSv1.3"


def test_another_name_is_refused(live: tuple[CertificateAuthority, LeafStore]) -> None:
    """The near miss: strictness is on."""
    ca, store = live
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(store.context("api.example.com"), _strict_client(ca), "evil.example.com")


def test_protocol_floor_and_alpn(live: tuple[CertificateAuthority, LeafStore]) -> None:
    """TLS 1.2 is the floor; of h2 and http/1.1 the second is chosen."""
    ca, store = live
    client = _strict_client(ca)
    client.set_alpn_protocols(["h2", "http/1.1"])
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    near, far = _handshake(store.context("api.example.com"), client, "api.example.com")
    with near, far:
        assert near.version() == "TLSv1.2"
        assert near.selected_alpn_protocol() == "http/1.1"
    assert store.context("api.example.com").minimum_version == ssl.TLSVersion.TLSv1_2


def test_sessions_resume(live: tuple[CertificateAuthority, LeafStore]) -> None:
    """One context per name: the ticket of one connection is good on the next."""
    ca, store = live
    client = _strict_client(ca)
    near, far = _handshake(store.context("api.example.com"), client, "api.example.com")
    with near, far:
        session = near.session
        assert not near.session_reused
    near, far = _handshake(store.context("api.example.com"), client, "api.example.com", session)
    with near, far:
        assert near.session_reused


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_no_key_is_left_on_disk(store: LeafStore, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a descriptor of it left open."""
    monkeypatch.setenv("TMPDIR", str(state_dir))
    before = _names(state_dir), _names(Path("/proc/self/fd"))
    store.context("api.example.com")
    assert (_names(state_dir), _names(Path("/proc/self/fd"))) == before


def test_leaves_are_reused_and_renewed(store: LeafStore, clock: Clock) -> None:
    """Same leaf until a day before its end; then a new one with a new context."""
    first, context = store.leaf("a.test"), store.context("a.test")
    clock.now_s += 3 * DAY_S
    assert store.leaf("a.test") is first
    clock.now_s = first.certificate.not_valid_after_utc.timestamp() - DAY_S
    assert store.leaf("a.test") is not first
    assert store.context("a.test") is not context


@pytest.mark.parametrize("jump_s", [-2 * DAY_S, -30 * DAY_S, 8 * DAY_S, 200 * DAY_S])
def test_no_leaf_outside_its_validity(state_dir: Path, clock: Clock, jump_s: float) -> None:
    """FLT-10: whichever way the clock jumps, what is handed out is valid now."""
    root = RootKey.load_or_create(state_dir / "root.key")
    ca = CertificateAuthority.load_or_create(state_dir / "ca", root, NOW_S - 40 * DAY_S)
    store = LeafStore(ca, clock=clock)
    store.leaf("a.test")
    clock.now_s += jump_s
    certificate = store.leaf("a.test").certificate
    assert certificate.not_valid_before_utc.timestamp() <= clock.now_s < certificate.not_valid_after_utc.timestamp()


@pytest.mark.parametrize("at_s", [NOW_S - 2 * 3600, NOW_S + LIFETIME_S])
def test_a_ca_that_is_not_valid_signs_nothing(store: LeafStore, clock: Clock, at_s: float) -> None:
    """A denial that names the operator's move, not a certificate that every client refuses."""
    clock.now_s = at_s
    with pytest.raises(Denied, match="CA certificate") as caught:
        store.leaf("a.test")
    assert "egress ca rotate" in caught.value.remedy


def test_a_leaf_never_outlives_its_ca(store: LeafStore, ca: CertificateAuthority, clock: Clock) -> None:
    """Near the CA's end too, without minting for every connection."""
    clock.now_s = ca.authorities[0].not_after_s - 3600
    leaf = store.leaf("a.test")
    assert leaf.certificate.not_valid_after_utc.timestamp() <= ca.authorities[0].not_after_s
    assert store.leaf("a.test") is leaf


def test_the_store_is_bounded(store: LeafStore) -> None:
    """The least recently used name goes first."""
    for name in ("a", "b", "c", "d"):
        store.leaf(f"{name}.test")
    kept = store.leaf("a.test")
    store.leaf("e.test")
    assert store.leaf("a.test") is kept
    assert store.minted == 5
    store.leaf("b.test")
    assert store.minted == 6


def test_minting_is_limited(ca: CertificateAuthority, clock: Clock) -> None:
    """A walk through a wildcard is stopped; known names go on, and time refills the bucket."""
    ticks = Clock(0.0)
    store = LeafStore(ca, clock=clock, admit_mint=MintBudget(per_s=1, burst=2, clock=ticks))
    store.leaf("a.test")
    store.leaf("b.test")
    with pytest.raises(Denied, match="host names") as caught:
        store.leaf("c.test")
    assert caught.value.code == "overloaded"
    store.leaf("a.test")
    store.leaf("c.test", "another app, with a bucket of its own")
    ticks.now_s += 1
    store.leaf("d.test")


def test_apps_that_mint_are_remembered_up_to_a_bound() -> None:
    budget = MintBudget(burst=1, max_apps=2, clock=Clock(0.0))
    for app in ("a", "b", "c"):
        budget(app)
    budget("a")  # forgotten, so that it may again: the bound is on memory, and the certificates are bounded too
    with pytest.raises(Denied):
        budget("c")


def test_rotation_switches_the_signer(ca: CertificateAuthority, state_dir: Path, clock: Clock) -> None:
    """After the overlap new handshakes get a leaf of the next authority, also in a process that was running."""
    root = RootKey.load(state_dir / "root.key")
    store = LeafStore(CertificateAuthority.load(state_dir / "ca", root), clock=clock)
    old = store.leaf("a.test")
    fresh = ca.rotate(root, NOW_S, overlap_s=DAY_S)
    clock.now_s += 10
    assert store.leaf("a.test") is old
    clock.now_s += DAY_S
    assert store.leaf("a.test").authority_id == fresh.id


def test_pem_serves_other_stacks(store: LeafStore) -> None:
    """Key and certificate, as mitmproxy's h2 path wants them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file = Path(f"/proc/self/fd/{os.memfd_create('pem')}")
    file.write_bytes(store.leaf_pem("a.test"))
    context.load_cert_chain(file)
    assert b"PRIVATE" not in repr(store.leaf("a.test")).encode()
