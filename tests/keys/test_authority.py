"""The CA on disk: shape, encryption, and every way in which it can be half there."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from proxy.keys.authority import DAY_S, LEAF_LIFETIME_S, CertificateAuthority, start_over
from proxy.keys.files import KeyProblem
from proxy.keys.root import CA_PASSPHRASE, RootKey
from tests.tools import need

NOW_S = 1_800_000_000.0


@pytest.fixture
def root(state_dir: Path) -> RootKey:
    return RootKey.load_or_create(state_dir / "root.key")


@pytest.fixture
def ca(state_dir: Path, root: RootKey) -> CertificateAuthority:
    return CertificateAuthority.load_or_create(state_dir / "ca", root, NOW_S)


def test_shape(ca: CertificateAuthority, state_dir: Path) -> None:
    """CRY-04, read by openssl: path length 0, a year at most, critical extensions, P-256."""
    need("openssl")
    text = subprocess.run(
        ["openssl", "x509", "-in", state_dir / "ca" / "ca.pem", "-noout", "-text"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "X509v3 Basic Constraints: critical\n                CA:TRUE, pathlen:0" in text
    assert "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign" in text
    assert "X509v3 Subject Key Identifier" in text
    assert "NIST CURVE: P-256" in text
    authority = ca.authorities[0]
    assert authority.not_after_s - authority.not_before_s <= 365 * DAY_S
    assert authority.not_before_s <= NOW_S


def test_the_key_is_encrypted_under_the_root(ca: CertificateAuthority, state_dir: Path, root: RootKey) -> None:
    """CRY-02: PKCS #8, opens with the derived passphrase and with nothing else; no other file holds a key."""
    authority = ca.authorities[0]
    pem = (state_dir / "ca" / f"{authority.id}.key").read_bytes()
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    passphrase = root.derive(CA_PASSPHRASE, key_id=authority.id).hex().encode()
    assert load_pem_private_key(pem, passphrase).public_key() == authority.certificate.public_key()
    with pytest.raises(ValueError, match=r".*"):
        load_pem_private_key(pem, b"0" * 64)
    others = [p for p in (state_dir / "ca").iterdir() if p.suffix != ".key"]
    assert not any(b"PRIVATE" in path.read_bytes() for path in others)


def test_modes(ca: CertificateAuthority, state_dir: Path) -> None:
    """Key and index private, certificates readable, directory private."""
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in (state_dir / "ca").iterdir()}
    assert modes == {".key": 0o600, ".json": 0o600, ".crt": 0o644, ".pem": 0o644}
    assert (state_dir / "ca").stat().st_mode & 0o777 == 0o700
    assert len(ca.authorities) == 1


def test_the_second_start_finds_the_same(ca: CertificateAuthority, state_dir: Path, root: RootKey) -> None:
    """Nothing is made anew."""
    again = CertificateAuthority.load_or_create(state_dir / "ca", root, NOW_S + DAY_S)
    assert again.pem == ca.pem


def _remove(*patterns: str) -> Callable[[Path], None]:
    return lambda state: [path.unlink() for pattern in patterns for path in state.glob(pattern)] and None


def _foreign(state: Path, suffix: str) -> None:
    other = CertificateAuthority.load_or_create(state / "x" / "ca", RootKey.load(state / "root.key"), NOW_S)
    key = next((state / "ca").glob(f"*.{suffix}"))
    key.write_bytes((state / "x" / "ca" / f"{other.authorities[0].id}.{suffix}").read_bytes())


def _plain_key(state: Path) -> None:
    need("openssl")
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", state / "k"],
        check=True,
        capture_output=True,
    )
    next((state / "ca").glob("*.key")).write_bytes((state / "k").read_bytes())


def _drop_directory(state: Path) -> None:
    for path in (state / "ca").iterdir():
        path.unlink()
    (state / "ca").rmdir()


