"""Thirteen certificates that no upstream may show, and a good chain, all for one name."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAME = "bank.lab.test"
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Signer:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def authority(name: str, issuer: Signer | None = None, constraint: str | None = None) -> Signer:
    """A root, or an intermediate below `issuer`; `constraint`: the only subtree that it may name."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer.certificate.subject if issuer else _name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 100 * _DAY)
        .not_valid_after(now + 100 * _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if constraint:
        permitted = x509.NameConstraints([x509.DNSName(constraint)], None)
        builder = builder.add_extension(permitted, critical=True)
    return Signer(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def leaf(
    issuer: Signer | None,
    *names: str,
    days: tuple[int, int] = (-2, 90),
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
    key: Any = None,
    common_name: str = NAME,
) -> Signer:
    """A server certificate; `issuer` None: signed by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer.certificate.subject if issuer else _name(common_name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * _DAY)
        .not_valid_after(now + days[1] * _DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False
        )
    return Signer(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def chains() -> tuple[str, Mapping[str, tuple[Signer, ...]]]:
    """The trusted root's PEM, and what each server shows: its leaf, then the rest of its chain."""
    root, stranger = authority("Lab bank root"), authority("Nobody's root")
    inner = authority("Lab bank intermediate", root)
    narrow = authority("Lab bank constrained", root, constraint="elsewhere.test")
    not_a_ca = leaf(root, "leaf.lab.test", common_name="leaf.lab.test")
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    pem = root.certificate.public_bytes(serialization.Encoding.PEM).decode()
    return pem, {
        "good": (leaf(inner, NAME), inner),
        "expired": (leaf(root, NAME, days=(-90, -1)),),
        "not yet valid": (leaf(root, NAME, days=(10, 90)),),
        "self-signed": (leaf(None, NAME),),
        "wrong host": (leaf(root, "other.lab.test", common_name="other.lab.test"),),
        "untrusted root": (leaf(stranger, NAME), stranger),
        "common name only": (leaf(root),),
        "incomplete chain": (leaf(inner, NAME),),
        "name constraint": (leaf(narrow, NAME), narrow),
        "client purpose": (leaf(root, NAME, purpose=ExtendedKeyUsageOID.CLIENT_AUTH),),
        "RSA 1024": (leaf(root, NAME, key=weak),),
        "leaf as CA": (leaf(not_a_ca, NAME), not_a_ca),
        "suffix": (leaf(root, f"{NAME}.evil.test"),),
        "wildcard of a top level": (leaf(root, "*.test"),),
    }


def save(path: Path, chain: tuple[Signer, ...]) -> Path:
    """Key and chain as PEM, as `ssl` loads them."""
    key = chain[0].key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    path.write_bytes(key + b"".join(one.certificate.public_bytes(serialization.Encoding.PEM) for one in chain))
    return path
