"""Header fields that travel, and those that end at the proxy. Pure functions over `Headers`."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from proxy.errors import Denied
from proxy.model import Headers, ResponseHead

# RFC 9110 section 7.6.1 names these as connection-specific; Proxy-* carry our own credentials (section 11.7).
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"trailer",
        b"http2-settings",
    }
)
# What an app may not tell an upstream about itself or the proxy: identity belongs to the proxy, and a method
# override would make the upstream see another request than policy did.
_SPOOFABLE: Final = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-port",
        b"x-forwarded-server",
        b"x-real-ip",
        b"x-app-id",
        b"x-egress-app",
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
    }
)
# Fields that describe a body which the proxy has changed (RFC 9530, RFC 1864).
BODY_DIGESTS: Final = frozenset(
    {b"content-md5", b"digest", b"content-digest", b"repr-digest", b"content-encoding", b"want-digest"}
)
# RFC 9110 section 6.5.1: fields for framing, routing, authentication, request modifiers or content handling.
_NOT_IN_TRAILERS: Final = frozenset(
    b"authorization cache-control connection content-encoding content-length content-range content-type cookie expect "
    b"forwarded host max-forwards proxy-authenticate proxy-authorization proxy-connection range set-cookie te trailer "
    b"transfer-encoding upgrade via www-authenticate x-forwarded-for x-forwarded-host".split()
)
_RESPONSE_ONLY: Final = frozenset({b"alt-svc", b"proxy-status"})


_REQUEST_DROPS: Final = _HOP_BY_HOP | _SPOOFABLE | {b"host", b"content-length", b"expect"}
_RESPONSE_DROPS: Final = _HOP_BY_HOP | _RESPONSE_ONLY
_REQUEST_DROPS_BY: Final = {
    (changed, uncoded): _REQUEST_DROPS
    | (BODY_DIGESTS if changed else frozenset())
    | ({b"accept-encoding"} if uncoded else frozenset())
    for changed in (False, True)
    for uncoded in (False, True)
}


_MAX_REMEMBERED_BYTES: Final = 256


def _tokens(value: bytes) -> frozenset[bytes]:
    return _same_tokens(value) if len(value) <= _MAX_REMEMBERED_BYTES else _split(value)


def _split(value: bytes) -> frozenset[bytes]:
    return frozenset([token.strip().lower() for token in value.split(b",") if token.strip()])


_same_tokens = lru_cache(maxsize=256)(_split)


def nominated(values: Sequence[bytes]) -> frozenset[bytes]:
    """Lower-case names listed in Connection fields, which are hop-by-hop for this message (RFC 9110 7.6.1)."""
    return _tokens(values[0]) if len(values) == 1 else frozenset().union(*map(_tokens, values))


def outbound(headers: Headers, *, host: bytes, body_changed: bool, uncoded_answer: bool) -> Headers:
    """End-to-end request fields: hop-by-hop, identity and framing fields removed, Host set first to `host`.

    `uncoded_answer`: asks for an answer without content coding, so that it can be metered and restored as it streams.
    """
    drop = _REQUEST_DROPS_BY[body_changed, uncoded_answer]
    also = nominated([value for name, value in headers if name.lower() == b"connection"])
    if not also <= drop:
        drop |= also
    kept = [(b"Host", host), *[field for field in headers if field[0].lower() not in drop]]
    if uncoded_answer:
        kept.append((b"Accept-Encoding", b"identity"))
    return tuple(kept)


def inbound(head: ResponseHead) -> Headers:
    """End-to-end response fields. Framing (Content-Length) stays; Alt-Svc would lead clients round the proxy."""
    drop = _RESPONSE_DROPS
    if b"connection" in head.names:
        also = nominated(head.all(b"connection"))
        if not also <= drop:
            drop |= also - {b"content-length"}
    elif drop.isdisjoint(head.names):
        return head.headers
    return tuple([field for field, name in zip(head.headers, head.names, strict=True) if name not in drop])


def without(headers: Headers, *names: bytes) -> Headers:
    """`headers` without the fields called `names` (lower case)."""
    kept = tuple([field for field in headers if field[0].lower() not in names])
    return kept if len(kept) < len(headers) else headers


def check_trailers(trailers: Headers) -> None:
    """Denied malformed when a field stands there that could change how the message is read, or who sends it."""
    if trailers and any(name.lower() in _NOT_IN_TRAILERS for name, _ in trailers):
        raise Denied("malformed", "A trailer section holds a field that may not stand there (RFC 9110 6.5.1)")