BREAKAGES: dict[str, Callable[[Path], None]] = {
    "key missing": _remove("ca/*.key"),
    "certificate missing": _remove("ca/*.crt"),
    "index missing": _remove("ca/*.json"),
    "index and key missing": _remove("ca/*.json", "ca/*.key"),
    "everything missing": _remove("ca/*"),
    "directory missing": _drop_directory,
    "only the exported certificate left": _remove("ca/*.json", "ca/*.key", "ca/*.crt", ".ca-created"),
    "another CA's key": lambda state: _foreign(state, "key"),
    "another CA's certificate": lambda state: _foreign(state, "crt"),
    "key in the clear": _plain_key,
    "key damaged": lambda state: next((state / "ca").glob("*.key")).write_bytes(b"ENCRYPTED nonsense") and None,
    "certificate damaged": lambda state: next((state / "ca").glob("*.crt")).write_bytes(b"nonsense") and None,
    "index damaged": lambda state: (state / "ca" / "authorities.json").write_text("{") and None,
    "index empty": lambda state: (state / "ca" / "authorities.json").write_text('{"authorities": []}') and None,
    "index names a path": lambda state: (
        (state / "ca" / "authorities.json").write_text('{"authorities": [{"id": "../x", "sign_from_s": 1}]}') and None
    ),
    "key readable by all": lambda state: next((state / "ca").glob("*.key")).chmod(0o644),
    "index writable by all": lambda state: (state / "ca" / "authorities.json").chmod(0o666),
    "directory writable by all": lambda state: (state / "ca").chmod(0o777),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_ca_is_refused_and_never_replaced(
    ca: CertificateAuthority, state_dir: Path, root: RootKey, breakage: str
) -> None:
    """FLT-12, CRY-01: start is refused with a fix, and no certificate is made."""
    BREAKAGES[breakage](state_dir)
    before = {path: path.read_bytes() for path in (state_dir / "ca").glob("*")}
    with pytest.raises(KeyProblem) as caught:
        CertificateAuthority.load_or_create(state_dir / "ca", root, NOW_S)
    assert caught.value.fix
    assert {path: path.read_bytes() for path in (state_dir / "ca").glob("*")} == before
    assert ca.authorities


def test_another_root_key_does_not_open_the_ca(ca: CertificateAuthority, state_dir: Path) -> None:
    """The message names root.key, not the CA."""
    other = RootKey.load_or_create(state_dir / "other" / "root.key")
    with pytest.raises(KeyProblem, match=r"root\.key"):
        CertificateAuthority.load_or_create(state_dir / "ca", other, NOW_S)
    assert ca.authorities


def test_starting_over_is_explicit_and_keeps_the_old_files(
    ca: CertificateAuthority, state_dir: Path, root: RootKey
) -> None:
    """The operator's way out of a lost key."""
    next((state_dir / "ca").glob("*.key")).unlink()
    fresh = start_over(state_dir / "ca", root, NOW_S)
    assert fresh.authorities[0].id != ca.authorities[0].id
    assert CertificateAuthority.load_or_create(state_dir / "ca", root, NOW_S).pem == fresh.pem
    assert list((state_dir / "ca").glob(f"lost-*-{ca.authorities[0].id}.crt"))


def test_rotation_overlaps(ca: CertificateAuthority, state_dir: Path, root: RootKey) -> None:
    """CRY-07: the next one is trusted at once, signs after the overlap; the former leaves when no leaf of it lives."""
    old = ca.authorities[0]
    fresh = ca.rotate(root, NOW_S, overlap_s=7 * DAY_S)
    exported = x509.load_pem_x509_certificates((state_dir / "ca" / "ca.pem").read_bytes())
    assert exported == [old.certificate, fresh.certificate]
    assert ca.signing(NOW_S) == old
    assert ca.signing(NOW_S + 7 * DAY_S).id == fresh.id
    with pytest.raises(KeyProblem, match="under way"):
        ca.rotate(root, NOW_S + DAY_S)
    later_s = NOW_S + 7 * DAY_S + LEAF_LIFETIME_S + 1
    third = ca.rotate(root, later_s)
    loaded = CertificateAuthority.load(state_dir / "ca", root)
    assert [each.id for each in loaded.authorities] == [fresh.id, third.id]
    assert not (state_dir / "ca" / f"{old.id}.key").exists()


def test_the_overlap_can_be_ended(ca: CertificateAuthority, root: RootKey) -> None:
    """`--now`."""
    assert ca.switch_now(NOW_S) is None
    fresh = ca.rotate(root, NOW_S, overlap_s=DAY_S)
    ca.switch_now(NOW_S + 1)
    assert ca.signing(NOW_S + 1).id == fresh.id


def test_other_processes_follow_a_rotation(ca: CertificateAuthority, state_dir: Path, root: RootKey) -> None:
    """A worker's copy sees it at its next refresh; a damaged index leaves it as it was."""
    worker = CertificateAuthority.load(state_dir / "ca", root)
    assert not worker.refresh()
    fresh = ca.rotate(root, NOW_S, overlap_s=0)
    assert worker.refresh()
    assert worker.signing(NOW_S).id == fresh.id
    (state_dir / "ca" / "authorities.json").write_text("{")
    assert not worker.refresh()
    assert worker.signing(NOW_S).id == fresh.id


def test_root_rotation_reencrypts(ca: CertificateAuthority, state_dir: Path, root: RootKey) -> None:
    """After `egress keys rotate` the CA opens with the new root alone; a crash in between still opens with both."""
    rotated = root.rotated(NOW_S)
    assert CertificateAuthority.load(state_dir / "ca", rotated).pem == ca.pem
    ca.reencrypt(rotated)
    assert CertificateAuthority.load(state_dir / "ca", RootKey((rotated.active,))).pem == ca.pem


def test_no_key_in_repr(ca: CertificateAuthority) -> None:
    """Tracebacks print objects."""
    assert "key=" not in repr(ca).replace("root.key", "")


@pytest.mark.parametrize("lost", ["ca/ca.pem", ".ca-created"])
def test_exports_are_made_again(ca: CertificateAuthority, state_dir: Path, root: RootKey, lost: str) -> None:
    """What holds no secret and follows from the rest is mended: a crash at the first start may have left it out."""
    (state_dir / lost).unlink()
    assert CertificateAuthority.load_or_create(state_dir / "ca", root, NOW_S).pem == ca.pem
    assert (state_dir / "ca" / "ca.pem").read_bytes() == ca.pem
    assert (state_dir / ".ca-created").exists()
