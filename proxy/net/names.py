"""One spelling per host, and one reading per path: what policy compares is what the upstream will see.

Hosts follow RFC 952 / 1123 with underscores (RFC 2181 section 11), A-labels only (RFC 5891), and the literals of
RFC 3986 section 3.2.2. Nothing is guessed: a spelling that two programs may read differently is refused.
"""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final
from urllib.parse import unquote_to_bytes

MAX_HOST_CHARS: Final = 253  # RFC 1035 section 2.3.4: 255 octets on the wire, less the two for length and root
MAX_LABEL_CHARS: Final = 63  # RFC 1035 section 2.3.4

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\Z")
# WHATWG URL "ends in a number": resolvers read such a name as an IPv4 address in one of its odd notations.
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_IPV4 = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})\Z")
# RFC 3986 section 3.2.3: port = *DIGIT, so that 080 is 80. It is read as decimal here, and never passed on as written.
_PORT = re.compile(r"0*([1-9][0-9]{0,4})\Z")

# RFC 3986 pchar and "/", without ";" (path parameters are cut off by some servers and kept by others).
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,=:@/-]|%[0-9A-Fa-f]{2})*\Z")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
# Octets that some servers decode before routing and others do not: the reserved ones that change the structure, `%`
# (a second decoding), controls, and all that need no encoding (RFC 3986 section 6.2.2.2).
_NEVER_ENCODED: Final = frozenset(
    f"{octet:02X}"
    for octet in range(128)
    if octet < 0x20 or octet == 0x7F or chr(octet) in "/\\;#?%" or (chr(octet).isalnum() or chr(octet) in "-._~")
)


def is_ip_literal(host: str) -> bool:
    """True for a canonical host that is an IPv4 or IPv6 address."""
    return ":" in host or bool(_IPV4.match(host))


@lru_cache(maxsize=4096)
def canonical_host(text: str) -> str:
    """The canonical spelling of a host: lower case, A-labels, no end dot, IPv6 without brackets.

    Raises ValueError with the reason, in words that fit after "host NAME: ".
    """
    if not text:
        raise ValueError("the host is empty")
    if len(text) > 2 * MAX_HOST_CHARS:  # before any work that grows with the length
        raise ValueError(f"a host name has at most {MAX_HOST_CHARS} characters")
    if not text.isascii():
        raise ValueError(_a_label_hint(text))
    if text.startswith("[") or ":" in text:
        return _canonical_ipv6(text)
    return _canonical_name(text.lower())


def _canonical_name(lowered: str) -> str:
    host = lowered.removesuffix(".")
    if _IPV4.match(host):
        return _canonical_ipv4(host, end_dot=host != lowered)
    if len(host) > MAX_HOST_CHARS:
        raise ValueError(f"a host name has at most {MAX_HOST_CHARS} characters")
    labels = host.split(".")
    for label in labels:
        _check_label(label)
    if _NUMBER.match(labels[-1]):
        raise ValueError("a name that ends in a number is read as an IPv4 address; write four decimal numbers")
    return host


def _check_label(label: str) -> None:
    if not label:
        raise ValueError("a label between two dots is empty")
    if len(label) > MAX_LABEL_CHARS:
        raise ValueError(f"a label has at most {MAX_LABEL_CHARS} characters")
    if not _LABEL.match(label):
        raise ValueError("only letters, digits, '-' and '_' may stand in a label, and '-' not at its ends")
    if label.startswith("xn--"):
        _check_a_label(label)


def _check_a_label(label: str) -> None:
    import idna

    try:
        if idna.alabel(idna.ulabel(label)).decode("ascii") != label:
            raise ValueError(f"{label!r} is not a valid A-label")
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError(f"{label!r} is not a valid A-label") from error


def _a_label_hint(text: str) -> str:
    import idna

    try:
        return f"international names are written as A-labels: {idna.encode(text, uts46=True).decode('ascii')}"
    except (idna.IDNAError, UnicodeError):
        return "the host holds characters outside ASCII that no domain name may hold"


def _canonical_ipv4(host: str, *, end_dot: bool) -> str:
    if end_dot:
        raise ValueError("an IPv4 address takes no end dot")
    try:
        return str(IPv4Address(host))
    except AddressValueError as error:
        raise ValueError("each number of an IPv4 address is at most 255") from error


def _canonical_ipv6(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = IPv6Address(bare)
    except AddressValueError as error:
        raise ValueError("neither a host name nor an IPv6 address") from error
    if address.scope_id is not None:
        raise ValueError("an IPv6 zone means something on one machine only")
    mapped = address.ipv4_mapped
    return f"::ffff:{mapped}" if mapped is not None else address.compressed


def split_authority(text: str, default_port: int) -> tuple[str, int]:
    """`host[:port]` as in Host and `:authority` -> (canonical host, port). Raises ValueError with the reason."""
    host, port = split_host_port(text)
    return host, default_port if port is None else port


def split_host_port(text: str) -> tuple[str, int | None]:
    """`host[:port]` -> (canonical host, port or None). IPv6 stands in brackets. Raises ValueError with the reason."""
    host, separator, port = text.partition(":")
    if text.startswith("["):
        closing = text.find("]")
        host, rest = text[: closing + 1], text[closing + 1 :]
        if closing < 0 or (rest and not rest.startswith(":")):
            raise ValueError("the bracket of an IPv6 address is not closed, or is followed by more than a port")
        separator, port = rest[:1], rest[1:]
    if not separator:
        return canonical_host(host), None
    number = _PORT.match(port)
    if number is None or int(number[1]) > 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return canonical_host(host), int(number[1])


def canonical_path(target: str) -> str:
    """The path of an origin-form target (`/path?query`), percent-escapes in upper case.

    Raises ValueError when the upstream might read another path than policy does: dot segments, empty segments,
    encoded slashes or dots, backslashes, path parameters, double encoding, controls.
    """
    path = target.partition("?")[0]
    if not _PATH.match(path):
        raise ValueError(_why_not_a_path(path))
    if "//" in path:
        raise ValueError("'//' is one slash to some servers")
    if "/." in path and any(segment in (".", "..") for segment in path.split("/")):
        raise ValueError("'.' and '..' segments are resolved by some servers")
    if "%" not in path:
        return path
    for octet in _ESCAPE.findall(path):
        if octet.upper() in _NEVER_ENCODED:
            raise ValueError(f"'%{octet}' is decoded by some servers before they route")
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("the escaped octets are no UTF-8; some servers read overlong forms as '.' or '/'") from None
    return _ESCAPE.sub(lambda found: found.group(0).upper(), path)


def _why_not_a_path(path: str) -> str:
    if not path.startswith("/"):
        return "a path starts with '/'"
    if ";" in path:
        return "';' starts a path parameter that some servers cut off"
    if "\\" in path:
        return "a backslash is a slash to some servers"
    if "#" in path:
        return "'#' ends the path for some servers"
    return "it holds characters that must be percent-encoded, or a broken escape"
