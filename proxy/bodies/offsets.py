"""Where the characters of a decoded text stand in the text it was decoded from."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator

type Piece = tuple[str, int]
"""A decoded piece, and how many characters of the source it stands for."""


class Offsets:
    """Maps positions of a decoded text to its source. Outside the decoded pieces both run in step.

    `decoded[k]`, `source[k]`: both positions just behind the k-th piece; `sizes[k]`: its decoded length.
    """

    __slots__ = ("_decoded", "_sizes", "_source")

    def __init__(self, decoded: list[int], source: list[int], sizes: list[int]) -> None:
        self._decoded = decoded
        self._source = source
        self._sizes = sizes

    def at(self, position: int) -> int:
        """The source position of decoded `position`; behind what was left out, where something was, and in front of
        a piece that `position` would cut."""
        k = bisect_right(self._decoded, position)
        if k < len(self._decoded):
            position = min(position, self._decoded[k] - self._sizes[k])
        return position if k == 0 else self._source[k - 1] + position - self._decoded[k - 1]

    def shifted(self, by: int) -> "Offsets":
        """The same map when the source starts at `by` in a longer text."""
        return Offsets([0, *self._decoded], [by, *(position + by for position in self._source)], [0, *self._sizes])

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The source span that yields the decoded span, with the pieces that it cuts."""
        k = bisect_right(self._decoded, end)
        if k < len(self._decoded) and end > self._decoded[k] - self._sizes[k]:
            return self.at(start), self._source[k]
        return self.at(start), self.at(end)


def substitute(
    pattern: re.Pattern[str], text: str, decode: Callable[[re.Match[str]], Iterator[Piece] | tuple[Piece, ...]]
) -> tuple[str, Offsets]:
    """Replaces each match by the pieces that `decode` gives, which together cover the match, and keeps the map."""
    out: list[str] = []
    decoded_ends: list[int] = []
    source_ends: list[int] = []
    sizes: list[int] = []
    length = last = 0
    for match in pattern.finditer(text):
        start = match.start()
        out.append(text[last:start])
        length += start - last
        last = start
        for piece, consumed in decode(match):
            out.append(piece)
            length += len(piece)
            last += consumed
            decoded_ends.append(length)
            source_ends.append(last)
            sizes.append(len(piece))
        last = match.end()
    out.append(text[last:])
    return "".join(out), Offsets(decoded_ends, source_ends, sizes)
