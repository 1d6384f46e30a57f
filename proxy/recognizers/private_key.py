"""Private keys: PEM (RFC 7468) and OpenPGP armour, PuTTY files, age identities, and base58check wallet keys."""

import hashlib
import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import LIKELY, SURE, Recognizer

_MARK: Final = re.compile(r"-----(BEGIN|END) ((?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?)-----")
_BODY: Final = re.compile(r"(?:[A-Za-z0-9+/=:,\-\s]|\\[nrt])*")
_MIN_BODY_CHARS: Final = 40
_AGE: Final = re.compile(r"(?<![A-Z0-9])AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}(?![A-Z0-9])")
_PUTTY: Final = re.compile(r"PuTTY-User-Key-File-[123]:")
_PUTTY_END: Final = re.compile(r"Private-MAC: ?[0-9a-f]{40,64}")
_BASE58: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:[5KL9c][1-9A-HJ-NP-Za-km-z]{50,51}|[xyzt]prv[1-9A-HJ-NP-Za-km-z]{107,108})(?![A-Za-z0-9])"
)
_ALPHABET: Final = {
    char: value for value, char in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")
}
_MARKERS: Final = ("PRIVATE KEY", "AGE-SECRET-KEY-", "PuTTY-User-Key")


def base58check(text: str) -> bool:
    """Whether the last four bytes are the double SHA-256 of the rest (Bitcoin's Base58Check)."""
    number = 0
    for char in text:
        number = number * 58 + _ALPHABET[char]
    zeros = len(text) - len(text.lstrip("1"))
    raw = bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    return hashlib.sha256(hashlib.sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:]


def _pem(text: str) -> Iterator[Finding]:
    """Each BEGIN up to the next mark; without its END, as far as the text looks like a key (a cut-off paste)."""
    opened: tuple[int, int] | None = None
    for mark in _MARK.finditer(text):
        if mark[1] == "BEGIN":
            if opened is not None:
                yield from _unfinished(text, opened, mark.start())
            opened = mark.span()
        elif opened is not None:
            if mark.start() - opened[1] >= _MIN_BODY_CHARS:
                yield Finding("PRIVATE_KEY", opened[0], mark.end(), SURE, "private_key")
            opened = None
    if opened is not None:
        yield from _unfinished(text, opened, len(text))


def _unfinished(text: str, opened: tuple[int, int], limit: int) -> Iterator[Finding]:
    body = _BODY.match(text, opened[1], limit)
    if body is not None and body.end() - body.start() >= _MIN_BODY_CHARS:
        yield Finding("PRIVATE_KEY", opened[0], body.end(), LIKELY, "private_key")


def _putty(text: str) -> Iterator[Finding]:
    ends = [match.end() for match in _PUTTY_END.finditer(text)]
    for match in _PUTTY.finditer(text):
        while ends and ends[0] < match.start():
            ends.pop(0)
        if ends:
            yield Finding("PRIVATE_KEY", match.start(), ends[0], SURE, "private_key")


def _find(text: str) -> Iterator[Finding]:
    if any(marker in text for marker in _MARKERS):
        yield from _pem(text)
        yield from _putty(text)
        for match in _AGE.finditer(text):
            yield Finding("PRIVATE_KEY", match.start(), match.end(), SURE, "private_key")
    for match in _BASE58.finditer(text):
        if base58check(match[0]):
            yield Finding("PRIVATE_KEY", match.start(), match.end(), SURE, "private_key")


def _trigger(text: str) -> bool:
    return len(text) > _MIN_BODY_CHARS


RECOGNIZER: Final = Recognizer(
    name="private_key",
    entities=frozenset({"PRIVATE_KEY"}),
    layer="checksum",
    find=_find,
    trigger=_trigger,
)
