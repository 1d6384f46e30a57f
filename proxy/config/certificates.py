"""CA certificates as policy carries them: PEM text of CA certificates only."""

from functools import lru_cache

from proxy.config.types import BadValue

PEM_START = "-----BEGIN CERTIFICATE-----"


@lru_cache(maxsize=256)
def ca_certificates(data: bytes, name: str) -> str:
    """Checks that `data` holds CA certificates in PEM form and nothing secret, and returns them re-encoded.

    Raises BadValue; `name` is how the file is called in the message.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificates

    if b"PRIVATE KEY" in data:
        raise BadValue(f"{name!r} holds a private key", "keep only the CERTIFICATE blocks in it")
    try:
        certificates = load_pem_x509_certificates(data)
        all_ca = all(_is_ca(certificate) for certificate in certificates)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadValue(f"{name!r} is not a PEM certificate", f"a text that starts with {PEM_START}") from error
    if not all_ca:
        raise BadValue(f"{name!r} is not a CA certificate", "the CA that signed the server's certificate")
    return "".join(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)


def _is_ca(certificate: object) -> bool:
    from cryptography.x509 import BasicConstraints, Certificate, ExtensionNotFound

    if not isinstance(certificate, Certificate):
        return False
    try:
        return certificate.extensions.get_extension_for_class(BasicConstraints).value.ca
    except ExtensionNotFound:
        return False
