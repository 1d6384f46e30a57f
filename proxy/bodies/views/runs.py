"""Runs of base64 (RFC 4648 sections 4 and 5), base32 (section 6) and hex digits that hide a text.

A run may have other characters of its alphabet in front, so that it is read at each alignment, and what counts are the
stretches of text that come out. Byte tables find the runs: a regular expression over all text costs ten times as much.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from proxy.bodies.kinds import RUN_TABLE
from proxy.bodies.views import Reading, constant

_LEAST: Final = 24
"""Characters: shorter runs are words and ids; 24 base64 characters carry 18 bytes, a card number and two more."""
_LEAST_RUN: Final = 15
"""The shortest run of all: an SSN in base64 or base32."""
_LEAST_TEXT: Final = 9
"""Characters of text in what was decoded: a US SSN. Noise has a stretch of nine once in 5,000 characters."""

_ESCAPED_BREAKS: Final = re.compile(
    r"(?<![A-Za-z0-9+/_-])(?:[A-Za-z0-9+/_-]{8,}+\\(?:r\\)?n)++[A-Za-z0-9+/_-]*+={0,2}+"
)
_GROUPED: Final = re.compile(
    r"(?<![A-Za-z0-9+/_-])(?:(?:[A-Za-z0-9+/_-]{4}){1,4}[ .,|:]){4,}+(?:[A-Za-z0-9+/_-]{2,16}+)?={0,2}+"
)
_NUMERIC: Final = re.compile(r"(?:[I-P][A-Za-z0-9+/_-]{3}){3,6}+[A-Za-z0-9+/_-]{0,3}")
"""The base64 of digits and punctuation only (bytes 20 to 3F hex), which may be shorter: a card number or SSN alone."""
_HEX_PAIRS: Final = re.compile(
    r"(?<![0-9A-Fa-f])(?:0[xX])?[0-9A-Fa-f]{2}(?:[ :,;.-]{1,2}(?:0[xX])?[0-9A-Fa-f]{2}){8,}+"
)
_BREAKS: Final = re.compile(r"\\[rn]|[^A-Za-z0-9+/_-]+")
_NO_HEX: Final = re.compile(r"0[xX]|[^0-9A-Fa-f]+")
_HEX_OR_DASH: Final = "0123456789abcdefABCDEF-"
"""A run of these only is a digest or a UUID: no text has so few characters in base64."""
_TO_STANDARD: Final = str.maketrans("-_", "+/")
_STRETCH: Final = re.compile(
    rb"(?:[\t\r\n\x20-\x7e]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]"
    rb"|[\xe1-\xef][\x80-\xbf]{2}|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf4][\x80-\xbf]{3}){9,}+"
)
_WIDE: Final = re.compile(rb"(?:[\t\r\n\x20-\x7e]\0){9,}+")
_TELLING: Final = re.compile(r"[ @.,:\-\d]")
_BASE32_REST: Final = (0, 1, 0, 1, 0, 0, 1, 0)
"""By length modulo 8: symbols that carry no whole byte (RFC 4648 section 6)."""


def _table(alphabet: bytes) -> bytes:
    return bytes(0x78 if code in alphabet else 0x20 for code in range(256))


_ASCII_TABLE: Final = _table(bytes((9, 10, 13, *range(0x20, 0x7F))))
_HEX_TABLE: Final = _table(b"0123456789abcdefABCDEF")
_BASE32_TABLES: Final = (
    _table(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"),
    _table(b"abcdefghijklmnopqrstuvwxyz234567"),
)
_LINES_TABLE: Final = bytes(10 if code == 10 else 0x20 if code == 13 else RUN_TABLE[code] for code in range(256))
_TWO_LINES: Final = re.compile(rb"\nx{4,}+ ?\nx{4}")
_LONG_LINES: Final = (b"x" * 12 + b"\nx", b"x" * 12 + b" \nx")
_LINES: Final = re.compile(rb"(?:x++ ?\n)*+x*+")
_PAIRS: Final = (b"xx " * 8, b"xx  " * 8, b"x xx " * 8, b"x xx  " * 8)
"""Hex digits two by two, with one or two separators, with or without `0x`."""
_PAIR_FILLERS: Final = b" :,;.-xX"
_GROUPS: Final = (b"xxxx " * 4, (b"x" * 8 + b" ") * 3, (b"x" * 16 + b" ") * 2)
_PADDING: Final = re.compile(r"={0,6}")


def _wrapped(run: str) -> Iterator[bytes]:
    return _base64(_BREAKS.sub("", run))


def _base64(run: str) -> Iterator[bytes]:
    """At each alignment of four."""
    compact = run.translate(_TO_STANDARD)
    for skip in range(min(4, len(compact) - 8)):
        part = compact[skip:]
        part = part[: len(part) - (len(part) % 4 == 1)]
        yield binascii.a2b_base64(part + "=" * (-len(part) % 4))


def _base32(run: str) -> Iterator[bytes]:
    """At each alignment of eight."""
    digits = run.upper()
    for skip in range(8):
        part = digits[skip:]
        part = part[: len(part) - _BASE32_REST[len(part) % 8]]
        yield base64.b32decode(part + "=" * (-len(part) % 8))


def _hex(run: str) -> Iterator[bytes]:
    digits = _NO_HEX.sub("", run)
    for skip in (0, 1):
        part = digits[skip:]
        yield bytes.fromhex(part[: len(part) & ~1])


def hidden_text(data: bytes) -> str:
    """The stretches of text in `data`: UTF-8, or UTF-16 of ASCII. Empty where there is none."""
    if b"x" * _LEAST_TEXT not in data.translate(_ASCII_TABLE) and not _is_utf8(data) and b"\0" not in data:
        return ""
    found = [match[0].decode("utf-8", "replace") for match in _STRETCH.finditer(data)]
    found += [match[0].decode("utf-16-le") for match in _WIDE.finditer(data)]
    return "\n".join(text for text in found if _TELLING.search(text) or len(text) >= _LEAST)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _of(span: tuple[int, int], run: str, decode: Callable[[str], Iterator[bytes]]) -> Iterator[Reading]:
    for data in decode(run):
        inner = hidden_text(data)
        if inner:
            yield Reading(inner, constant(*span), whole=True)


def _matches(text: str, pattern: re.Pattern[str], decode: Callable[[str], Iterator[bytes]]) -> Iterator[Reading]:
    for match in pattern.finditer(text):
        run = match[0].rstrip(" .,|:")
        yield from _of((match.start(), match.start() + len(run)), run, decode)


def _padded(text: str, start: int, end: int) -> tuple[int, int]:
    match = _PADDING.match(text, end)
    return start, match.end() if match else end


def _spans(coded: bytes, least: int) -> Iterator[tuple[int, int]]:
    """The runs of at least `least` characters that a table mapped to `x`; at the speed of memory."""
    wanted = b"x" * least
    at = coded.find(wanted)
    while at >= 0:
        end = coded.find(b" ", at)
        end = len(coded) if end < 0 else end
        yield at, end
        at = coded.find(wanted, end)


def _wrapped_spans(lines: bytes) -> Iterator[tuple[int, int]]:
    """Lines that hold nothing but a run, with the run that ends the line before."""
    done = 0
    while (at := _next_wrapped(lines, done)) >= 0:
        tail = at - (at > done and lines[at - 1 : at] == b" ")
        begin = max(lines.rfind(b" ", done, tail), lines.rfind(b"\n", done, tail), done - 1) + 1
        match = _LINES.match(lines, begin)
        done = max(match.end() if match else 0, at + 2)
        if match and match.end() - begin > _LEAST_RUN:
            yield begin, match.end()


def _next_wrapped(lines: bytes, start: int) -> int:
    found = _TWO_LINES.search(lines, start)
    places = [lines.find(line, start) for line in _LONG_LINES]
    return min((at for at in (*places, found.start() if found else -1) if at >= 0), default=-1)


def _solid(text: str, coded: bytes) -> Iterator[Reading]:
    """Runs without a break."""
    for start, end in _spans(coded, _LEAST_RUN):
        run = text[start:end]
        long = end - start >= _LEAST or text[end : end + 1] == "="
        if (long and run.strip(_HEX_OR_DASH)) or _NUMERIC.fullmatch(run):
            yield from _of(_padded(text, start, end), run, _base64)


def _solid_of_few_letters(text: str, raw: bytes) -> Iterator[Reading]:
    """Runs without a break of smaller alphabets."""
    for table in _BASE32_TABLES:
        for start, end in _spans(raw.translate(table), _LEAST_RUN):
            yield from _of(_padded(text, start, end), text[start:end], _base32)
    for start, end in _spans(raw.translate(_HEX_TABLE), 2 * _LEAST_TEXT):
        yield from _of((start, end), text[start:end], _hex)


def view(text: str) -> Sequence[Reading]:
    """One reading per run and alignment that decodes to a text."""
    if len(text) < _LEAST_RUN:
        return ()
    raw = text.encode("latin-1", "replace")
    coded = raw.translate(RUN_TABLE)
    found = list(_solid(text, coded))
    solid, grouped = b"x" * _LEAST_RUN in coded, any(groups in coded for groups in _GROUPS)
    del coded  # as large as the text
    if solid:
        found += _solid_of_few_letters(text, raw)
        if "\\n" in text:
            found += _matches(text, _ESCAPED_BREAKS, _wrapped)
    if "\n" in text:
        for start, end in _wrapped_spans(raw.translate(_LINES_TABLE)):
            found += _of(_padded(text, start, end), text[start:end], _wrapped)
    if grouped:
        found += _matches(text, _GROUPED, _wrapped)
    if b"x" * 2 * _LEAST_TEXT in raw.translate(_HEX_TABLE, _PAIR_FILLERS):
        digits = raw.translate(_HEX_TABLE)
        if any(pairs in digits for pairs in _PAIRS):
            found += _matches(text, _HEX_PAIRS, _hex)
    return found


VIEW: Final = view
