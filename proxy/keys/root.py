"""The one root secret and what is derived from it (RFC 5869 HKDF-SHA256, stdlib only so that verbs start fast).

`root.key` holds one generation a line: `egress-root-1 <state> <created, Unix seconds> <64 hex digits>`. States:
`active` (exactly one: new keys come from it), `accepted` (tokens and manifests made before a rotation still count),
`archived` (only old audit chains are checked with it). A file of 64 hex digits alone, as `openssl rand -hex 32`
prints it, is one active generation.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, cast

from proxy.keys.files import KeyProblem, create_file, make_private_directory, read_file, replace_file

type State = Literal["active", "accepted", "archived"]

CA_PASSPHRASE: Final = "ca_passphrase"  # noqa: S105 - the name of a purpose, not a secret
PROXY_TOKEN: Final = "proxy_token"  # noqa: S105 - the name of a purpose, not a secret
MANIFEST: Final = "manifest"
AUDIT_CHAIN: Final = "audit_chain"
AUDIT_SIGNATURE: Final = "audit_signature"
CACHE: Final = "cache"
PLACEHOLDER: Final = "placeholder"
MEMO: Final = "memo"
PSEUDONYM: Final = "pseudonym"
CREDENTIAL_PIN: Final = "credential_pin"
EXACT_MATCH: Final = "exact_match"
PURPOSES: Final = frozenset(
    (
        CA_PASSPHRASE,
        PROXY_TOKEN,
        MANIFEST,
        AUDIT_CHAIN,
        AUDIT_SIGNATURE,
        CACHE,
        PLACEHOLDER,
        MEMO,
        PSEUDONYM,
        CREDENTIAL_PIN,
        EXACT_MATCH,
    )
)

_SECRET_BYTES = 32
_SALT = b"egress root 1"
_LINE = re.compile(r"egress-root-1 (active|accepted|archived) ([0-9]{1,12}) ([0-9a-f]{64})")
_BARE = re.compile(r"[0-9a-f]{64}")


def hkdf_sha256(secret: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 extract-and-expand; `length` <= 8160 bytes."""
    pseudorandom = hmac.digest(salt, secret, "sha256")
    output = block = b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(pseudorandom, block + info + bytes([counter]), "sha256")
        output += block
    return output[:length]


def _info(purpose: str, app: str, key_id: str) -> bytes:
    # Each part carries its length: ("a", "bc") and ("ab", "c") must never share a key.
    parts = (purpose.encode(), app.encode(), key_id.encode())
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


@dataclass(frozen=True, slots=True)
class Generation:
    """One root secret. `id` (8 hex digits) may stand in records; the secret never leaves this object."""

    secret: bytes = field(repr=False)
    state: State
    created_s: int
    _derived: dict[tuple[str, str, str, int], bytes] = field(default_factory=dict, repr=False, compare=False)

    @property
    def id(self) -> str:
        return hmac.digest(self.secret, b"egress root key id", "sha256")[:4].hex()

    def derive(self, purpose: str, *, app: str = "", key_id: str = "", length: int = 32) -> bytes:
        """The key of one purpose (a constant of this module), app and key id. Raises ValueError otherwise."""
        slot = (purpose, app, key_id, length)
        known = self._derived.get(slot)
        if known is not None:
            return known
        if purpose not in PURPOSES:
            raise ValueError(f"unknown key purpose {purpose!r}")
        key = hkdf_sha256(self.secret, salt=_SALT, info=_info(purpose, app, key_id), length=length)
        if len(self._derived) >= 4096:
            self._derived.clear()
        self._derived[slot] = key
        return key

    def line(self) -> str:
        return f"egress-root-1 {self.state} {self.created_s} {self.secret.hex()}\n"


