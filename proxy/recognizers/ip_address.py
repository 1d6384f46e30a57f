"""IPv4 and IPv6 addresses. Loopback and unspecified addresses point at nobody and are left alone."""

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import LIKELY, WITH_CONTEXT_ONLY, Recognizer, has_digit

_V4: Final = re.compile(r"(?<![\w.\-])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9]|-[0-9.]|\.[A-Za-z])")
_V6: Final = re.compile(r"(?<![\w:.])[0-9A-Fa-f:][0-9A-Fa-f:.]+(?![\w:])")
_MAX_V6_CHARS: Final = 45
_VERSION: Final = re.compile(
    r"(?:version|release|build|ver|rev|v|section|chrome|firefox|[=<>~^])[^\w]{0,3}\Z", re.IGNORECASE
)
_VERSION_WINDOW_CHARS: Final = 16


def _v4(text: str) -> Iterator[Finding]:
    for match in _V4.finditer(text):
        try:
            address = IPv4Address(match[0])
        except AddressValueError:
            continue
        if address.is_loopback or address.is_unspecified or match[0].startswith("255."):
            continue
        versioned = _VERSION.search(text[max(0, match.start() - _VERSION_WINDOW_CHARS) : match.start()]) is not None
        score = WITH_CONTEXT_ONLY if versioned else LIKELY
        yield Finding("IP_ADDRESS", match.start(), match.end(), score, "ip_address")


def _v6(text: str) -> Iterator[Finding]:
    for match in _V6.finditer(text):
        found = match[0].rstrip(".:") if not match[0].endswith("::") else match[0]
        if not 6 <= len(found) <= _MAX_V6_CHARS or found.count(":") < 2 or not _looks_v6(found):
            continue
        try:
            address = IPv6Address(found)
        except AddressValueError:
            continue
        if not (address.is_loopback or address.is_unspecified):
            yield Finding("IP_ADDRESS", match.start(), match.start() + len(found), LIKELY, "ip_address")


def _looks_v6(found: str) -> bool:
    """`a::b` is a scope in source code more often than an address: ask for a digit and three groups, or 16 bits."""
    groups = [group for group in found.split(":") if group]
    return has_digit(found) and (len(groups) >= 3 or (len(groups) == 2 and any(len(group) == 4 for group in groups)))


def _find(text: str) -> Iterator[Finding]:
    yield from _v4(text)
    if ":" in text:
        yield from _v6(text)


def _trigger(text: str) -> bool:
    return has_digit(text) and ("." in text or ":" in text)


RECOGNIZER: Final = Recognizer(
    name="ip_address",
    entities=frozenset({"IP_ADDRESS"}),
    layer="checksum",
    find=_find,
    trigger=_trigger,
    context=frozenset({"ip", "ipv4", "ipv6", "address", "host", "client", "remote", "server"}),
)
