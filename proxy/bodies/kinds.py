"""What kind of thing some bytes are, by what they say themselves: a label is only a claim."""

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterator
from typing import Final, Literal

type Kind = Literal["text", "image", "audio", "pdf", "zip", "encrypted", "sealed", "unknown"]
"""`sealed`: state that a provider enciphered for itself and gets back; nothing but the provider reads it."""

_SIGNATURES: Final[tuple[tuple[bytes, Kind], ...]] = (
    (b"\x89PNG\r\n\x1a\n", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF87a", "image"),
    (b"GIF89a", "image"),
    (b"II*\0", "image"),
    (b"MM\0*", "image"),
    (b"ID3", "audio"),
    (b"OggS", "audio"),
    (b"fLaC", "audio"),
    (b"\xff\xfb", "audio"),
    (b"\xff\xf3", "audio"),
    (b"\xff\xf1", "audio"),
    (b"%PDF-", "pdf"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"Salted__", "encrypted"),
    (b"age-encryption.org/", "encrypted"),
    (b"-----BEGIN PGP MESSAGE-----", "encrypted"),
    (b"-----BEGIN AGE ENCRYPTED FILE-----", "encrypted"),
    (b"\x85\x01", "encrypted"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "unknown"),
)
"""Magic numbers (file(1), IANA media types). 85 01 / 02 is an OpenPGP session key packet (RFC 9580 section 4.2)."""

_RIFF: Final[dict[bytes, Kind]] = {b"WEBP": "image", b"WAVE": "audio"}
_BRANDS: Final[dict[bytes, Kind]] = {
    b"heic": "image",
    b"heix": "image",
    b"mif1": "image",
    b"avif": "image",
    b"M4A ": "audio",
    b"M4B ": "audio",
}
_CONTROL: Final = bytes(code for code in range(32) if code not in b"\t\n\r\f\x08\x1b")
_BASE64_FIELD: Final = re.compile(r"[A-Za-z0-9+/_-]{24,}+[A-Za-z0-9+/_\s-]*+={0,2}+\s*+")
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"
_HEX_FIELD: Final = re.compile(r"(?:[0-9a-fA-F]{2})+")
_DATA_URL: Final = re.compile(r"data:[^,;\s]{0,100}(?:;[^,;\s]{1,100}){0,8};base64,", re.IGNORECASE)
_LONG_RUN: Final = re.compile(r"(?<![A-Za-z0-9+/_-])(?:[A-Za-z0-9+/_-]{60,}+(?:\r?\n|\\n)?)++[A-Za-z0-9+/_-]*+={0,2}+")
_COMPRESSED: Final = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh")
_MAIL: Final = re.compile(
    rb"(?:(?:Received|Return-Path|Delivered-To|From|To|Cc|Subject|Date|Message-ID|MIME-Version|Reply-To|Content-[\w-]+"
    rb"|X-[\w-]+):[^\n]*\n(?:[ \t][^\n]*\n)*){2,}",
    re.IGNORECASE,
)
_CODED_PART: Final = re.compile(
    rb"^content-transfer-encoding:\s*(?:base64|quoted-printable)", re.IGNORECASE | re.MULTILINE
)
_MOST_HEAD_BYTES: Final = 64 << 10
_MIN_ALPHABET: Final = 24
"""Distinct characters in a run: rulers and padding (`-----`, `AAAA`) have few, coded data nearly all 64; hex has 16."""

RUN_TABLE: Final = bytes(0x78 if chr(code) in _ALPHABET else 0x20 for code in range(256))
"""Maps the characters of base64 to `x`: a quick test for runs of them."""

_TO_STANDARD: Final = str.maketrans("-_", "+/", " \t\r\n")
_SAMPLE_CHARS: Final = 4096
MIN_BASE64_CHARS: Final = 40
"""The smallest image (a one-pixel GIF) takes 48 characters."""

MIN_OPAQUE_CHARS: Final = 256
"""A base64 field that is no text and no known medium counts as unknown data from this length on: below it stand
digests, signatures, keys and ids, which the detector sees as text."""


def sniff(data: bytes) -> Kind:
    """The kind of `data`. Text is what has no NUL and no other control characters, or a pattern of UTF-16."""
    for magic, kind in _SIGNATURES:
        if data.startswith(magic):
            return "encrypted" if _is_locked(data, kind) else kind
    if data[257:262] == b"ustar":
        return "zip"
    if data[:4] == b"RIFF" and data[8:12] in _RIFF:
        return _RIFF[data[8:12]]
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "unknown")
    if data[:2] == b"BM" and len(data) > 14 and int.from_bytes(data[2:6], "little") == len(data):
        return "image"
    return "text" if is_text(data) else "unknown"


