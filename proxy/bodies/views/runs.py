"""Runs of base64 (RFC 4648 sections 4 and 5) and of hex digits that hide a text."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from proxy.bodies.kinds import RUN_TABLE
from proxy.bodies.views import Reading

_LEAST: Final = 24
"""Characters: shorter runs are words and ids; 24 base64 characters carry 18 bytes, a card number and two more."""

_BASE64: Final = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{24,}+={0,2}+")
_WRAPPED: Final = re.compile(r"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]{24,}+\r?\n)++[A-Za-z0-9+/]*+={0,2}+")
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2}[ :,-]?){11,}[0-9A-Fa-f]{2}")
_SPACE: Final = re.compile(r"\s+")
_TO_STANDARD: Final = str.maketrans("-_", "+/")


def _from_base64(run: str) -> bytes | None:
    compact = _SPACE.sub("", run).rstrip("=").translate(_TO_STANDARD)
    compact = compact[: len(compact) - (len(compact) % 4 == 1)]
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _from_hex(run: str) -> bytes | None:
    try:
        return bytes.fromhex(re.sub(r"[^0-9A-Fa-f]", "", run))
    except ValueError:
        return None


def printable_text(data: bytes | None) -> str | None:
    """`data` as text if it is one: UTF-8 (or UTF-16 with its NUL bytes) and almost no control characters."""
    if not data:
        return None
    try:
        text = data.decode("utf-8")
        if text.count("\0") * 3 > len(text):
            text = data.decode("utf-16-le" if data[1] == 0 else "utf-16-be")
    except UnicodeDecodeError:
        return None
    odd = sum(1 for char in text if char < " " and char not in "\t\n\r")
    return text if odd * 20 <= len(text) else None


def _runs(text: str, pattern: re.Pattern[str], decode: Callable[[str], bytes | None]) -> Iterator[Reading]:
    for match in pattern.finditer(text):
        inner = printable_text(decode(match[0]))
        if inner is not None:
            yield Reading(inner, _constant(match.span()), whole=True)


def _constant(whole: tuple[int, int]) -> Callable[[int, int], tuple[int, int]]:
    def span(_start: int, _end: int) -> tuple[int, int]:
        return whole

    return span


_HEX_TABLE: Final = bytes(0x78 if code in b"0123456789abcdefABCDEF" else 0x20 for code in range(256))
_RUN: Final = b"x" * _LEAST


def view(text: str) -> Sequence[Reading]:
    """One reading per run that decodes to a text. Byte tables tell in microseconds that there is none."""
    if len(text) < _LEAST:
        return ()
    raw = text.encode("latin-1", "replace")
    found: list[Reading] = []
    if _RUN in raw.translate(RUN_TABLE):
        found += _runs(text, _BASE64, _from_base64)
        found += _runs(text, _WRAPPED, _from_base64)
    if _RUN in raw.translate(_HEX_TABLE, b" :,-"):
        found += _runs(text, _HEX, _from_hex)
    return found


VIEW: Final = view
