"""Proxy tokens: who is calling, signed and short-lived.

`egp1.<payload>.<mac>`: base64url (RFC 4648 section 5, no padding) of a compact JSON object {k: root key id, a: app,
i: token id, n: issued, x: expires} and of HMAC-SHA256 over `egp1.<payload>`. No secret is inside the payload.
"""

import base64
import hmac
import json
import re
import secrets
from dataclasses import dataclass
from typing import Any, Final

from proxy.keys.root import PROXY_TOKEN, RootKey

DEFAULT_TTL_S: Final = 3600
MAX_TTL_S: Final = 7 * 86_400
"""A week: long enough for a batch job, short enough that a forgotten one dies before the next rota."""
CLOCK_SKEW_S: Final = 60
_MAX_CHARS: Final = 1024
_SHAPE: Final = re.compile(r"egp1\.([A-Za-z0-9_-]{1,900})\.([A-Za-z0-9_-]{43})")


class TokenExpired(ValueError):
    """A genuine token, too old."""


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a genuine token says. Times are Unix seconds."""

    app: str
    id: str
    expires_at_s: float


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _mac(key: bytes, signed: str) -> str:
    return _encode(hmac.digest(key, signed.encode(), "sha256"))


def issue(root: RootKey, app: str, ttl_s: int, now_s: float) -> tuple[str, str]:
    """A new token and its id. Raises ValueError for a lifetime outside 1 s .. MAX_TTL_S or an over-long app name."""
    if not 1 <= ttl_s <= MAX_TTL_S:
        raise ValueError(f"a token lives between 1 and {MAX_TTL_S} seconds")
    token_id = secrets.token_hex(8)
    claims = {"k": root.id, "a": app, "i": token_id, "n": int(now_s), "x": int(now_s) + ttl_s}
    signed = "egp1." + _encode(json.dumps(claims, separators=(",", ":")).encode())
    token = f"{signed}.{_mac(root.derive(PROXY_TOKEN), signed)}"
    if _SHAPE.fullmatch(token) is None:
        raise ValueError("the app's name is too long for a token")
    return token, token_id


def verify(root: RootKey, token: str, now_s: float) -> TokenClaims:
    """The claims of a genuine, unexpired token. Raises ValueError (TokenExpired when only too old).

    The message never repeats the token.
    """
    match = _SHAPE.fullmatch(token) if len(token) <= _MAX_CHARS else None
    if match is None:
        raise ValueError("this is not a proxy token (egp1.…)")
    claims = _read(match[1])
    generation = root.find(claims["k"], "active", "accepted")
    # An unknown key id costs the same work as a wrong MAC, so that timing tells nothing about the ids in use.
    expected = _mac((generation or root.active).derive(PROXY_TOKEN), f"egp1.{match[1]}")
    if not hmac.compare_digest(expected, match[2]) or generation is None:
        raise ValueError("the token's signature is wrong")
    if claims["n"] > now_s + CLOCK_SKEW_S:
        raise ValueError("the token was issued in the future; check the clock")
    if claims["x"] <= now_s:
        raise TokenExpired("the token has expired")
    return TokenClaims(claims["a"], claims["i"], float(claims["x"]))


def _read(payload: str) -> dict[str, Any]:
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError) as error:
        raise ValueError("the token is damaged") from error
    kinds = {"k": str, "a": str, "i": str, "n": int, "x": int}
    if not isinstance(claims, dict) or any(type(claims.get(name)) is not kind for name, kind in kinds.items()):
        raise ValueError("the token is damaged")
    return claims