@dataclass(frozen=True, slots=True)
class RootKey:
    """All generations of the root secret, the active one first."""

    generations: tuple[Generation, ...]

    @property
    def active(self) -> Generation:
        return self.generations[0]

    @property
    def id(self) -> str:
        return self.active.id

    def derive(self, purpose: str, *, app: str = "", key_id: str = "", length: int = 32) -> bytes:
        """As Generation.derive, from the active generation."""
        return self.active.derive(purpose, app=app, key_id=key_id, length=length)

    def exact_match_keys(self) -> dict[str, bytes]:
        """Generation id -> key of the indexes made with it, of all that still count."""
        return {g.id: g.derive(EXACT_MATCH) for g in self.generations if g.state != "archived"}

    def older_manifest_seeds(self) -> tuple[bytes, ...]:
        """Seeds of manifests signed before a rotation, whose generations still count."""
        return tuple(g.derive(MANIFEST) for g in self.generations if g.state == "accepted")

    def find(self, generation_id: str, *states: State) -> Generation | None:
        """The generation called `generation_id` when it is in one of `states` (none given = any)."""
        for generation in self.generations:
            if generation.id == generation_id and (not states or generation.state in states):
                return generation
        return None

    def rotated(self, now_s: float) -> "RootKey":
        """A new active generation; the one before it stays accepted, older ones keep their state."""
        older = tuple(replace(g, state="accepted") if g.state == "active" else g for g in self.generations)
        return RootKey((new_generation(now_s), *older))

    def retired(self, generation_id: str) -> "RootKey":
        """Tokens and manifests of this generation count no longer. Raises ValueError for the active or an unknown."""
        if self.find(generation_id, "accepted", "archived") is None:
            raise ValueError(f"no earlier key {generation_id}; the active key {self.id} cannot be retired")
        return RootKey(tuple(replace(g, state="archived") if g.id == generation_id else g for g in self.generations))

    def text(self) -> bytes:
        return "".join(generation.line() for generation in self.generations).encode()

    def save(self, path: Path) -> None:
        """Replaces an existing root.key after a rotation."""
        replace_file(path, self.text())

    @classmethod
    def load(cls, path: Path) -> "RootKey":
        """Reads and checks root.key. Raises KeyProblem (unsafe or damaged) or FileNotFoundError."""
        text = read_file(path).decode("ascii", "replace")
        generations = tuple(_parse(text, path))
        if [g.state for g in generations].count("active") != 1 or len({g.id for g in generations}) != len(generations):
            raise KeyProblem(
                "The root key file must hold exactly one active key and each key once", path, "Restore the backup."
            )
        return cls(tuple(sorted(generations, key=lambda generation: generation.state != "active")))

    @classmethod
    def load_or_create(cls, path: Path, *, now_s: float | None = None) -> "RootKey":
        """Loads root.key; at the very first start makes it (0600). Raises KeyProblem.

        A missing key beside state that was made with one is a lost key, and never replaced.
        """
        make_private_directory(path.parent)
        try:
            return cls.load(path)
        except FileNotFoundError:
            pass
        witness = _witness(path.parent)
        if witness:
            raise KeyProblem(
                f"The root key is missing, but {witness.name} was made with one",
                path,
                f"Restore root.key from the backup. To start over without the old CA and audit trail: "
                f"move {path.parent} aside.",
            )
        create_file(path, cls((new_generation(time.time() if now_s is None else now_s),)).text())
        return cls.load(path)


def new_generation(now_s: float) -> Generation:
    return Generation(secrets.token_bytes(_SECRET_BYTES), "active", int(now_s))


def _parse(text: str, path: Path) -> Iterator[Generation]:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and _BARE.fullmatch(lines[0].strip()):
        yield Generation(bytes.fromhex(lines[0].strip()), "active", 0)
        return
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise KeyProblem(f"Line {number} is not a root key", path, "Restore root.key from the backup.")
        yield Generation(bytes.fromhex(match[3]), cast("State", match[1]), int(match[2]))


def _witness(state_dir: Path) -> Path | None:
    """Something in the state directory that only a root key can have made."""
    for pattern in ("ca/*", ".ca-created", "audit/*/*.jsonl"):
        for found in state_dir.glob(pattern):
            return found
    return None


def fingerprint(data: bytes) -> str:
    """SHA-256 in the usual colon form, for people to compare."""
    return hashlib.sha256(data).digest().hex(":")
