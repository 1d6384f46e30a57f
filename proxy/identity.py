"""Which app is calling: by source network, by proxy token, or by both. Pure.

An app with `networks` and `token` needs both, naming the same app. A credential that is sent must be good even where
the network alone would do: a stale or foreign token is a mistake that its maker should hear of, not a detail.
"""

import base64
import binascii
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from proxy.config.snapshot import AppPolicy, Snapshot
from proxy.errors import Denied
from proxy.keys.tokens import TokenClaims
from proxy.model import Principal
from proxy.policy import find_app

_MAX_FIELD_BYTES: Final = 4096
_HOW: Final = (
    "Issue a token with `egress token issue --app APP` and set it as the proxy's password, or run the program under "
    "`egress connect --app APP`."
)


class IdentityUnknown(Denied):
    """`needs_credential`: no proxy credential was sent and one could help, so 407 with Proxy-Authenticate is right;
    otherwise 403, since asking again for a credential would only make clients loop."""

    def __init__(self, detail: str, *, needs_credential: bool = False, where: str = "", remedy: str = "") -> None:
        super().__init__(
            "identity_unknown", detail, where=where, remedy=remedy, status=None if needs_credential else 403
        )
        self.needs_credential = needs_credential


@dataclass(frozen=True, slots=True)
class _Credential:
    """A token as sent, and the Basic user name beside it ("" for Bearer)."""

    token: str
    user: str


def identify(
    snapshot: Snapshot,
    client_ip: str,
    proxy_authorization: bytes | None,
    *,
    verify: Callable[[str], TokenClaims],
    revoked: Set[str],
) -> Principal:
    """The caller. Raises IdentityUnknown, whose detail tells missing, malformed, expired, revoked, wrong app and
    network apart, and never repeats the credential. `verify` raises ValueError for a token that is not good."""
    client_ip = _canonical_ip(client_ip)
    by_network = find_app(snapshot, client_ip)
    if proxy_authorization is None:
        return _by_network_alone(snapshot, client_ip, by_network)
    credential = _parse(proxy_authorization)
    claims = _verified(credential.token, verify)
    if claims.id in revoked:
        raise IdentityUnknown(f"token {claims.id} of app {claims.app} has been revoked", remedy=_HOW)
    app = snapshot.apps.get(claims.app)
    if app is None:
        raise IdentityUnknown(
            f"the token is for app {claims.app}, which the policy does not know",
            remedy=f"Publish a policy file for {claims.app}, or issue a token for an app that `egress list` shows.",
        )
    _check_user(snapshot, credential.user, claims.app)
    _check_network(snapshot, client_ip, by_network, app)
    return Principal(claims.app, "network+token" if by_network == claims.app else "token", client_ip, claims.id)


def _by_network_alone(snapshot: Snapshot, client_ip: str, by_network: str | None) -> Principal:
    if by_network is None:
        raise IdentityUnknown(
            f"no proxy credential was sent, and {client_ip} is in no app's network",
            needs_credential=True,
            remedy=_HOW + " Or ask the admin to list the address under `identify.networks`.",
        )
    app = snapshot.apps[by_network]
    if app.token:
        raise IdentityUnknown(
            f"app {by_network} needs a proxy token besides its network, and none was sent",
            needs_credential=True,
            where=app.at,
            remedy=_HOW.replace("APP", by_network),
        )
    return Principal(by_network, "network", client_ip)


def _check_user(snapshot: Snapshot, user: str, app: str) -> None:
    """The Basic user name is free text, unless it names another app: then somebody mixed up two credentials."""
    if user != app and user in snapshot.apps:
        raise IdentityUnknown(f"the user name says app {user}, but the token is for app {app}", remedy=_HOW)


def _check_network(snapshot: Snapshot, client_ip: str, by_network: str | None, app: AppPolicy) -> None:
    if by_network is not None and by_network != app.app:
        raise IdentityUnknown(
            f"{client_ip} belongs to app {by_network}, but the token is for app {app.app}",
            where=snapshot.apps[by_network].at,
            remedy=f"Use a token for {by_network}, or call from a network of {app.app}.",
        )
    if by_network is None and app.networks:
        raise IdentityUnknown(
            f"app {app.app} may call from its own networks only, and {client_ip} is in none of them",
            where=app.at,
            remedy="Call from a listed network, or ask the admin to add this one under `identify.networks`.",
        )
    if by_network is None and not app.token:
        raise IdentityUnknown(
            f"app {app.app} is not identified by tokens",
            where=app.at,
            remedy="Ask the admin to set `identify: {token: true}` in the app's file.",
        )


def _verified(token: str, verify: Callable[[str], TokenClaims]) -> TokenClaims:
    try:
        return verify(token)
    except ValueError as error:
        raise IdentityUnknown(str(error), remedy=_HOW) from None


def _parse(value: bytes) -> _Credential:
    """`Basic` (RFC 7617; the token is the password, or the user name before an empty one) or `Bearer` (RFC 6750)."""
    scheme, _, rest = value[: _MAX_FIELD_BYTES + 1].partition(b" ")
    rest = rest.strip(b" ")
    if len(value) <= _MAX_FIELD_BYTES:
        if scheme.lower() == b"bearer" and rest:
            return _Credential(rest.decode("latin-1"), "")
        if scheme.lower() == b"basic":
            return _basic(rest)
    raise IdentityUnknown("the Proxy-Authorization field is neither Basic nor Bearer", remedy=_HOW)


def _basic(encoded: bytes) -> _Credential:
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon:
        raise IdentityUnknown("the Basic proxy credential is damaged", remedy=_HOW)
    return _Credential(password, user) if password else _Credential(user, "")


# Of clients that connect again and again; a refusal is not remembered.
@lru_cache(maxsize=4096)
def _canonical_ip(text: str) -> str:
    """Without scope, and IPv4 as IPv4: a dual-stack socket reports `::ffff:10.0.0.1`."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        raise IdentityUnknown("the client has no IP address") from None
    return str(getattr(address, "ipv4_mapped", None) or address)
