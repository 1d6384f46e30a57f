"""From what a request head says about its target to the one `Authority`. Pure; refuses whatever names two hosts."""

import re
from typing import Final

from proxy.dataplane.h1 import RawHead, request_framing
from proxy.errors import Denied
from proxy.model import Authority
from proxy.net import names

_ABSOLUTE: Final = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE)
_DEFAULT_PORT: Final = {"https": 443, "http": 80}


def connect_authority(raw: RawHead) -> Authority:
    """Authority of a CONNECT (RFC 9112 section 3.2.3: host and port, both needed; one Host field at most, RFC 9112
    section 3.2; no content, RFC 9110 section 9.3.6: what follows is the tunnel's)."""
    if not request_framing(raw).empty:
        raise Denied("malformed", "CONNECT has no body")
    host, port = split_host_port(raw.target)
    if port is None:
        raise Denied("malformed", "CONNECT needs host:port")
    # The scheme is seen only in the tunnel; until then the port's own scheme stands for it.
    authority = Authority("http" if port == _DEFAULT_PORT["http"] else "https", host, port)
    values = [value for name, value in raw.headers if name.lower() == b"host"]
    if len(values) > 1:
        raise Denied("malformed", "CONNECT carries two Host fields")
    if values:
        named, named_port = split_host_port(_ascii(values[0]))
        if named != host or named_port not in {None, port}:
            raise Denied("target_mismatch", f"CONNECT names {host}:{port}, the Host field {named}")
    return authority


def absolute_target(raw: RawHead) -> tuple[Authority, str]:
    """Authority and origin-form target of an absolute-form request (RFC 9112 section 3.2.2)."""
    match = _ABSOLUTE.fullmatch(raw.target)
    if match is None:
        raise Denied(
            "malformed",
            "A proxy is asked with CONNECT host:port or with http://host/path",
            remedy="Point the client's proxy setting (HTTPS_PROXY) here instead of its base URL.",
        )
    scheme = match[1].lower()
    host, port = split_host_port(match[2])
    authority = Authority("https" if scheme == "https" else "http", host, port or _DEFAULT_PORT[scheme])
    check_host(raw, authority)
    rest = match[3]
    return authority, rest if rest.startswith("/") else "/" + rest


def origin_target(raw: RawHead, authority: Authority) -> str:
    """Origin-form target of a request inside a tunnel; an absolute form must name the tunnel's own authority."""
    if raw.target.startswith("/"):
        check_host(raw, authority)
        return raw.target
    if raw.target == "*" and raw.method == "OPTIONS":
        check_host(raw, authority)
        return "*"
    named, target = absolute_target(raw)
    if named != authority:
        raise Denied("target_mismatch", f"The tunnel leads to {authority}, the request line names {named}")
    return target


def host_authority(raw: RawHead, scheme: str, port: int) -> Authority:
    """Authority from the Host field alone, for a redirected plain-HTTP connection to `port`."""
    if not raw.target.startswith("/"):
        raise Denied("malformed", "Only origin-form requests are spoken on this listener")
    host, named_port = split_host_port(_host_value(raw))
    if named_port not in {None, port}:
        raise Denied("target_mismatch", f"The Host field names port {named_port}, the connection goes to {port}")
    return Authority("https" if scheme == "https" else "http", host, port)


def check_host(raw: RawHead, authority: Authority) -> None:
    """The Host field must stand once and name `authority` (RFC 9112 section 3.2)."""
    host, port = split_host_port(_host_value(raw))
    if host != authority.host or (port or _DEFAULT_PORT[authority.scheme]) != authority.port:
        raise Denied("target_mismatch", f"The request goes to {authority}, its Host field names {host}")


def split_host_port(text: str) -> tuple[str, int | None]:
    """(canonical host, port or None). Denied malformed."""
    try:
        return names.split_host_port(text)
    except ValueError as error:
        raise Denied("malformed", f"The target is not well-formed: {error}") from None


def _host_value(raw: RawHead) -> str:
    values = [value for name, value in raw.headers if name.lower() == b"host"]
    if len(values) != 1 or not values[0]:
        raise Denied("malformed", "A request carries exactly one Host field")
    return _ascii(values[0])


def _ascii(value: bytes) -> str:
    try:
        return value.decode("ascii")
    except UnicodeDecodeError:
        raise Denied("malformed", "The host is not well-formed") from None
