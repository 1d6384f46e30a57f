"""A Merkle tree over the lines of a trail (RFC 6962 section 2.1): one hash stands for all, and a short path shows that
a line is among them. Pure."""

import hashlib
from collections.abc import Sequence


def leaf_hash(data: bytes) -> bytes:
    """Hash of one line, without its line end."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash over two."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Tree:
    """Grows at its end. Keeps one hash for each full subtree: as many as the size has bits."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []

    def append(self, data: bytes) -> None:
        """One more line."""
        carried = leaf_hash(data)
        size = self.size
        while size & 1:
            carried = node_hash(self._peaks.pop(), carried)
            size >>= 1
        self._peaks.append(carried)
        self.size += 1

    @property
    def root(self) -> bytes:
        """The hash of the whole."""
        if not self._peaks:
            return hashlib.sha256(b"").digest()
        *left, root = self._peaks
        for peak in reversed(left):
            root = node_hash(peak, root)
        return root


def root_of(lines: Sequence[bytes]) -> bytes:
    """The root over these lines."""
    tree = Tree()
    for line in lines:
        tree.append(line)
    return tree.root


def inclusion_path(lines: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes that lead from line `index` to the root (RFC 6962 section 2.1.1), nearest first."""
    if len(lines) == 1:
        return []
    middle = 1 << (len(lines) - 1).bit_length() - 1
    if index < middle:
        return [*inclusion_path(lines[:middle], index), root_of(lines[middle:])]
    return [*inclusion_path(lines[middle:], index - middle), root_of(lines[:middle])]


def is_included(line: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` leads from this line at `index` to the root of a tree of `size` (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf_hash(line)
    for one in path:
        if not last:
            return False
        if at & 1 or at == last:
            found = node_hash(one, found)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, one)
        at, last = at >> 1, last >> 1
    return not last and found == root
