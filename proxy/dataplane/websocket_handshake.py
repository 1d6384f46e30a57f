"""The WebSocket opening handshake (RFC 6455 section 4), checked strictly on both sides.

Anything that merely looks like a handshake would turn into a raw tunnel once an upstream answers 101.
"""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from proxy.errors import Denied
from proxy.model import Headers, RequestHead, ResponseHead

# RFC 6455 section 1.3
_ACCEPT_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN_BYTES: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def wants_upgrade(head: RequestHead) -> bool:
    """True when the request carries an Upgrade field of any kind: then `check_handshake` decides."""
    return any(True for _ in _values(head.headers, b"upgrade"))


def check_handshake(head: RequestHead) -> None:
    """Raises Denied unless `head` is exactly an RFC 6455 section 4.1 opening: proto_denied for another protocol,
    malformed for a handshake that is not one."""
    if [value.lower() for value in _values(head.headers, b"upgrade")] != [b"websocket"]:
        raise Denied("proto_denied", "Upgrade to anything but websocket is not passed on")
    if head.method != "GET" or head.http_version != "1.1":
        raise Denied("malformed", "A WebSocket handshake is a GET of HTTP/1.1 (RFC 6455 section 4.1)")
    if b"upgrade" not in _tokens(head.headers, b"connection"):
        raise Denied("malformed", "A WebSocket handshake carries Connection: Upgrade (RFC 6455 section 4.1)")
    if list(_values(head.headers, b"sec-websocket-version")) != [b"13"]:
        raise Denied("malformed", "Sec-WebSocket-Version must be 13, once (RFC 6455 section 4.1)")
    keys = list(_values(head.headers, b"sec-websocket-key"))
    if len(keys) != 1 or not _is_key(keys[0]):
        raise Denied("malformed", "Sec-WebSocket-Key must be 16 bytes in base64, once (RFC 6455 section 4.1)")
    if any(value.strip(b"0") for value in _values(head.headers, b"content-length")) or any(
        True for _ in _values(head.headers, b"transfer-encoding")
    ):
        raise Denied("malformed", "A WebSocket handshake has no body")
    _offered_subprotocols(head)


def with_own_key(head: RequestHead) -> RequestHead:
    """The handshake as it goes upstream: sixteen bytes that a client chose would be sixteen bytes that nobody reads."""
    own = base64.b64encode(secrets.token_bytes(16))
    return replace(head, headers=_with_value(head.headers, b"sec-websocket-key", own))


def answered(response: ResponseHead, request: RequestHead) -> ResponseHead:
    """The upstream's checked 101 as the client wants it: its Accept answers the key of the client's `request`."""
    accept = accept_value(request.first(b"sec-websocket-key") or b"")
    return replace(response, headers=_with_value(response.headers, b"sec-websocket-accept", accept))


def check_accept(request: RequestHead, response: ResponseHead) -> None:
    """Raises Denied upstream_malformed unless the 101 `response` answers this `request` (RFC 6455 section 4.2.2).

    `request` as sent upstream: it offers no extension, so that none may be accepted.
    """
    if response.status != 101:
        raise Denied("upstream_malformed", "The upstream did not switch protocols")
    if [value.lower() for value in _values(response.headers, b"upgrade")] != [b"websocket"]:
        raise Denied("upstream_malformed", "The upstream switched to another protocol than websocket")
    if b"upgrade" not in _tokens(response.headers, b"connection"):
        raise Denied("upstream_malformed", "The upstream's 101 lacks Connection: Upgrade")
    expected = accept_value(request.first(b"sec-websocket-key") or b"")
    if list(_values(response.headers, b"sec-websocket-accept")) != [expected]:
        raise Denied("upstream_malformed", "The upstream's Sec-WebSocket-Accept does not answer the key")
    if any(True for _ in _values(response.headers, b"sec-websocket-extensions")):
        raise Denied("upstream_malformed", "The upstream accepted an extension that was not offered")
    chosen = list(_values(response.headers, b"sec-websocket-protocol"))
    if len(chosen) > 1 or (chosen and chosen[0] not in _offered_subprotocols(request)):
        raise Denied("upstream_malformed", "The upstream chose a subprotocol that was not offered")


def accept_value(key: bytes) -> bytes:
    """Sec-WebSocket-Accept that answers `key` (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest())


def _with_value(headers: Headers, name: bytes, value: bytes) -> Headers:
    return tuple((key, value if key.lower() == name else old) for key, old in headers)


def _values(headers: Headers, name: bytes) -> Iterator[bytes]:
    return (value.strip(b" \t") for key, value in headers if key.lower() == name)


def _tokens(headers: Headers, name: bytes) -> set[bytes]:
    return {token.strip(b" \t").lower() for value in _values(headers, name) for token in value.split(b",")}


def _is_key(value: bytes) -> bool:
    try:
        return len(value) == 24 and len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def _offered_subprotocols(head: RequestHead) -> list[bytes]:
    # Case-sensitive tokens (RFC 6455 section 4.1 item 10), the only free text of a handshake.
    offered = [
        token.strip(b" \t") for value in _values(head.headers, b"sec-websocket-protocol") for token in value.split(b",")
    ]
    if not all(token and _TOKEN_BYTES.issuperset(token) for token in offered):
        raise Denied("malformed", "Sec-WebSocket-Protocol is a list of tokens (RFC 6455 section 4.1)")
    return offered
