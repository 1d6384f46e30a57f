"""Header fields that travel, and those that end at the proxy. Pure functions over `Headers`."""

from typing import Final

from proxy.errors import Denied
from proxy.model import Headers

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


def nominated(headers: Headers) -> frozenset[bytes]:
    """Lower-case names listed in Connection fields, which are hop-by-hop for this message (RFC 9110 7.6.1)."""
    return frozenset(
        token.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
        if token.strip()
    )


def outbound(headers: Headers, *, host: bytes, body_changed: bool, uncoded_answer: bool) -> Headers:
    """End-to-end request fields: hop-by-hop, identity and framing fields removed, Host set first to `host`.

    `uncoded_answer`: asks for an answer without content coding, so that it can be metered and restored as it streams.
    """
    drop = _REQUEST_DROPS | nominated(headers)
    if body_changed:
        drop |= BODY_DIGESTS
    if uncoded_answer:
        drop |= {b"accept-encoding"}
    kept = [(b"Host", host), *((name, value) for name, value in headers if name.lower() not in drop)]
    if uncoded_answer:
        kept.append((b"Accept-Encoding", b"identity"))
    return tuple(kept)


def inbound(headers: Headers) -> Headers:
    """End-to-end response fields. Framing (Content-Length) stays; Alt-Svc would lead clients round the proxy."""
    drop = _RESPONSE_DROPS | (nominated(headers) - {b"content-length"})
    return tuple((name, value) for name, value in headers if name.lower() not in drop)


def without(headers: Headers, *names: bytes) -> Headers:
    """`headers` without the fields called `names` (lower case)."""
    return tuple((key, value) for key, value in headers if key.lower() not in names)


def check_trailers(trailers: Headers) -> None:
    """Denied malformed when a field stands there that could change how the message is read, or who sends it."""
    if any(name.lower() in _NOT_IN_TRAILERS for name, _ in trailers):
        raise Denied("malformed", "A trailer section holds a field that may not stand there (RFC 9110 6.5.1)")
