"""Making a revision the policy: content first, then the signed manifest by compare-and-set."""

import getpass
import hashlib
import os

from proxy.config.manifest import Accepted, Manifest, ManifestRefused, Signer, next_manifest, parse
from proxy.stores.ports import ConfigStore, Conflict


def this_user() -> str:
    """Who publishes. A user id may have no name (a container with `--user 1234`)."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


async def publish(
    store: ConfigStore,
    content: bytes,
    *,
    author: str,
    reason: str,
    signer: Signer,
    now_s: float,
    floor: Accepted | None = None,
    expect_seq: int | None = None,
) -> Manifest:
    """Publishes canonical `content` and returns its manifest.

    `floor`: what this machine accepted last (proxy.stores.last_good), so that numbers go on above it when the store
    lost its log. `expect_seq`: publish only when the store's head still has this seq (what the caller's diff was made
    against). Raises Conflict, StoreUnavailable, ManifestRefused (the store's head is no manifest and there is no
    `floor`; with one, what is damaged is followed by a good one).
    """
    raw = await store.head_manifest()
    head, damaged = _head(raw)
    if damaged is not None and floor is None:
        raise damaged
    revision = hashlib.sha256(content).hexdigest()
    planned = next_manifest(head, floor, revision=revision, author=author, time_s=now_s, reason=reason)
    manifest = signer.sign(planned)
    await store.put_revision(revision, content)
    expected = (head.seq if head else 0) if expect_seq is None else expect_seq
    try:
        await store.append_manifest(manifest.to_bytes(), seq=manifest.seq, expect_seq=expected)
    except Conflict as conflict:
        if damaged is None and await _somebody_published(store, raw, head, expected):
            raise
        # What stands there is no manifest, or the store's number contradicts it: nobody's work is overwritten.
        await store.append_manifest(manifest.to_bytes(), seq=manifest.seq, expect_seq=conflict.head_seq)
    return manifest


async def _somebody_published(store: ConfigStore, raw: bytes | None, head: Manifest | None, expected: int) -> bool:
    """False when the head is still the one that we follow, so that only the store's own number is wrong."""
    return expected != (head.seq if head else 0) or await store.head_manifest() != raw


def _head(raw: bytes | None) -> tuple[Manifest | None, ManifestRefused | None]:
    try:
        return (parse(raw) if raw is not None else None), None
    except ManifestRefused as refused:
        return None, refused
