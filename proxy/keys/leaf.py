"""Leaf certificates for the names that policy has already allowed, and the TLS contexts that present them.

One leaf key per process, never on disk and never the CA's. A leaf lives less than a week and is renewed a day before
it ends; each use checks it against the wall clock, so a clock that jumps gets a new leaf instead of an invalid one.
"""

import os
import ssl
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from proxy.errors import Denied
from proxy.keys.authority import DAY_S, LEAF_LIFETIME_S, Authority, CertificateAuthority, leaf_key_usage

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_BACKDATED_S: Final = DAY_S
"""Clients' clocks are wrong by up to a day more often than one thinks; the lifetime includes it."""
_RENEW_BEFORE_S: Final = DAY_S
_REFRESH_EVERY_S: Final = 2.0
MAX_LEAVES: Final = 1000
"""With its context a leaf takes 23 KB: all of them stay below 24 MB."""
_MAX_COMMON_NAME: Final = 64  # RFC 5280 appendix A: ub-common-name


class MintBudget:
    """Token buckets over new certificates, one for each app: a client that walks through a wildcard must not eat the
    CPU, nor what other apps may mint. A certificate costs 3 ms."""

    def __init__(
        self,
        *,
        per_s: float = 20.0,
        burst: int = 200,
        max_apps: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._max_apps = max_apps
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __call__(self, app: str) -> None:
        """Takes one of the app's. Raises Denied overloaded when there is none left."""
        now_s = self._clock()
        left, at_s = self._buckets.pop(app, (float(self._burst), now_s))
        left = min(self._burst, left + max(0.0, now_s - at_s) * self._per_s)
        enough = left >= 1
        self._buckets[app] = (left - enough, now_s)
        if len(self._buckets) > self._max_apps:
            self._buckets.popitem(last=False)
        if not enough:
            raise Denied("overloaded", "too many new host names in a short time", retry_after_s=1)


@dataclass(slots=True)
class Leaf:
    """One minted certificate. `pem` is key and certificate, for servers that want a file (mitmproxy's h2 path)."""

    certificate: "x509.Certificate"
    pem: bytes = field(repr=False)
    authority_id: str
    valid_from_s: float
    renew_at_s: float
    context: ssl.SSLContext | None = None


class LeafStore:
    """Leaves and server contexts by canonical host; least recently used ones go first. For one thread."""

    def __init__(
        self,
        ca: CertificateAuthority,
        max_entries: int = MAX_LEAVES,
        *,
        clock: Callable[[], float] = time.time,
        admit_mint: Callable[[str], None] | None = None,
    ) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        self._ca = ca
        self._max_entries = max_entries
        self._clock = clock
        self._admit_mint = admit_mint or MintBudget()
        self._leaves: OrderedDict[str, Leaf] = OrderedDict()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._key_pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._checked_at_s = 0.0
        self.minted = 0

    def context(self, host: str, app: str = "") -> ssl.SSLContext:
        """The server context of a host that policy has allowed `app` (canonical name or IP literal).

        One context per name, so that its session tickets work on every connection of this process. Raises Denied.
        """
        leaf = self.leaf(host, app)
        if leaf.context is None:
            leaf.context = server_context(leaf.pem)
        return leaf.context

    def leaf_pem(self, host: str) -> bytes:
        """Private key and certificate as PEM. Raises Denied."""
        return self.leaf(host).pem

    def leaf(self, host: str, app: str = "") -> Leaf:
        """The current leaf of a host, minted when there is none that is good now. Raises Denied."""
        now_s = self._clock()
        if not self._checked_at_s <= now_s < self._checked_at_s + _REFRESH_EVERY_S:
            self._checked_at_s = now_s
            self._ca.refresh()
        authority = self._ca.signing(now_s)
        leaf = self._leaves.get(host)
        good = leaf is not None and leaf.valid_from_s <= now_s < leaf.renew_at_s and leaf.authority_id == authority.id
        if leaf is None or not good:
            self._admit_mint(app)
            leaf = self._leaves[host] = self._mint(host, authority, now_s)
            while len(self._leaves) > self._max_entries:
                self._leaves.popitem(last=False)
        self._leaves.move_to_end(host)
        return leaf

    def _mint(self, host: str, authority: Authority, now_s: float) -> Leaf:
        from cryptography.hazmat.primitives.serialization import Encoding

        if not authority.not_before_s <= now_s < authority.not_after_s:
            raise Denied(
                "internal",
                "the proxy's own CA certificate is not valid at this time",
                remedy="Tell the operator: check the clock, or run `egress ca rotate --now`.",
            )
        start_s = max(now_s - _BACKDATED_S, authority.not_before_s)
        end_s = min(start_s + LEAF_LIFETIME_S, authority.not_after_s)
        certificate = mint(host, self._key, authority, start_s, end_s)
        self.minted += 1
        # Near the end of the CA a leaf is used to its last minute rather than minted for every connection.
        renew_at_s = max(end_s - _RENEW_BEFORE_S, min(now_s + 60, end_s))
        pem = self._key_pem + certificate.public_bytes(Encoding.PEM)
        return Leaf(certificate, pem, authority.id, start_s, renew_at_s)


def mint(
    host: str, key: "EllipticCurvePrivateKey", authority: Authority, start_s: float, end_s: float
) -> "x509.Certificate":
    """A TLS server certificate for one name or address, with the extensions that strict verifiers want (RFC 5280)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    issuer = authority.certificate
    issuer_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    shown = host if len(host) <= _MAX_COMMON_NAME else "Egress proxy leaf"
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, shown)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(int(start_s), UTC))
        .not_valid_after(datetime.fromtimestamp(int(end_s), UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(leaf_key_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _general_name(host: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def server_context(pem: bytes) -> ssl.SSLContext:
    """A TLS server context: 1.2 and up, only http/1.1 in ALPN, no renegotiation or compression."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # One ticket is used once; a second one would only cost bytes and CPU in every handshake.
    context.num_tickets = 1
    context.set_alpn_protocols(["http/1.1"])
    _load_pem(context, pem)
    return context


def _load_pem(context: ssl.SSLContext, pem: bytes) -> None:
    """`ssl` loads keys from files only: an anonymous one in memory, else an unlinked one, never a name on disk."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("leaf", os.MFD_CLOEXEC)
        try:
            os.fchmod(fd, 0o600)
            os.write(fd, pem)
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
