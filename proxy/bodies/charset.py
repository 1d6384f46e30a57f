"""Which characters the bytes of a text stand for, without a way to hide some.

Order: byte order mark, label, pattern of NUL bytes, UTF-8, else single bytes. The receiver may go by the label or not
(RFC 8259 section 8.1: JSON is UTF-8 whatever the label says), so a label is only believed where the bytes agree.
"""

import re
from collections.abc import Sequence
from typing import Final

from proxy.bodies.layers import Edit, Layer, Namer, TextLayer
from proxy.errors import Denied

_ASCII_SUPERSETS: Final = frozenset(
    ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "latin1", "iso-8859-15", "windows-1252", "cp1252")
)
_WIDE_LABELS: Final = {
    "utf-16": ("utf-16-le", "utf-16-be"),
    "utf-16le": ("utf-16-le",),
    "utf-16be": ("utf-16-be",),
    "utf-32": ("utf-32-le", "utf-32-be"),
    "utf-32le": ("utf-32-le",),
    "utf-32be": ("utf-32-be",),
}
_MARKS: Final = (
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_NARROW: Final = "utf-8"
_ALL_MARKS: Final = (*_MARKS, (b"\xef\xbb\xbf", _NARROW))
_LONE_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_ASCII_RUN: Final = re.compile(rb"[\x20-\x7e]{8,}")


def _stand_in(code: int) -> str:
    """What the detector sees for a character that UTF-8 cannot carry: an undecodable byte as cp1252, else U+FFFD."""
    if not 0xDC80 <= code <= 0xDCFF:
        return "\ufffd"
    return bytes([code - 0xDC00]).decode("cp1252", "replace")


_STAND_INS: Final = {code: _stand_in(code) for code in range(0xD800, 0xE000)}


def printable(text: str) -> str:
    """`text` with the same offsets and without lone surrogates, on which detectors raise."""
    if text.isascii() or not _LONE_SURROGATES.search(text):
        return text
    return text.translate(_STAND_INS)


def codec_of(data: bytes, label: str | None) -> str:
    """The Python codec to read `data` with. `label`: the charset parameter, or None.

    Raises Denied `encoding` for a label that is not on the list, and for one that the bytes contradict.
    """
    name = (label or "utf-8").strip().strip("\"'").lower().replace("_", "-")
    if name not in _ASCII_SUPERSETS and name not in _WIDE_LABELS:
        raise Denied("encoding", "the charset is not one of UTF-8, UTF-16, UTF-32, ASCII, ISO-8859-1, windows-1252")
    found = next((codec for mark, codec in _MARKS if data.startswith(mark)), None) or _nul_pattern(data)
    if name in _WIDE_LABELS and data and found not in _WIDE_LABELS[name]:
        raise Denied("encoding", f"the body is labelled {name} and is not")
    return found or _NARROW


def _nul_pattern(data: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: mostly Latin text has its NUL bytes all in the same places (RFC 4627 sec. 3)."""
    if b"\0" not in data or len(data) % 2:
        return None
    lanes = [data[lane::4].count(0) / (len(data) / 4) for lane in range(4)]
    most = [share > 0.7 for share in lanes]
    if len(data) % 4 == 0:
        if most == [False, True, True, True]:
            return "utf-32-le"
        if most == [True, True, True, False]:
            return "utf-32-be"
    if most == [False, True, False, True]:
        return "utf-16-le"
    return "utf-16-be" if most == [True, False, True, False] else None


def narrow_readings(data: bytes, codec: str) -> str:
    """For wide text: the runs of plain ASCII bytes in it, in case the receiver reads single bytes after all."""
    if codec == _NARROW:
        return ""
    return "\n".join(run.decode("ascii") for run in _ASCII_RUN.findall(data))


class CharsetLayer(TextLayer):
    """Bytes from `start` of the parent on as text, without a byte order mark.

    Undecodable bytes become lone surrogates (PEP 383) and go back as such.

    Raises Denied `encoding` when wide text is cut or damaged.
    """

    __slots__ = ("_codec", "_errors", "_start", "label", "parent")

    def __init__(self, parent: Layer, data: bytes, start: int, codec: str, label: str = "") -> None:
        self.parent: Layer | None = parent
        self.label = label
        mark = next((mark for mark, _ in _ALL_MARKS if data.startswith(mark)), b"")
        self._start = start + len(mark)
        self._codec = codec
        self._errors = "surrogateescape" if codec == _NARROW else "surrogatepass"
        try:
            self.text = data[len(mark) :].decode(codec, self._errors)
        except UnicodeDecodeError:
            raise Denied("encoding", f"the body is not valid {codec}") from None

    def lift(self, edits: Sequence[Edit]) -> list[Edit]:
        """Positions in bytes, counted on from one edit to the next."""
        out: list[Edit] = []
        chars, at = 0, self._start
        for edit in edits:
            begin = at + self._bytes(self.text[chars : edit.start])
            at = begin + self._bytes(self.text[edit.start : edit.end])
            chars = edit.end
            out.append(Edit(begin, at, edit.new.encode(self._codec, self._errors).decode("latin-1")))
        return out

    def _bytes(self, text: str) -> int:
        if self._codec == _NARROW and text.isascii():
            return len(text)
        return len(text.encode(self._codec, self._errors))

    def where(self, name: Namer) -> str:
        outer = self.parent.where(name) if self.parent is not None else ""
        return f"{outer} {self.label}" if self.label else outer
