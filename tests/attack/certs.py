"""Certificates of the upstreams: a root of the laboratory, good leaves, and thirteen kinds of bad ones."""

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BAD = (
    "expired", "notyet", "selfsigned", "wronghost", "untrustedroot", "cnonly", "incompletechain", "nameconstraint",
    "clienteku", "rsa1024", "leafasca", "suffix", "tldwildcard",
)  # fmt: skip
"""Each is served at 203.0.113.(101 + index) for the host NAME.bad.test."""
OLD = {"tls10": ssl.TLSVersion.TLSv1, "tls11": ssl.TLSVersion.TLSv1_1}
"""Good certificates over old versions, at 203.0.113.121 and 122."""

_DAY = datetime.timedelta(days=1)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
    )  # fmt: skip


class Signer:
    """A certificate authority, or whoever pretends to be one."""

    def __init__(
        self, name: str, issuer: "Signer | None" = None, *, pathlen: int | None = None, only: str = "", ca: bool = True
    ) -> None:
        self.key: Any = ec.generate_private_key(ec.SECP256R1())
        self.subject = _name(name)
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(issuer.subject if issuer else self.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 30 * _DAY)
            .not_valid_after(now + 90 * _DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=pathlen), critical=True)
            .add_extension(_usage(ca=ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        )
        builder = _with_authority(builder, issuer or self)
        if only:
            names = x509.NameConstraints(permitted_subtrees=[x509.DNSName(only)], excluded_subtrees=None)
            builder = builder.add_extension(names, critical=True)
        self.certificate = builder.sign((issuer or self).key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def _with_authority(builder: x509.CertificateBuilder, issuer: Signer) -> x509.CertificateBuilder:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return builder.add_extension(identifier, critical=False)


class Authorities:
    """The root that policies trust, and the server contexts made with it. Files go to `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = Signer("Attack laboratory root")
        self.other = Signer("A root that nobody trusts")
        self.inter = Signer("Intermediate", self.root, pathlen=0)
        self.narrow = Signer("Narrow intermediate", self.root, only="permitted.test")
        self.no_ca = Signer("leafca.test", self.root, ca=False)
        self.file = directory / "lab-root.pem"
        self.file.write_bytes(self.root.pem)
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}

    def leaf(
        self, file: str, names: Sequence[str], issuer: Signer | None, *, chain: Sequence[Signer] = (),
        days: tuple[int, int] = (-2, 60), rsa_bits: int = 0, client: bool = False,
    ) -> Path:  # fmt: skip
        """A PEM file: key, leaf, chain. `issuer` None: self-signed; no names: common name only."""
        key: Any = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP256R1())
        subject = _name(names[0] if names else f"{file}.bad.test")
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * _DAY)
            .not_valid_after(now + days[1] * _DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if issuer:
            builder = _with_authority(builder, issuer)
        if names:
            general = [_general(name) for name in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
        certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
        path = self.directory / f"leaf-{file}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
            + b"".join(one.pem for one in chain)
        )
        return path

    def context(self, *names: str) -> ssl.SSLContext:
        """A server for `names`, good in every way."""
        if names not in self._contexts:
            self._contexts[names] = self._serve(self.leaf(names[0].replace("*", "any"), names, self.root))
        return self._contexts[names]

    def bad(self, kind: str) -> ssl.SSLContext:  # noqa: C901 - one arm per kind
        """A server whose certificate (or TLS version) nobody may accept for KIND.bad.test."""
        host = f"{kind}.bad.test"
        if (kind,) in self._contexts:
            return self._contexts[(kind,)]
        match kind:
            case "expired":
                file = self.leaf(kind, [host], self.root, days=(-90, -1))
            case "notyet":
                file = self.leaf(kind, [host], self.root, days=(10, 60))
            case "selfsigned":
                file = self.leaf(kind, [host], None)
            case "wronghost":
                file = self.leaf(kind, ["other.test"], self.root)
            case "untrustedroot":
                file = self.leaf(kind, [host], self.other)
            case "cnonly":
                file = self.leaf(kind, [], self.root)
            case "incompletechain":
                file = self.leaf(kind, [host], self.inter)
            case "nameconstraint":
                file = self.leaf(kind, [host], self.narrow, chain=[self.narrow])
            case "clienteku":
                file = self.leaf(kind, [host], self.root, client=True)
            case "rsa1024":
                file = self.leaf(kind, [host], self.root, rsa_bits=1024)
            case "leafasca":
                file = self.leaf(kind, [host], self.no_ca, chain=[self.no_ca])
            case "suffix":
                file = self.leaf(kind, [f"{host}.evil.test"], self.root)
            case "tldwildcard":
                file = self.leaf(kind, ["*.test"], self.root)
            case _:
                file = self.leaf(kind, [host], self.root)
        self._contexts[(kind,)] = self._serve(file, OLD.get(kind))
        return self._contexts[(kind,)]

    @staticmethod
    def _serve(file: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.load_cert_chain(file)
        if version is None:
            context.set_alpn_protocols(["h2", "http/1.1"])
        else:
            context.minimum_version = context.maximum_version = version
        return context


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
