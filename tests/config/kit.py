"""Small policy directories for tests, and what is wrong with them."""

import datetime
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from proxy.config.compile import compile_snapshot, load_content
from proxy.config.errors import ConfigError, ConfigErrors
from proxy.config.snapshot import AppPolicy, Snapshot

ENTITIES = frozenset({"CREDIT_CARD", "EMAIL_ADDRESS", "IBAN_CODE", "PERSON", "PHONE_NUMBER", "PRIVATE_KEY", "SECRET"})
PLATFORM = "version: 1\n"
HEAD = "version: 1\napp: a\nowner: team@example.com\nstage: production\nidentify: {token: true}\n"
"""An app file up to its allowlist; five lines."""


def write(
    directory: Path,
    apps: Mapping[str, str] | str = HEAD,
    *,
    platform: str | None = PLATFORM,
    connectors: Mapping[str, str] | None = None,
) -> Path:
    """A policy directory; `apps` as text is the file of the one app `a`."""
    for folder in ("apps", "connectors"):
        (directory / folder).mkdir(exist_ok=True)
    if platform is not None:
        (directory / "platform.yaml").write_text(platform)
    for name, text in ({"a": apps} if isinstance(apps, str) else apps).items():
        (directory / "apps" / f"{name}.yaml").write_text(text)
    for name, text in (connectors or {}).items():
        (directory / "connectors" / f"{name}.yaml").write_text(text)
    return directory


def mistakes(directory: Path, state_dir: Path | None = None) -> tuple[ConfigError, ...]:
    """All mistakes of a directory; none when it loads."""
    try:
        load_content(directory, state_dir, entities=ENTITIES)
    except ConfigErrors as errors:
        return errors.errors
    return ()


def snapshot(
    directory: Path, state_dir: Path | None = None, *, seq: int = 1, previous: Snapshot | None = None
) -> Snapshot:
    """The compiled policy of a directory that must load."""
    content = load_content(directory, state_dir, entities=ENTITIES)
    return compile_snapshot(content.canonical, seq=seq, previous=previous)


def app(directory: Path, text: str, *, platform: str = PLATFORM) -> AppPolicy:
    """The one app `a`, compiled."""
    return snapshot(write(directory, text, platform=platform)).apps["a"]


def certificate(*, ca: bool = True) -> bytes:
    """A self-signed certificate in PEM form."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2036, 1, 1, tzinfo=datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


def private_key() -> bytes:
    """A private key in PEM form."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