def _is_locked(data: bytes, kind: Kind) -> bool:
    if kind == "pdf":
        return b"/Encrypt" in data
    # APPNOTE.TXT 4.4.4: bit 0 of the general purpose flag of the first entry
    return kind == "zip" and len(data) > 7 and data[:4] == b"PK\x03\x04" and bool(data[6] & 1)


def is_text(data: bytes) -> bool:
    """True for bytes that some charset of `charset` reads as text: at most one control character in fifty."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        wide = "utf-32" if data.startswith(b"\xff\xfe\0\0") else "utf-16"
        return _plausible(data.decode(wide, "replace"))
    odd = len(data) - len(data.translate(None, _CONTROL))
    if odd * 50 <= len(data):
        return _mostly_utf8(data)
    return data.count(0) * 5 > len(data) and odd == data.count(0)


def _plausible(text: str) -> bool:
    """Few characters that no text has: noise read as UTF-16 is full of unassigned and private ones."""
    sample = text[:_SAMPLE_CHARS] + text[-_SAMPLE_CHARS:]
    odd = sum(unicodedata.category(char) in ("Cc", "Cn", "Co", "Cs") and char not in "\t\n\r\f" for char in sample)
    return odd * 50 <= len(sample)


def _mostly_utf8(data: bytes) -> bool:
    """Single-byte text has few bytes over 127; compressed and enciphered data has them everywhere."""
    if data.isascii():
        return True
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        high = len(data) - len(data.translate(None, bytes(range(128, 256))))
        return high * 2 <= len(data)
    return True


def is_mail(data: bytes) -> bool:
    """True for a mail message (RFC 5322) with a coded part; one without reads as the text it is."""
    return _CODED_PART.search(data) is not None and _MAIL.match(data[:_MOST_HEAD_BYTES]) is not None


def file_of_string(text: str) -> tuple[Kind, bytes] | None:
    """For a JSON string that holds a file in base64 or hex, bare or as a data URL (RFC 2397): kind and content."""
    prefix = _DATA_URL.match(text) if text[:5].lower() == "data:" else None
    start = prefix.end() if prefix else 0
    if not _BASE64_FIELD.fullmatch(text, start):
        return None
    compact = text[start:].translate(_TO_STANDARD).rstrip("=")
    try:
        if _HEX_FIELD.fullmatch(compact):
            data = bytes.fromhex(compact)
        else:
            data = base64.b64decode(compact[: len(compact) - (len(compact) % 4 == 1)] + "=" * (-len(compact) % 4))
    except (binascii.Error, ValueError):
        return None
    kind = sniff(data)
    if data.startswith(_COMPRESSED) or (kind == "text" and is_mail(data)):
        return kind, data
    if kind == "text" or (kind == "unknown" and len(compact) < MIN_OPAQUE_CHARS and prefix is None):
        return None
    return kind, data


def files_in_text(text: str) -> Iterator[tuple[Kind, bytes]]:
    """Files in base64 within a longer text, such as a data URL in Markdown."""
    if len(text) < MIN_OPAQUE_CHARS or b"x" * 60 not in text.encode("latin-1", "replace").translate(RUN_TABLE):
        return
    for match in _LONG_RUN.finditer(text):
        run = match[0].replace("\\n", "\n")
        if len(run) < MIN_OPAQUE_CHARS or len(set(run)) < _MIN_ALPHABET:
            continue
        found = file_of_string(run)
        if found is not None:
            yield found
