r"""Escapes in a text: of JSON and programming languages (`\u0034`), of HTML (`&#52;`), of URLs (`%34`).

Quoted-printable (RFC 2045 section 6.7) too, which a text is taken for where a line of it ends in `=` or its codes stand
where nothing else puts them; and encoded words of mail headers (RFC 2047).
"""

import html
import re
from collections.abc import Iterator, Sequence
from email.errors import HeaderParseError
from email.header import decode_header
from typing import Final

from proxy.bodies.offsets import Piece
from proxy.bodies.views import Reading, replaced

_BACKSLASH: Final = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ENTITY: Final = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});?")
_PERCENT: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_SOFT_BREAK: Final = re.compile(
    r"=[ \t]*\r?\n|=3D|(?<=\w)=(?:40|2E|20)(?=\w)|(?:=[0-9A-F]{2}){2}|(?:=3[0-9]|[0-9]|=2D){3}(?<=[0-9])=3[0-9]"
)
_WORD: Final = re.compile(r"=\?[\w\-]{1,40}\?[QqBb]\?[^?\s]{1,400}\?=")
_QUOTED: Final = re.compile(r"=[ \t]*\r?\n|((?:=[0-9A-Fa-f]{2})+)")
_SHORT: Final = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_LAST_CODE_POINT: Final = 0x10FFFF


def _from_backslash(match: re.Match[str]) -> tuple[Piece, ...]:
    digits = match[1] or match[2] or match[3]
    if digits is None:
        return ((_SHORT.get(match[4], match[4]), 2),)
    code = int(digits, 16)
    return ((chr(code) if code <= _LAST_CODE_POINT else "\ufffd", len(match[0])),)


def _from_entity(match: re.Match[str]) -> tuple[Piece, ...]:
    return ((html.unescape(match[0]), len(match[0])),)


def _from_quoted(match: re.Match[str]) -> Iterator[Piece]:
    if match[1] is None:
        yield "", len(match[0])
        return
    for char in bytes.fromhex(match[1].replace("=", "")).decode("utf-8", "surrogateescape"):
        yield char, 3 * len(char.encode("utf-8", "surrogateescape"))


def _from_word(match: re.Match[str]) -> tuple[Piece, ...]:
    """An encoded word of a mail header (RFC 2047)."""
    try:
        parts = decode_header(match[0])
        text = "".join(
            part if isinstance(part, str) else part.decode(charset or "ascii", "replace") for part, charset in parts
        )
    except (LookupError, ValueError, HeaderParseError):
        text = match[0]
    return ((text, len(match[0])),)


def from_percent(match: re.Match[str]) -> Iterator[Piece]:
    """The characters of a run of `%XX`, three source characters per byte; undecodable bytes as lone surrogates."""
    for char in bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogateescape"):
        yield char, 3 * len(char.encode("utf-8", "surrogateescape"))


_CODED: Final = re.compile(r"\\[ux]")
_STEPS: Final = (
    ("\\", _CODED, _BACKSLASH, _from_backslash),
    ("&", _ENTITY, _ENTITY, _from_entity),
    ("%", _PERCENT, _PERCENT, from_percent),
    ("=", _SOFT_BREAK, _QUOTED, _from_quoted),
    ("=?", _WORD, _WORD, _from_word),
)


def view(text: str) -> Sequence[Reading]:
    """One reading per kind of escape that occurs."""
    found: list[Reading] = []
    for mark, trigger, pattern, decode in _STEPS:
        if mark in text and trigger.search(text):
            found += replaced(pattern, text, decode)
    return found


VIEW: Final = view
