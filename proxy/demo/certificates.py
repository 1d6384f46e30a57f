"""The demo's own small CA and its server certificate, kept in the state directory."""

import datetime
import ipaddress
import os
import ssl
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOSTS: Final = ("openai.demo.test", "anthropic.demo.test", "files.demo.test")
CA_FILE: Final = "demo/ca.pem"
_CA_LIFE = datetime.timedelta(days=365)
_LEAF_LIFE = datetime.timedelta(days=90)
# A CA with less time left than this is replaced at the next start.
_SPARE = datetime.timedelta(days=30)
_BACKDATED = datetime.timedelta(hours=1)


def ca_path(state_dir: Path) -> Path:
    """Where clients and `upstream_ca:` find the demo's root."""
    return state_dir / CA_FILE


def server_context(state_dir: Path) -> ssl.SSLContext:
    """A TLS context for the demo's hosts; makes or renews CA and certificate as needed."""
    folder = state_dir / "demo"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca, ca_key = _load_ca(state_dir) or _new_ca(state_dir)
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = _leaf(ca, ca_key, key)
    chain = folder / "server.pem"
    _write(chain, _key_pem(key) + leaf.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(chain)
    return context


def _load_ca(state_dir: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
    try:
        ca = x509.load_pem_x509_certificate(ca_path(state_dir).read_bytes())
        key = serialization.load_pem_private_key((state_dir / "demo" / "ca.key").read_bytes(), None)
    except (OSError, ValueError):
        return None
    fresh = ca.not_valid_after_utc - datetime.datetime.now(datetime.UTC) > _SPARE
    if not fresh or not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
        return None
    return ca, key


def _new_ca(state_dir: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Egress demo CA")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    ca = (
        _certificate(name, name, key.public_key(), _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(state_dir / "demo" / "ca.key", _key_pem(key))
    _write(ca_path(state_dir), ca.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return ca, key


def _leaf(
    ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOSTS[0])])
    names = [*map(x509.DNSName, (*HOSTS, "localhost")), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return (
        _certificate(name, ca.subject, key.public_key(), _LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replaces the file at once, never readable by others for a moment."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    part.replace(path)
