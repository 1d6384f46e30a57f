"""The root secret: made once, never silently again; derivation; generations."""

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from proxy.keys.files import KeyProblem
from proxy.keys.root import AUDIT_CHAIN, CACHE, PROXY_TOKEN, PURPOSES, RootKey, hkdf_sha256, new_generation


@given(st.binary(max_size=80), st.binary(min_size=1, max_size=80), st.binary(max_size=80), st.integers(1, 8160))
def test_hkdf_equals_the_reference(secret: bytes, salt: bytes, info: bytes, length: int) -> None:
    """RFC 5869, against the cryptography package."""
    reference = HKDF(hashes.SHA256(), length, salt, info).derive(secret)
    assert hkdf_sha256(secret, salt=salt, info=info, length=length) == reference


def test_first_start_makes_a_private_file(state_dir: Path) -> None:
    """0600 in a 0700 directory; the second start finds the same key."""
    path = state_dir / "s" / "root.key"
    root = RootKey.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert RootKey.load_or_create(path).derive(CACHE) == root.derive(CACHE)
    assert len(root.active.secret) == 32


def test_many_first_starts_at_once_agree(state_dir: Path) -> None:
    """Whoever is first wins; nobody keeps a key of their own."""
    script = (
        "import sys; from pathlib import Path; from proxy.keys.root import RootKey;"
        "sys.stdin.read(1); print(RootKey.load_or_create(Path(sys.argv[1])).derive('cache').hex())"
    )
    path = state_dir / "root.key"
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    keys = {process.communicate(b"g")[0] for process in started}
    assert len(keys) == 1
    assert len(keys.pop()) == 65


@pytest.mark.parametrize("witness", ["ca/authorities.json", ".ca-created", "audit/w0/000001.jsonl"])
def test_a_lost_key_is_never_replaced(state_dir: Path, witness: str) -> None:
    """State that a root key has made means that the key was lost."""
    (state_dir / witness).parent.mkdir(parents=True, exist_ok=True)
    (state_dir / witness).write_text("x")
    with pytest.raises(KeyProblem, match="missing") as caught:
        RootKey.load_or_create(state_dir / "root.key")
    assert "backup" in caught.value.fix
    assert not (state_dir / "root.key").exists()


def test_empty_directories_are_no_witness(state_dir: Path) -> None:
    """The near miss: a supervisor may have made empty directories before the key."""
    (state_dir / "ca").mkdir()
    (state_dir / "audit").mkdir()
    assert RootKey.load_or_create(state_dir / "root.key")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "egress-root-1 active 5\n",
        "egress-root-1 active 5 " + "A" * 64 + "\n",
        "egress-root-1 accepted 5 " + "a" * 64 + "\n",
        "egress-root-1 active 5 " + "a" * 64 + "\negress-root-1 active 6 " + "b" * 64 + "\n",
        "egress-root-1 active 5 " + "a" * 64 + "\negress-root-1 accepted 6 " + "a" * 64 + "\n",
        "a" * 63,
        "a" * 64 + "\n" + "b" * 64 + "\n",
        "\xff\xfe",
    ],
)
def test_a_damaged_file_is_refused(state_dir: Path, content: str) -> None:
    """And neither repaired, nor replaced, nor quoted."""
    path = state_dir / "root.key"
    path.write_text(content, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(KeyProblem) as caught:
        RootKey.load_or_create(path)
    assert "aaaa" not in str(caught.value)
    assert path.read_text(encoding="latin-1") == content


def test_a_bare_hex_secret_is_accepted(state_dir: Path) -> None:
    """As `openssl rand -hex 32` prints it into a mounted secret."""
    path = state_dir / "root.key"
    path.write_text("0f" * 32 + "\n")
    path.chmod(0o600)
    assert RootKey.load(path).active.secret == b"\x0f" * 32


def test_derivation_separates_everything() -> None:
    """Purpose, app, key id and length each give another key; moving a border between them does too."""
    root = RootKey((new_generation(0),))
    slots = [(purpose, "", "") for purpose in sorted(PURPOSES)]
    slots += [(CACHE, "a", ""), (CACHE, "", "a"), (CACHE, "ab", "c"), (CACHE, "a", "bc"), (CACHE, "é", "")]
    keys = [root.derive(purpose, app=app, key_id=key_id) for purpose, app, key_id in slots]
    assert all(first != second for first, second in combinations(keys, 2))
    assert {len(key) for key in keys} == {32}
    assert len(root.derive(CACHE, length=64)) == 64
    assert RootKey((new_generation(0),)).derive(CACHE) != root.derive(CACHE)


def test_unknown_purposes_are_refused() -> None:
    """A misspelt purpose must not quietly make a key of its own."""
    with pytest.raises(ValueError, match="purpose"):
        RootKey((new_generation(0),)).derive("proxy_tokens")


def test_rotation_overlaps(state_dir: Path) -> None:
    """active -> accepted -> archived; a saved file brings back the same."""
    path = state_dir / "root.key"
    first = RootKey.load_or_create(path)
    second = first.rotated(100)
    second.save(path)
    loaded = RootKey.load(path)
    assert loaded.id == second.id != first.id
    assert loaded.find(first.id, "active", "accepted") is not None
    third = loaded.retired(first.id)
    assert third.find(first.id, "active", "accepted") is None
    old = third.find(first.id)
    assert old is not None
    assert old.derive(AUDIT_CHAIN) == first.derive(AUDIT_CHAIN)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("which", ["active", "unknown"])
def test_only_earlier_keys_retire(which: str) -> None:
    """Retiring the active key would leave nothing to work with."""
    root = RootKey((new_generation(0),))
    with pytest.raises(ValueError, match="no earlier key"):
        root.retired(root.id if which == "active" else "00000000")


def test_no_secret_in_repr() -> None:
    """Tracebacks and logs print objects."""
    root = RootKey((new_generation(0),))
    root.derive(PROXY_TOKEN)
    assert not re.search(r"[0-9a-f]{16}|\\x|b'", repr(root))
