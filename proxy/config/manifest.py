"""Signed, ordered manifests: which revision is the policy, who said so, and what it follows. Pure.

A manifest is canonical JSON (sorted keys, no blanks, UTF-8). Its Ed25519 signature (RFC 8032) covers the canonical
JSON of all other members behind a context string, so that no other signature of the same key can pass for one.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

ROOT_KEY_ID: Final = "root"
NO_PARENT: Final = ""
_CONTEXT: Final = b"egress manifest v1\n"
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "seq": int,
    "revision": str,
    "parent": str,
    "author": str,
    "time_s": (int, float),
    "reason": str,
    "key_id": str,
    "signature": str,
}
# A manifest is some hundred bytes; whoever can write to the store shall not make us parse megabytes.
SIZE_LIMIT_BYTES: Final = 16 << 10


class ManifestRefused(Exception):
    """`why` is one of malformed, unknown_key, signature, older, forked, content; the message says it for people."""

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


@dataclass(frozen=True, slots=True)
class Manifest:
    """`revision` and `parent` are hex SHA-256 of contents; `parent` is empty for the very first."""

    seq: int
    revision: str
    parent: str
    author: str
    time_s: float
    reason: str
    key_id: str = ""
    signature: str = ""

    def signed_part(self) -> bytes:
        facts = asdict(self)
        del facts["signature"]
        return _CONTEXT + _canonical(facts)

    def to_bytes(self) -> bytes:
        return _canonical(asdict(self))

    def digest(self) -> str:
        """Identifies this very manifest, signature included."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The last manifest that was accepted here; kept on disk, so that a restart cannot be rolled back."""

    seq: int
    revision: str
    digest: str

    @classmethod
    def of(cls, manifest: Manifest) -> "Accepted":
        return cls(manifest.seq, manifest.revision, manifest.digest())


@dataclass(frozen=True, slots=True)
class Signer:
    """A publisher's private key (32-byte seed)."""

    seed: bytes
    key_id: str = ROOT_KEY_ID

    def public_key(self) -> bytes:
        from cryptography.hazmat.primitives import serialization

        public = self._key().public_key()
        return bytes(public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw))

    def sign(self, manifest: Manifest) -> Manifest:
        named = replace(manifest, key_id=self.key_id, signature="")
        signature = self._key().sign(named.signed_part())
        return replace(named, signature=base64.b64encode(signature).decode())

    def _key(self) -> Any:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed)


def publisher_text(public_key: bytes) -> str:
    """The form of a key in platform.yaml: `ed25519:<base64>`."""
    return "ed25519:" + base64.b64encode(public_key).decode()


def trusted_keys(root_public_key: bytes, publishers: Mapping[str, str]) -> dict[str, bytes]:
    """Who may publish: the installation's own key, always (who holds the root secret holds everything), and the
    publishers of the policy that stands. Raises ValueError for a text that is no key. No publisher can call itself
    `root`."""
    keys = {name: _public_key(name, text) for name, text in publishers.items()}
    return keys | {ROOT_KEY_ID: root_public_key}


def _public_key(name: str, text: str) -> bytes:
    kind, _, encoded = text.partition(":")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if kind != "ed25519" or len(key) != 32:
        raise ValueError(f"publisher {name}: not `ed25519:` and 32 bytes in base64")
    return key


def parse(raw: bytes) -> Manifest:
    """Strict: exactly the known members, right types, canonical bytes. Raises ManifestRefused malformed."""
    if len(raw) > SIZE_LIMIT_BYTES:
        raise ManifestRefused("malformed", "the manifest is too long")
    try:
        facts = json.loads(raw)
    except (ValueError, RecursionError):
        raise ManifestRefused("malformed", "the manifest is not JSON") from None
    if not isinstance(facts, dict) or facts.keys() != _TYPES.keys():
        raise ManifestRefused("malformed", "the manifest does not have exactly its eight members")
    for name, types in _TYPES.items():
        if not isinstance(facts[name], types) or isinstance(facts[name], bool):
            raise ManifestRefused("malformed", f"the manifest's {name} is of the wrong type")
    manifest = Manifest(**facts)
    if manifest.seq < 1 or not _is_revision(manifest.revision):
        raise ManifestRefused("malformed", "the manifest's seq or revision is not one")
    if manifest.parent != NO_PARENT and not _is_revision(manifest.parent):
        raise ManifestRefused("malformed", "the manifest's parent is no revision")
    try:
        canonical = manifest.to_bytes()
    except ValueError:  # a lone surrogate, an infinite time
        canonical = b""
    if canonical != raw:
        raise ManifestRefused("malformed", "the manifest is not in canonical form")
    return manifest


def verify(manifest: Manifest, keys: Mapping[str, bytes], older_roots: Sequence[bytes] = ()) -> None:
    """Raises ManifestRefused unknown_key or signature. `older_roots`: public keys of root secrets that were rotated out
    and still count; they sign as `root` too."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = keys.get(manifest.key_id)
    if key is None:
        raise ManifestRefused(
            "unknown_key", f"seq {manifest.seq} is signed by {manifest.key_id!r}, who is not among `publishers:`"
        )
    try:
        signature = base64.b64decode(manifest.signature, validate=True)
    except binascii.Error:
        signature = b""
    for candidate in (key, *older_roots) if manifest.key_id == ROOT_KEY_ID else (key,):
        try:
            Ed25519PublicKey.from_public_bytes(candidate).verify(signature, manifest.signed_part())
        except (InvalidSignature, ValueError):
            continue
        return
    raise ManifestRefused("signature", f"the signature of seq {manifest.seq} is wrong")


def accept(manifest: Manifest, last: Accepted | None) -> None:
    """Order: raises ManifestRefused older (seq below the last accepted) or forked (a known seq with other content, or
    a direct successor of something else than what was accepted). The very manifest accepted last passes again.

    Over a gap only signature and order count: the links between may have left the store's log.
    """
    if last is None:
        return
    if manifest.seq < last.seq:
        raise ManifestRefused("older", f"seq {manifest.seq} is older than seq {last.seq}, which was accepted here")
    if manifest.seq == last.seq and manifest.digest() != last.digest:
        raise ManifestRefused("forked", f"seq {manifest.seq} is known here with other content")
    if manifest.seq == last.seq + 1 and manifest.parent != last.revision:
        raise ManifestRefused(
            "forked", f"seq {manifest.seq} follows another revision than seq {last.seq}, which was accepted here"
        )


def check_content(manifest: Manifest, content: bytes) -> None:
    """Raises ManifestRefused content when the bytes are not those that were signed."""
    if hashlib.sha256(content).hexdigest() != manifest.revision:
        raise ManifestRefused("content", f"the content of seq {manifest.seq} is not what was signed")


def next_manifest(
    head: Manifest | None, floor: Accepted | None, *, revision: str, author: str, time_s: float, reason: str
) -> Manifest:
    """The unsigned successor of the store's `head`. `floor` is what this machine accepted last: when the store has
    lost its log, numbering goes on above it, and so workers that remember follow."""
    base = head.seq if head else 0
    parent = head.revision if head else NO_PARENT
    if floor is not None and floor.seq > base:
        base, parent = floor.seq, floor.revision
    return Manifest(base + 1, revision, parent, author, time_s, reason)


def _is_revision(text: str) -> bool:
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)


def _canonical(facts: Mapping[str, Any]) -> bytes:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
