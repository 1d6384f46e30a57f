r"""Restoring of stand-ins that are no placeholders: encrypted numbers, invented names, addresses and phone numbers.

They look like ordinary text, so one is put back only as a whole token in exactly the spelling in which it was sent: no
ASCII letter, digit or `_` directly before or after it (the `n` of a JSON escape `\n` is none). All of their characters
are written alike at every level of JSON, URLs and HTML (`proxy.actions.base.PLAIN_TEXT`). The leftmost match counts,
of several the longest, wherever a stream is cut.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final

_TOKEN_START: Final = rb"(?:(?<![A-Za-z0-9_])|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4}))"
_JOINS: Final = re.compile(rb"[A-Za-z0-9_]")
_PREFIX_BYTES: Final = 4
CONTEXT_BYTES: Final = 6
"""How far the start of a token looks back: one escape `\\u00e9`."""


class Words:
    """The stand-ins of one request."""

    __slots__ = ("_by_prefix", "_longest", "_prefix_bytes", "_sorted", "_starts")

    def __init__(self, words: Iterable[bytes]) -> None:
        self._sorted = sorted(words)
        self._longest = max(map(len, self._sorted))
        self._prefix_bytes = min(_PREFIX_BYTES, *map(len, self._sorted))
        # A request may hold thousands of stand-ins, so a word is looked up, not tried one after the other.
        self._by_prefix: dict[bytes, list[bytes]] = {}
        for word in sorted(self._sorted, key=len, reverse=True):
            self._by_prefix.setdefault(word[: self._prefix_bytes], []).append(word)
        first = b"".join(map(re.escape, sorted({word[:1] for word in self._sorted})))
        self._starts = re.compile(_TOKEN_START + b"[" + first + b"]")

    def replace(self, data: bytes, before: bytes, original: Callable[[bytes], bytes]) -> bytes:
        """`data` with every whole word replaced. `before`: the last bytes in front of it, already given out."""
        whole = before + data
        out: list[bytes] = []
        copied = len(before)
        for start, end in self._matches(whole, copied):
            out += (whole[copied:start], original(whole[start:end]))
            copied = end
        return data if not out else b"".join((*out, whole[copied:]))

    def split(self, data: bytes, before: bytes) -> int:
        """Where to cut `data`: what follows may be the beginning of a word, or a word whose end is not seen yet."""
        whole = before + data
        skip = len(before)
        start = max(skip, len(whole) - self._longest)
        # A whole word that reaches into the tail is no place to cut; words do not overlap.
        taken = list(self._matches(whole, max(skip, start - self._longest)))
        for found in self._starts.finditer(whole, start):
            at = found.start()
            if self._begins(whole[at:]) and not any(left < at < right for left, right in taken):
                return at - skip
        return len(data)

    def _matches(self, whole: bytes, start: int) -> Iterator[tuple[int, int]]:
        """Whole words from `start` on, leftmost first, the longest of each place."""
        for found in self._starts.finditer(whole, start):
            at = found.start()
            if at < start:
                continue
            for word in self._by_prefix.get(whole[at : at + self._prefix_bytes], ()):
                end = at + len(word)
                if whole.startswith(word, at) and not _JOINS.match(whole, end):
                    yield at, end
                    start = end
                    break

    def _begins(self, tail: bytes) -> bool:
        at = bisect_left(self._sorted, tail)
        return at < len(self._sorted) and self._sorted[at].startswith(tail)
