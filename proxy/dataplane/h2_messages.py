"""Between mitmproxy's HTTP/2 messages and ours. Pure."""

import re
from typing import Final

from mitmproxy import http

from proxy.errors import Denied
from proxy.model import Authority, Headers, Request, RequestHead, Response, ResponseHead
from proxy.net.names import split_authority

_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
# RFC 9113 section 8.2.2: connection-specific fields make an HTTP/2 message malformed.
_CONNECTION_SPECIFIC: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"http2-settings"}
)


def request_head(request: http.Request, authority: Authority) -> RequestHead:
    """The head of one stream, whose :authority must be the connection's own (RFC 9113 section 8.3.1).

    Raises Denied: malformed, or target_mismatch with 421 (section 9.1.2) for another authority.
    """
    data = request.data
    if not _METHOD.fullmatch(data.method) or data.method == b"CONNECT":
        raise Denied("malformed", "This method is not spoken inside HTTP/2 streams")
    if data.scheme != b"https":
        raise Denied("target_mismatch", "The stream's :scheme is not that of its connection")
    if not data.path.isascii() or not (data.path.startswith(b"/") or (data.path, data.method) == (b"*", b"OPTIONS")):
        raise Denied("malformed", "The stream's :path is not in origin form")
    headers = tuple((bytes(name), bytes(value)) for name, value in data.headers.fields)
    if any(name != name.lower() or name in _CONNECTION_SPECIFIC for name, _ in headers):
        raise Denied("malformed", "The stream carries fields that HTTP/2 does not allow")
    named = [data.authority, *(value for name, value in headers if name == b"host")]
    for text in filter(None, named) if any(named) else [b""]:
        _check_authority(text, authority)
    return RequestHead(data.method.decode(), data.path.decode(), authority, headers, protocol="h2", http_version="2")


def _check_authority(text: bytes, authority: Authority) -> None:
    try:
        named = split_authority(text.decode("ascii"), 443)
    except ValueError as error:
        raise Denied("malformed", f"The stream's :authority is not well-formed: {error}") from None
    if named != (authority.host, authority.port):
        raise Denied(
            "target_mismatch", f"The connection leads to {authority}, the stream names another authority", status=421
        )


def apply_request(target: http.Request, request: Request, *, wants_trailers: bool) -> None:
    """Writes what the exchange forwards into mitmproxy's request. `wants_trailers`: the client sent `te: trailers`,
    the one TE that HTTP/2 carries (RFC 9113 section 8.2.2) and that gRPC needs."""
    head = request.head
    fields = [(name.lower(), value) for name, value in head.headers if name.lower() != b"host"]
    if wants_trailers:
        fields.append((b"te", b"trailers"))
    if request.body or head.first(b"content-length") is not None:
        fields = [pair for pair in fields if pair[0] != b"content-length"]
        fields.append((b"content-length", b"%d" % len(request.body)))
    data = target.data
    data.method, data.path, data.scheme = head.method.encode(), head.target.encode(), b"https"
    data.authority = _authority_field(head.authority)
    data.headers = http.Headers(fields)
    data.content = request.body
    data.trailers = http.Headers([(name.lower(), value) for name, value in request.trailers]) or None


def _authority_field(authority: Authority) -> bytes:
    text = str(authority)
    return (text.removesuffix(":443") if authority.port == 443 else text).encode()


def response_head(response: http.Response) -> ResponseHead:
    """The upstream's head. Raises Denied upstream_malformed for connection-specific fields or a 1xx."""
    headers = tuple((bytes(name), bytes(value)) for name, value in response.data.headers.fields)
    if response.status_code < 200 or any(name.lower() in _CONNECTION_SPECIFIC for name, _ in headers):
        raise Denied("upstream_malformed", "The upstream's HTTP/2 answer is not well-formed")
    return ResponseHead(response.status_code, "", headers, http_version="2")


def client_headers(headers: Headers) -> http.Headers:
    """Fields as HTTP/2 wants them: lower case, none of the connection's."""
    return http.Headers([(name.lower(), value) for name, value in headers if name.lower() not in _CONNECTION_SPECIFIC])


def whole_response(response: Response) -> http.Response:
    """An answer of ours as mitmproxy sends it."""
    headers = client_headers(response.head.headers)
    if response.head.status not in {204, 304}:
        headers["content-length"] = str(len(response.body))
    return http.Response(b"HTTP/2.0", response.head.status, b"", headers, response.body, None, 0.0, 0.0)
