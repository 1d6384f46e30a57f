"""Files in files: zip (APPNOTE.TXT), tar (POSIX.1-2001 pax), bzip2 and xz, read whole and within caps.

An archive is taken only when all its bytes are accounted for: what stands between the members, or is listed in one of
its two tables only, would reach a receiver that reads the other one.
"""

import bz2
import html
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Final, Literal

from proxy.bodies.limits import Limits, refuse_size

_STEP_BYTES: Final = 64 << 10
_LOCAL_HEADER_BYTES: Final = 30
_MOST_DESCRIPTOR_BYTES: Final = 24
_USTAR: Final = slice(257, 262)
_TAR_BLOCK_BYTES: Final = 512
_TEXT_END: Final = re.compile(
    r"</(?:\w+:)?(?:p|si|row|c|t[rdh]|li|div|h[1-6]|title|comment|text:p|table-cell)>|<(?:\w+:)?(?:br|tab)\s*/?>"
)
_COMMENT: Final = re.compile(r"<!--|-->|<!\[CDATA\[|\]\]>")
_TAG: Final = re.compile(r"<[^<>]*>")
_ATTRIBUTE: Final = re.compile(r'\s(?!xmlns|\w+:rsid)[\w:.\-]+="([^"<>]{9,})"')
_PRINTER_SETTINGS: Final = re.compile(r"xl/printerSettings/[\w.]+\.bin")


class UnreadableError(Exception):
    """It cannot be read whole. `kind`: what policy is asked about instead."""

    def __init__(self, kind: Literal["zip", "encrypted", "pdf", "unknown"]) -> None:
        super().__init__(kind)
        self.kind: Literal["zip", "encrypted", "pdf", "unknown"] = kind


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive. `notes`: its name and other text about it."""

    data: bytes
    notes: tuple[str, ...] = ()


class Budget:
    """What all archives of one message may hold together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0
        self._members = 0

    def read(self, coded_bytes: int, chunks: Iterator[bytes]) -> bytes:
        """The chunks joined. Raises Denied `too_large` for too many, too much, or too great a growth."""
        limits = self._limits
        self._members += 1
        if self._members > limits.max_parts:
            raise refuse_size("the archives in the body", limits.max_parts, "files")
        cap = min(limits.max_decoded_bytes - self._bytes, max(limits.ratio_floor_bytes, coded_bytes * limits.max_ratio))
        parts, size = [], 0
        for chunk in chunks:
            size += len(chunk)
            if size > cap:
                raise refuse_size("the unpacked archive", limits.max_decoded_bytes, "bytes")
            parts.append(chunk)
        self._bytes += size
        return b"".join(parts)


def unzip(data: bytes, budget: Budget) -> Iterator[Member]:
    """All members. Raises UnreadableError, Denied `too_large`."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            _check_layout(data, archive)
            if archive.comment:
                yield Member(archive.comment)
            is_office = "[Content_Types].xml" in archive.namelist() or "META-INF/manifest.xml" in archive.namelist()
            for info in archive.infolist():
                if info.is_dir() and not info.file_size:
                    yield Member(b"", (info.filename,))
                    continue
                with archive.open(info) as file:
                    content = budget.read(info.compress_size, _chunks(file))
                yield _office_member(info, content) if is_office else Member(content, _notes(info))
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, EOFError, OSError, ValueError):
        raise UnreadableError("zip") from None
    except RuntimeError:  # zipfile's way of saying that it needs a password
        raise UnreadableError("encrypted") from None


def _notes(info: zipfile.ZipInfo) -> tuple[str, ...]:
    extra = info.extra.decode("latin-1") if len(info.extra) > 36 else ""
    return tuple(text for text in (info.filename, info.comment.decode("utf-8", "replace"), extra) if text)


def _office_member(info: zipfile.ZipInfo, content: bytes) -> Member:
    """Office files name their parts themselves; text stands in XML between markup."""
    if info.filename.endswith((".xml", ".rels", ".vml")):
        return Member(xml_text(content).encode("utf-8", "replace"), (info.comment.decode("utf-8", "replace"),))
    if _PRINTER_SETTINGS.fullmatch(info.filename):
        return Member(content.decode("utf-16-le", "replace").replace("\0", " ").encode("utf-8", "replace"))
    return Member(content, _notes(info))


def _chunks(file: "IO[bytes] | lzma.LZMAFile | bz2.BZ2File") -> Iterator[bytes]:
    while chunk := file.read(_STEP_BYTES):
        yield chunk


def _check_layout(data: bytes, archive: zipfile.ZipFile) -> None:
    """Members stand one behind the other from the first byte on, then the directory, and nothing else."""
    at = 0
    for info in sorted(archive.infolist(), key=_offset):
        if info.header_offset - at not in range(_MOST_DESCRIPTOR_BYTES + 1) or (at == 0 and info.header_offset):
            raise UnreadableError("zip")
        if info.flag_bits & 1:
            raise UnreadableError("encrypted")
        header = data[info.header_offset : info.header_offset + _LOCAL_HEADER_BYTES]
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        at = info.header_offset + _LOCAL_HEADER_BYTES + names + info.compress_size
    if archive.start_dir - at not in range(_MOST_DESCRIPTOR_BYTES + 1):
        raise UnreadableError("zip")
    end = data.rfind(b"PK\x05\x06")
    if end + 22 + len(archive.comment) != len(data):
        raise UnreadableError("zip")


def _offset(info: zipfile.ZipInfo) -> int:
    return info.header_offset


def xml_text(data: bytes) -> str:
    """What an XML document says: its text with a line per paragraph or cell, then its longer attributes."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    xml = data.decode("utf-16" if wide else "utf-8", "replace")
    attributes = "\n".join(dict.fromkeys(_ATTRIBUTE.findall(xml)))
    text = _TAG.sub("", _TEXT_END.sub("\n", _COMMENT.sub(" ", xml)))
    return html.unescape(f"{text}\n{attributes}")


def is_tar(data: bytes) -> bool:
    """By the magic of POSIX and GNU headers."""
    return data[_USTAR] == b"ustar"


def untar(data: bytes, budget: Budget) -> Iterator[Member]:
    """All members. Raises UnreadableError, Denied `too_large`."""
    try:
        with tarfile.open(fileobj=BytesIO(data), mode="r:") as archive:
            end = 0
            for info in archive:
                owners = (info.uname, info.gname, info.linkname, *info.pax_headers.values())
                file = archive.extractfile(info) if info.isreg() else None
                content = budget.read(info.size, iter((file.read(),))) if file is not None else b""
                yield Member(content, (info.name, *(str(text) for text in owners if text)))
                blocks = -(-(info.size if info.isreg() else 0) // _TAR_BLOCK_BYTES)
                end = info.offset_data + blocks * _TAR_BLOCK_BYTES
    except (tarfile.TarError, EOFError, OSError, ValueError):
        raise UnreadableError("zip") from None
    if data[end:].strip(b"\0"):
        raise UnreadableError("zip")


def unpack(data: bytes, budget: Budget) -> bytes | None:
    """The content of a bzip2 or xz file; None when it is neither. Raises UnreadableError, Denied `too_large`."""
    if not (data.startswith(b"BZh") and data[4:10] == b"1AY&SY") and not data.startswith(b"\xfd7zXZ\0"):
        return None
    try:
        with bz2.BZ2File(BytesIO(data)) if data.startswith(b"BZh") else lzma.LZMAFile(BytesIO(data)) as file:
            return budget.read(len(data), _chunks(file))
    except (OSError, EOFError, lzma.LZMAError, ValueError):
        raise UnreadableError("unknown") from None
