"""The certificate authority that clients trust. Its private key is encrypted at rest and never silently replaced.

In the CA directory: `authorities.json` (which authorities exist and from when each one signs), `<id>.crt` and
`<id>.key` of each, and for people `ca.pem`: every authority that clients should trust. `.ca-created` beside the
directory remembers that a CA existed, so that losing the directory is noticed. A rotation adds the next authority,
which is in `ca.pem` at once and signs only after the overlap, so that clients can learn it first.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxy.keys.files import OTHERS_WRITE, KeyProblem, create_file, make_private_directory, read_file, replace_file
from proxy.keys.root import CA_PASSPHRASE, RootKey

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DAY_S: Final = 86_400
LIFETIME_S: Final = 365 * DAY_S
LEAF_LIFETIME_S: Final = 6 * DAY_S
OVERLAP_S: Final = 7 * DAY_S
_BACKDATED_S: Final = 3600
_INDEX: Final = "authorities.json"
_START_OVER: Final = (
    "Restore it from the backup, or make a new CA that every client must trust: `egress ca rotate --lost`."
)


@dataclass(frozen=True, slots=True)
class Authority:
    """One CA certificate and its key. `sign_from_s`: Unix seconds from which leaves are signed by it."""

    id: str
    certificate: "x509.Certificate"
    key: "EllipticCurvePrivateKey" = field(repr=False)
    sign_from_s: float

    @property
    def not_before_s(self) -> float:
        return self.certificate.not_valid_before_utc.timestamp()

    @property
    def not_after_s(self) -> float:
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, colon form."""
        from cryptography.hazmat.primitives import hashes

        return self.certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    def pem(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding

        return self.certificate.public_bytes(Encoding.PEM)


@dataclass(slots=True)
class CertificateAuthority:
    """All authorities of one state directory, in the order in which they sign."""

    directory: Path
    authorities: tuple[Authority, ...]
    _stamp: tuple[int, int] = (0, 0)
    _root: RootKey | None = field(default=None, repr=False)

    @classmethod
    def load_or_create(cls, directory: Path, root: RootKey, now_s: float) -> "CertificateAuthority":
        """Loads the CA; at the very first start makes one. Raises KeyProblem: unsafe modes, a missing or foreign key
        or certificate, or a CA that existed and is gone."""
        make_private_directory(directory)
        if not _exists(directory):
            _create(directory, root, now_s)
        ca = cls.load(directory, root)
        ca._mend_exports()
        return ca

    @classmethod
    def load(cls, directory: Path, root: RootKey) -> "CertificateAuthority":
        """Loads and checks what is there. Raises KeyProblem."""
        rows, stamp = _read_index(directory)
        authorities = tuple(_load_authority(directory, root, str(row["id"]), float(row["sign_from_s"])) for row in rows)
        if not authorities:
            raise KeyProblem("The CA index names no authority", directory / _INDEX, _START_OVER)
        return cls(directory, authorities, stamp, root)

    @property
    def pem(self) -> bytes:
        """Every certificate that clients should trust, newest last."""
        return b"".join(authority.pem() for authority in self.authorities)

    def signing(self, now_s: float) -> Authority:
        """The authority that signs at `now_s`."""
        due = [authority for authority in self.authorities if authority.sign_from_s <= now_s]
        return due[-1] if due else self.authorities[0]

    def refresh(self) -> bool:
        """Takes over a rotation made by another process. True when something changed. A damaged rotation is ignored:
        the authorities in memory stay good."""
        if self._root is None:
            return False
        try:
            if _stamp(self.directory) == self._stamp:
                return False
            fresh = CertificateAuthority.load(self.directory, self._root)
        except (KeyProblem, OSError):
            return False
        self.authorities, self._stamp = fresh.authorities, fresh._stamp
        return True

    def rotate(self, root: RootKey, now_s: float, *, overlap_s: float = OVERLAP_S) -> Authority:
        """Adds the next authority, signing from `now_s + overlap_s`. Raises KeyProblem while a rotation is pending.

        Authorities that stopped signing a leaf's lifetime ago leave the index: nothing of theirs is in use any more.
        """
        if self.pending(now_s) is not None:
            raise KeyProblem(
                "A rotation is already under way",
                self.directory / _INDEX,
                "Wait for its date (`egress ca show`), or finish it at once: `egress ca rotate --now`.",
            )
        _write_authority(self.directory, root, fresh := new_authority(now_s, now_s + overlap_s))
        self._write_index(_still_needed((*self.authorities, fresh), now_s))
        return fresh

    def switch_now(self, now_s: float) -> Authority | None:
        """Ends a pending rotation's overlap. None when there is none."""
        waiting = self.pending(now_s)
        if waiting is None:
            return None
        switched = Authority(waiting.id, waiting.certificate, waiting.key, now_s)
        self._write_index(tuple(switched if each is waiting else each for each in self.authorities))
        return switched

    def pending(self, now_s: float) -> Authority | None:
        """The authority that will sign after an overlap, if any."""
        last = self.authorities[-1]
        return last if last.sign_from_s > now_s else None

    def reencrypt(self, root: RootKey) -> None:
        """Encrypts every key under the active root key, after `egress keys rotate`."""
        for authority in self.authorities:
            replace_file(self.directory / f"{authority.id}.key", _encrypted(authority, root))

    def _mend_exports(self) -> None:
        """Writes what follows from the index: the trust file and the marker, should a crash have come between."""
        exported = self.directory / "ca.pem"
        if not exported.exists() or exported.read_bytes() != self.pem:
            replace_file(exported, self.pem, mode=0o644)
        _mark(self.directory)

    def _write_index(self, authorities: Sequence[Authority]) -> None:
        _save_index(self.directory, authorities)
        gone = {authority.id for authority in self.authorities} - {authority.id for authority in authorities}
        for authority_id in gone:
            for suffix in ("key", "crt"):
                (self.directory / f"{authority_id}.{suffix}").unlink(missing_ok=True)
        self.authorities, self._stamp = tuple(authorities), _stamp(self.directory)


def start_over(directory: Path, root: RootKey, now_s: float) -> CertificateAuthority:
    """A new CA although one existed: only ever on an operator's explicit order. Old files are kept, renamed."""
    make_private_directory(directory)
    for path in sorted(directory.iterdir()):
        if path.suffix in (".crt", ".key", ".json", ".pem") and not path.name.startswith("lost-"):
            path.rename(path.with_name(f"lost-{int(now_s)}-{path.name}"))
    _create(directory, root, now_s)
    return CertificateAuthority.load_or_create(directory, root, now_s)


def new_authority(now_s: float, sign_from_s: float) -> Authority:
    """A self-signed P-256 root: CA with path length 0, a year at most (RFC 5280 section 4.2.1.9)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    authority_id = identifier.digest.hex()[:12]
    # The id in the name tells two authorities apart in a trust store, during a rotation above all.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Egress proxy"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Egress proxy CA {authority_id}"),
        ]
    )
    start = datetime.fromtimestamp(int(now_s) - _BACKDATED_S, UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(seconds=LIFETIME_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca_key_usage(), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(authority_id, certificate, key, sign_from_s)


def ca_key_usage() -> "x509.KeyUsage":
    """Signing certificates and CRLs, nothing else. Verifiers with VERIFY_X509_STRICT insist on the extension."""
    return _key_usage(key_cert_sign=True, crl_sign=True, digital_signature=False)


def leaf_key_usage() -> "x509.KeyUsage":
    """Signatures in the TLS handshake, nothing else."""
    return _key_usage(key_cert_sign=False, crl_sign=False, digital_signature=True)


def _key_usage(*, key_cert_sign: bool, crl_sign: bool, digital_signature: bool) -> "x509.KeyUsage":
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _still_needed(authorities: Sequence[Authority], now_s: float) -> tuple[Authority, ...]:
    """Drops those whose successor has been signing for longer than any leaf lives."""
    pairs = zip(authorities, (*authorities[1:], None), strict=True)
    return tuple(
        each for each, successor in pairs if successor is None or successor.sign_from_s + LEAF_LIFETIME_S > now_s
    )


def _marker(directory: Path) -> Path:
    return directory.parent / ".ca-created"


def _mark(directory: Path) -> None:
    create_file(_marker(directory), b"A CA was made for this state directory. See `egress ca --help`.\n")


def _exists(directory: Path) -> bool:
    """False only where no CA ever was. Raises KeyProblem when one was and is gone or half there."""
    if (directory / _INDEX).exists():
        return True
    remains = next((path.name for path in directory.iterdir() if path.suffix in (".key", ".crt", ".pem")), "")
    if remains or _marker(directory).exists():
        raise KeyProblem("A CA existed here and its files are missing", directory / _INDEX, _START_OVER)
    return False


def _create(directory: Path, root: RootKey, now_s: float) -> None:
    authority = new_authority(now_s, now_s)
    _write_authority(directory, root, authority)
    index = _index_text([authority])
    # Two processes may start at once: the one whose index comes second drops its authority and uses the other's.
    if not create_file(directory / _INDEX, index):
        for suffix in ("key", "crt"):
            (directory / f"{authority.id}.{suffix}").unlink()


def _index_text(authorities: Sequence[Authority]) -> bytes:
    rows = [{"id": authority.id, "sign_from_s": authority.sign_from_s} for authority in authorities]
    return json.dumps({"authorities": rows}, indent=1).encode() + b"\n"


def _save_index(directory: Path, authorities: Sequence[Authority]) -> None:
    # Trust first, use second: a crash in between leaves a bundle that holds one authority too many.
    replace_file(directory / "ca.pem", b"".join(authority.pem() for authority in authorities), mode=0o644)
    replace_file(directory / _INDEX, _index_text(authorities))


def _stamp(directory: Path) -> tuple[int, int]:
    info = (directory / _INDEX).stat()
    return info.st_mtime_ns, info.st_ino


def _read_index(directory: Path) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    path = directory / _INDEX
    try:
        stamp = _stamp(directory)
        rows = json.loads(read_file(path, forbidden=OTHERS_WRITE))["authorities"]
        if all(str(row["id"]).isalnum() and float(row["sign_from_s"]) >= 0 for row in rows):
            return rows, stamp
    except FileNotFoundError as error:
        raise KeyProblem("The CA index is missing", path, _START_OVER) from error
    except (ValueError, KeyError, TypeError):
        pass
    raise KeyProblem("The CA index is damaged", path, _START_OVER)


def _passphrase(root: RootKey, authority_id: str) -> list[bytes]:
    """Passphrases under every root key generation, the active one first."""
    return [each.derive(CA_PASSPHRASE, key_id=authority_id).hex().encode() for each in root.generations]


def _encrypted(authority: Authority, root: RootKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    secret = BestAvailableEncryption(_passphrase(root, authority.id)[0])
    return authority.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)


def _write_authority(directory: Path, root: RootKey, authority: Authority) -> None:
    create_file(directory / f"{authority.id}.key", _encrypted(authority, root))
    create_file(directory / f"{authority.id}.crt", authority.pem(), mode=0o644)


def _load_authority(directory: Path, root: RootKey, authority_id: str, sign_from_s: float) -> Authority:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    key_path, certificate_path = directory / f"{authority_id}.key", directory / f"{authority_id}.crt"
    try:
        key_pem, certificate_pem = read_file(key_path), read_file(certificate_path, forbidden=OTHERS_WRITE)
    except FileNotFoundError as error:
        raise KeyProblem("A file of the CA is missing", str(error.filename), _START_OVER) from error
    key = _decrypt(key_pem, root, authority_id, key_path)
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        raise KeyProblem("The CA certificate is damaged", certificate_path, _START_OVER) from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise KeyProblem("The CA key and the CA certificate do not belong together", key_path, _START_OVER)
    return Authority(authority_id, certificate, key, sign_from_s)


def _decrypt(pem: bytes, root: RootKey, authority_id: str, path: Path) -> object:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if b"ENCRYPTED" not in pem:
        raise KeyProblem("The CA key is not encrypted", path, _START_OVER)
    for passphrase in _passphrase(root, authority_id):
        try:
            return load_pem_private_key(pem, passphrase)
        except ValueError:
            continue
    raise KeyProblem("The CA key does not open with this root.key", path, "Restore the root.key that it was made with.")
