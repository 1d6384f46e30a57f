"""The indexes of exact data match that policies name by digest, mapped into memory once and kept.

All inspectors of a machine share their pages. An index that is missing, altered, or made with another root key means
that messages cannot be inspected: they are denied.
"""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Final

from proxy.customdata.index import FIRST_LINE_BYTES, MAGIC, BadIndex, Index
from proxy.errors import Denied

SUFFIX: Final = ".edm"


class Indexes:
    """`directories`: where index files lie, under any name that ends in `.edm`."""

    def __init__(self, directories: Sequence[Path] = (), masters: Mapping[str, bytes] | None = None) -> None:
        self._directories = tuple(directories)
        self._masters = dict(masters or {})
        self._loaded: dict[str, Index] = {}
        self._lock = Lock()

    def trust(self, masters: Mapping[str, bytes]) -> None:
        """Keys that workers sent: generation of the root secret -> key for exact match."""
        with self._lock:
            self._masters.update(masters)

    def of(self, digest: str) -> Index:
        """Denied: inspector_unavailable when the index is not here or not what the digest names."""
        with self._lock:
            index = self._loaded.get(digest)
            if index is None:
                index = self._loaded[digest] = self._load(digest)
            return index

    def _load(self, digest: str) -> Index:
        why = f"no index {digest[:12]} lies in {' or '.join(map(str, self._directories)) or 'any directory'}"
        for path in self._named(digest):
            try:
                with path.open("rb") as stream:
                    return Index.load(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), digest, self._masters)
            except (BadIndex, OSError, ValueError) as error:
                why = f"{path.name}: {error}"
        raise Denied("inspector_unavailable", f"exact match: {why}")

    def _named(self, digest: str) -> Iterator[Path]:
        """Files whose first line claims the digest; whether it is true is seen when one is loaded."""
        wanted = MAGIC + digest.encode("ascii", "replace") + b"\n"
        for directory in self._directories:
            for path in sorted(directory.glob(f"*{SUFFIX}")):
                try:
                    with path.open("rb") as stream:
                        if stream.read(FIRST_LINE_BYTES) == wanted:
                            yield path
                except OSError:
                    continue
