"""The one verifier setting for upstream TLS, used by the lane and by the HTTP/2 path alike.

TLS 1.2 is the floor, names and chains are always checked, and there is no switch. VERIFY_X509_STRICT (Python 3.13's
default) is off: mitmproxy's own context has no such flag, and private roots without keyUsage are common; `egress
doctor` names such a root.
"""

import ssl
from functools import lru_cache

import certifi


@lru_cache(maxsize=256)
def upstream_context(extra_roots_pem: str | None, alpn: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
    """A client context that trusts the public roots and `extra_roots_pem` (one entry's `upstream_ca`)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.hostname_checks_common_name = False
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cafile=certifi.where())
    if extra_roots_pem is not None:
        context.load_verify_locations(cadata=extra_roots_pem)
    context.set_alpn_protocols(list(alpn))
    return context
