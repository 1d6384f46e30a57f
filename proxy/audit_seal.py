"""Signed checkpoints of a trail, so that one who has only the public key can check it. Pure.

Every segment has a Merkle tree over its lines; a checkpoint signs size and root with Ed25519 (RFC 8032). A segment's
first line holds the SHA-256 of what counts of the segment before, so that a checkpoint covers all that is older; a
segment is begun together with its first checkpoint. With a new key, the first line also holds that key signed with the
old one.
"""

import base64
import binascii
import hashlib
from functools import cached_property
from typing import Any, Final

from proxy.audit_tree import Tree

MOST_UNSIGNED: Final = 100
MOST_UNSIGNED_S: Final = 1.0
MOST_AT_ONCE: Final = 512
"""Records that are written together; a checkpoint that is due stands before them."""
MOST_UNCOVERED: Final = MOST_UNSIGNED + MOST_AT_ONCE + 8
"""Lines that an honest trail can have behind its last checkpoint: not yet due, one group, and remarks upon itself."""
MOST_UNCOVERED_S: Final = 10.0
"""Seconds that these can span: a disk that is slow to take a group lets them grow beyond one."""
_PREFIX: Final = "ed25519:"


class Signer:
    """The private key of one root key generation."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed

    @cached_property
    def _key(self) -> Any:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self._seed)

    @cached_property
    def public(self) -> str:
        """`ed25519:<base64>`, for auditors and for the records."""
        return _PREFIX + base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def sign(self, statement: bytes) -> str:
        """The signature, 128 hex digits."""
        return str(self._key.sign(statement).hex())


def public_bytes(public: str) -> bytes:
    """The 32 bytes of a public key's text. Raises ValueError for another text."""
    try:
        raw = base64.b64decode(public.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raw = b""
    if not public.startswith(_PREFIX) or len(raw) != 32:
        raise ValueError(f"{public[:80]!r} is not a public key: `{_PREFIX}` and 32 bytes in base64")
    return raw


def is_signed(public: str, statement: bytes, signature: object) -> bool:
    """Whether the key signed the statement. Raises ValueError for a text that is no key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw = public_bytes(public)
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(bytes.fromhex(str(signature)), statement)
    except (InvalidSignature, ValueError):
        return False
    return True


def checkpoint_statement(writer: str, segment: int, size: int, root: str) -> bytes:
    """What a checkpoint signs."""
    return f"egress audit checkpoint 1\n{writer}\n{segment}\n{size}\n{root}\n".encode()


def key_statement(writer: str, segment: int, public: str) -> bytes:
    """What an old key signs of the next one."""
    return f"egress audit key 1\n{writer}\n{segment}\n{public}\n".encode()


class Seal:
    """One writer's checkpoints: told of every line that is on the disk, it says when the next one is due and what it
    holds. `linked_sha256`: of what counts of the segment that the chain goes on from; `before`: the key that it had."""

    def __init__(self, writer: str, signer: Signer, linked_sha256: str = "", before: Signer | None = None) -> None:
        self._writer = writer
        self._signer = signer
        self._linked = linked_sha256
        self._before = before
        self._tree = Tree()
        self._running: Any = None
        self._unsigned = 0
        self._since_s = 0.0

    def header(self, segment: int) -> dict[str, Any]:
        """Fields of a new segment's first line."""
        linked = self._running.hexdigest() if self._running is not None else self._linked
        fields: dict[str, Any] = {"signer": self._signer.public, "prev_sha256": linked or None}
        if self._before is not None and self._running is None:
            statement = key_statement(self._writer, segment, self._signer.public)
            fields |= {"signed_by": self._before.public, "signature": self._before.sign(statement)}
        return fields

    def begun(self, lines: bytes, now_s: float) -> None:
        """A segment was begun with these lines, its first checkpoint among them."""
        self._tree, self._running = Tree(), hashlib.sha256()
        self.wrote(lines, now_s)
        self._unsigned = 0

    def wrote(self, lines: bytes, now_s: float, *, signed: bool = False) -> None:
        """The lines are on the disk. `signed`: the first is a checkpoint."""
        self._running.update(lines)
        whole = lines.splitlines()
        for line in whole:
            self._tree.append(line)
        if signed:
            self._unsigned = 0
            whole = whole[1:]
        if whole and not self._unsigned:
            self._since_s = now_s
        self._unsigned += len(whole)

    def wait_s(self, now_s: float) -> float | None:
        """Until the next checkpoint is due; None while nothing is unsigned."""
        return max(0.0, self._since_s + MOST_UNSIGNED_S - now_s) if self._unsigned else None

    def due(self, now_s: float, *, last: bool = False) -> bool:
        """Whether a checkpoint is to be written now; the `last` one of a writer covers whatever there is."""
        waited = now_s - self._since_s >= MOST_UNSIGNED_S
        return self._unsigned >= MOST_UNSIGNED or (self._unsigned > 0 and (last or waited))

    def opening(self, segment: int, lines: bytes) -> dict[str, Any]:
        """Fields of the checkpoint that a segment is begun with, over the lines before it."""
        tree = Tree()
        for line in lines.splitlines():
            tree.append(line)
        return self._signed(segment, tree)

    def checkpoint(self, segment: int) -> dict[str, Any]:
        """Fields of a checkpoint over all lines of the segment so far."""
        return self._signed(segment, self._tree)

    def _signed(self, segment: int, tree: Tree) -> dict[str, Any]:
        root = tree.root.hex()
        statement = checkpoint_statement(self._writer, segment, tree.size, root)
        return {
            "event": "checkpoint", "segment": segment, "tree_size": tree.size, "tree_root": root,
            "signer": self._signer.public, "signature": self._signer.sign(statement),
        }  # fmt: skip
