"""The index of a table: keyed hashes of its cells, sorted, with the rows they stand in. No cell can be read from it.

A file is one line `egress-edm-1 DIGEST`, where DIGEST is the hex SHA-256 of all that follows; one line of JSON
(`Header`), padded to a multiple of 64 bytes; then little-endian arrays: `tags` (uint64, sorted, one per cell), `cells`
(uint32: row in the low 28 bits, column in the high 4), `words` (uint64, sorted, one per distinct word of names and
texts), `reaches` (uint16 per word: bit n - 1 set when a cell of n words holds it; low byte names, high byte texts).

A tag is the first 64 bits of BLAKE2b, keyed (RFC 7693; a MAC like HMAC, at a third of its cost), over kind and
spelling. The key is HKDF of the root secret under its own purpose, then of the index's own random salt: without the
root secret nothing can be tried against the file, and two indexes of one table have nothing in common.

A value that is in no cell has a tag of some cell with a probability of cells / 2^64: 2e-13 for a million rows of four.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from proxy.customdata.words import KINDS, Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC: Final = b"egress-edm-1 "
FIRST_LINE_BYTES: Final = len(MAGIC) + 64 + 1
MAX_HEADER_BYTES: Final = 64 << 10
MAX_COLUMNS: Final = 16
MAX_ROWS: Final = 1 << 28
ROW_MASK: Final = MAX_ROWS - 1
COLUMN_SHIFT: Final = 28
_ALIGN_BYTES: Final = 64
TEXT_SHIFT: Final = 8
"""Names have up to six words and texts up to eight: 16 bits hold both."""


class BadIndex(ValueError):
    """The file is no index, is damaged, or was made with another key. The message says which."""


@dataclass(frozen=True, slots=True)
class Header:
    """`key_id`: the generation of the root secret. `columns`: (name, kind) in the table's order. `number_lengths`: of
    the cells of kind `number`."""

    key_id: str
    salt: str
    columns: tuple[tuple[str, Kind], ...]
    rows: int
    cells: int
    words: int
    number_lengths: tuple[int, ...]

    def line(self) -> bytes:
        """JSON, padded so that the arrays begin aligned."""
        text = orjson.dumps(asdict(self))
        return (
            text.ljust(-(-(len(text) + 1 + FIRST_LINE_BYTES) // _ALIGN_BYTES) * _ALIGN_BYTES - 1 - FIRST_LINE_BYTES)
            + b"\n"
        )


def read_header(beginning: bytes) -> tuple[str, Header, int]:
    """(digest that the file claims, header, where the arrays begin) from the first bytes. Raises BadIndex."""
    if not beginning.startswith(MAGIC):
        raise BadIndex("not an index of `egress data index`")
    digest = beginning[len(MAGIC) : FIRST_LINE_BYTES - 1].decode("ascii", "replace")
    end = beginning.find(b"\n", FIRST_LINE_BYTES, FIRST_LINE_BYTES + MAX_HEADER_BYTES)
    try:
        fields = orjson.loads(beginning[FIRST_LINE_BYTES : max(0, end)])
        columns = tuple((str(name), cast("Kind", kind)) for name, kind in fields["columns"])
        lengths = tuple(map(int, fields["number_lengths"]))
        counts = {name: int(fields[name]) for name in ("rows", "cells", "words")}
        header = Header(str(fields["key_id"]), str(fields["salt"]), columns, number_lengths=lengths, **counts)
    except (ValueError, KeyError, TypeError):
        raise BadIndex("the header is damaged") from None
    if not all(kind in KINDS for _, kind in columns) or not 0 < len(columns) <= MAX_COLUMNS:
        raise BadIndex("the header names columns that this version does not know")
    return digest, header, end + 1


def index_key(master: bytes, salt: str) -> bytes:
    """The key of one index: HKDF-Expand (RFC 5869 section 2.3) of the key that the root secret gives for all."""
    return hmac.digest(master, b"egress exact match " + salt.encode() + b"\x01", "sha256")


class Tagger:
    """Keyed hashes of values and words."""

    def __init__(self, key: bytes) -> None:
        self._cells = {kind: hashlib.blake2b(kind.encode() + b"\0", key=key, digest_size=8) for kind in KINDS}
        self._words = hashlib.blake2b(b"word\0", key=key, digest_size=8)

    def cell(self, kind: Kind, value: str) -> int:
        """The tag of a spelled cell."""
        state = self._cells[kind].copy()
        state.update(value.encode("utf-8", "surrogatepass"))
        return int.from_bytes(state.digest(), "little")

    def words(self, words: Iterable[str]) -> bytes:
        """The tags of words, eight bytes each, little-endian."""
        copy = self._words.copy
        out = []
        for word in words:
            state = copy()
            state.update(word.encode("utf-8", "surrogatepass"))
            out.append(state.digest())
        return b"".join(out)


@dataclass(frozen=True, slots=True)
class Index:
    """A loaded index. Its arrays look into the file's own pages, which all processes of a machine share."""

    header: Header
    tagger: Tagger
    tags: "NDArray[np.uint64]"
    cells: "NDArray[np.uint32]"
    words: "NDArray[np.uint64]"
    reaches: "NDArray[np.uint16]"

    @classmethod
    def load(cls, data: Any, digest: str, masters: Mapping[str, bytes]) -> "Index":
        """From the whole file (any buffer). `masters`: generation of the root secret -> key. Raises BadIndex when the
        content is not what `digest` names, or no key is its own."""
        import numpy as np

        view = memoryview(data)
        claimed, header, start = read_header(bytes(view[: FIRST_LINE_BYTES + MAX_HEADER_BYTES]))
        if claimed != digest or hashlib.sha256(view[FIRST_LINE_BYTES:]).hexdigest() != digest:
            raise BadIndex("the index was altered or is damaged")
        if header.key_id not in masters:
            raise BadIndex("the index was made with a root key that is not known here")
        arrays: list[Any] = []
        kinds = (("<u8", header.cells), ("<u4", header.cells), ("<u8", header.words), ("<u2", header.words))
        for dtype, count in kinds:
            if start + np.dtype(dtype).itemsize * count > len(view):
                raise BadIndex("the index ends too early")
            arrays.append(np.frombuffer(view, dtype, count, start))
            start += np.dtype(dtype).itemsize * count
        tagger = Tagger(index_key(masters[header.key_id], header.salt))
        return cls(header, tagger, *arrays)

    def columns_of(self, names: Iterable[str]) -> int:
        """A bit set of the columns called so; of all when none is named."""
        wanted = set(names)
        return sum(1 << at for at, (name, _) in enumerate(self.header.columns) if not wanted or name in wanted)

    def reaches_of(self, words: Sequence[str]) -> Mapping[str, int]:
        """Word -> bit set of cell lengths, for the words that stand in some cell of words."""
        import numpy as np

        if not len(self.words) or not words:
            return {}
        tags = np.frombuffer(self.tagger.words(words), "<u8")
        at = np.minimum(np.searchsorted(self.words, tags), len(self.words) - 1)
        known = np.nonzero(self.words[at] == tags)[0]
        return {words[index]: int(self.reaches[at[index]]) for index in known.tolist()}

    def known(self, tags: Sequence[int]) -> list[int]:
        """The positions in `tags` of those that stand in the table."""
        import numpy as np

        wanted = np.array(tags, "<u8")
        at = np.minimum(np.searchsorted(self.tags, wanted), len(self.tags) - 1)
        found: list[int] = np.nonzero(self.tags[at] == wanted)[0].tolist()
        return found

    def rows_of(self, tags: Sequence[int]) -> Iterator[tuple[int, "NDArray[np.uint32]"]]:
        """(position in `tags`, its cells) for the tags that stand in the table."""
        import numpy as np

        wanted = np.array(tags, "<u8")
        low = np.searchsorted(self.tags, wanted, "left")
        high = np.searchsorted(self.tags, wanted, "right")
        for position in np.nonzero(high > low)[0].tolist():
            yield position, self.cells[low[position] : high[position]]
