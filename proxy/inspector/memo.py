"""Verdicts already given, so that a prompt seen before costs microseconds and no round trip.

Keys are digests under a key of this process: nothing of the prompt can be read or guessed from them. Everything that
could change the verdict is part of the digest.
"""

import hashlib
import secrets
from collections import OrderedDict
from functools import lru_cache
from typing import Any, Final

import orjson

from proxy.config.snapshot import DlpPolicy
from proxy.inspector.wire import policy_fields
from proxy.model import Inspection, InspectJob

ENTRY_OVERHEAD_BYTES: Final = 512
_FINDING_BYTES: Final = 256
_POLICIES: Final = 1024


class PolicyDigests:
    """Digest of a policy's content. Remembered per object, which is kept, so that its id is not given again."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[DlpPolicy, str]] = OrderedDict()

    def of(self, dlp: DlpPolicy) -> str:
        """Hex, of the content itself: two policies never share it, whatever their `digest` field says."""
        known = self._known.get(id(dlp))
        if known is not None:
            return known[1]
        digest = hashlib.blake2b(orjson.dumps(policy_fields(dlp)), digest_size=16).hexdigest()
        self._known[id(dlp)] = (dlp, digest)
        if len(self._known) > _POLICIES:
            self._known.popitem(last=False)
        return digest


class JobDigests:
    """Keyed digests of whole jobs."""

    def __init__(self, policies: PolicyDigests) -> None:
        self._key = secrets.token_bytes(32)
        self._policies = policies

    def of(self, job: InspectJob, now_s: float) -> bytes:
        """`now_s` matters only where an exception of the policy has expired."""
        exceptions = job.dlp.exceptions
        expired = (
            sum(item.expires_at_s is not None and item.expires_at_s <= now_s for item in exceptions)
            if exceptions
            else 0
        )
        facts = (
            job.app, self._policies.of(job.dlp), expired, job.direction, job.provider, job.tier, job.method, job.target,
            _ordered(job.skip_headers), job.placeholder_key, job.headers, job.trailers,
        )  # fmt: skip
        # Trailers are no part of the head, and an idle connection is not to hold 64 KiB of them.
        memo = None if job.trailers else job.memo
        if memo is not None and memo.digest is not None and memo.digest[0] is self and memo.digest[1] == facts:
            digest = memo.digest[2].copy()
        else:
            digest = self._begun(facts)
            if memo is not None:
                memo.digest = (self, facts, digest.copy())
        digest.update(job.body)
        return bytes(digest.digest())

    def _begun(self, facts: tuple[object, ...]) -> Any:
        # The repr of strings, bytes and tuples of them tells any two apart, and is made in one call.
        text = repr(facts).encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(len(text).to_bytes(8, "big"), key=self._key, digest_size=32)
        digest.update(text)
        return digest


@lru_cache(maxsize=1024)
def _ordered(names: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(names))


class VerdictMemo:
    """Least recently used verdicts, at most `max_bytes` of them (by their own size, roughly)."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, tuple[Inspection, int]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Inspection | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, verdict: Inspection) -> None:
        """A verdict larger than an eighth of the whole memo is not kept: it would push out too many others."""
        size = _size_bytes(verdict)
        if size > self._max_bytes // 8:
            return
        self._drop(key)
        self._entries[key] = (verdict, size)
        self.size_bytes += size
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        self._entries.clear()
        self.size_bytes = 0

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry[1]


def _size_bytes(verdict: Inspection) -> int:
    body = len(verdict.body or b"") + len(verdict.target or "")
    headers = sum(len(name) + len(value) for name, value in verdict.headers or ())
    restore = sum(len(key) + 4 * len(value) + ENTRY_OVERHEAD_BYTES // 4 for key, value in verdict.restore.items())
    return ENTRY_OVERHEAD_BYTES + body + headers + restore + _FINDING_BYTES * len(verdict.findings)
