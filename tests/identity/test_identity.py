"""Who is calling: every way of being known, and every way of not being."""

import base64
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.snapshot import AppPolicy, DlpPolicy, Limits, Platform, Snapshot
from proxy.identity import IdentityUnknown, identify
from proxy.keys.root import RootKey, new_generation
from proxy.keys.tokens import issue, verify
from proxy.model import Principal

NOW_S = 1_800_000_000.0
ROOT = RootKey((new_generation(0),))


def _app(name: str, *networks: str, token: bool) -> AppPolicy:
    return AppPolicy(
        app=name, owner="o@example.com", cost_center="c", stage="production", expires_at_s=None, mode="enforce",
        report_until_s=None, networks=tuple(ip_network(each) for each in networks), token=token, entries=(),
        dlp=DlpPolicy("balanced", (), "redact"), cache=None, budget=None, limits=Limits(), digest=name,
        at=f"apps/{name}.yaml:6:1",
    )  # fmt: skip


# net: by network alone; tok: by token alone; both: by both.
APPS = {
    app.app: app
    for app in (
        _app("net", "10.1.0.0/16", "fd00:1::/64", token=False),
        _app("tok", token=True),
        _app("both", "10.3.0.0/16", token=True),
    )
}
SNAPSHOT = Snapshot("r" * 64, 1, Platform({}, (), {}, (), {}, {}), APPS)


def _token(app: str, *, ttl_s: int = 3600) -> str:
    return issue(ROOT, app, ttl_s, NOW_S)[0]


def _basic(user: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())


def _identify(ip: str, field: bytes | None, *, revoked: frozenset[str] = frozenset(), at_s: float = NOW_S) -> Principal:
    return identify(SNAPSHOT, ip, field, verify=lambda token: verify(ROOT, token, at_s), revoked=revoked)


@pytest.mark.parametrize(
    ("ip", "app", "via"),
    [
        ("10.1.2.3", "net", "network"),
        ("fd00:1::5", "net", "network"),
        ("::ffff:10.1.2.3", "net", "network"),
        ("fd00:1::5%eth0", "net", "network"),
    ],
)
def test_by_network(ip: str, app: str, via: str) -> None:
    """A listed network is enough where the app asks for no token; mapped and scoped forms are the same address."""
    principal = _identify(ip, None)
    assert (principal.app, principal.via, principal.token_id) == (app, via, None)


@pytest.mark.parametrize(
    "make",
    [
        lambda token: _basic("tok", token),
        lambda token: _basic("anything", token),
        lambda token: _basic("", token),
        lambda token: _basic(token, ""),
        lambda token: b"Bearer " + token.encode(),
        lambda token: b"bearer  " + token.encode() + b" ",
        lambda token: b"bAsIc " + _basic("tok", token)[6:],
    ],
)
def test_by_token(make: "st.DataObject") -> None:
    """All the places where clients can put a token."""
    token, token_id = issue(ROOT, "tok", 3600, NOW_S)
    assert _identify("192.0.2.1", make(token)) == Principal("tok", "token", "192.0.2.1", token_id)  # type: ignore[operator]


def test_by_both() -> None:
    """Network and token, naming the same app."""
    assert _identify("10.3.0.1", _basic("both", _token("both"))).via == "network+token"
    assert _identify("10.1.0.1", _basic("net", _token("net"))).via == "network+token"


REFUSALS = [
    # ip, token of app (None: no field), part of the detail, 407?
    ("192.0.2.1", None, "no proxy credential", True),
    ("10.3.0.1", None, "needs a proxy token", True),
    ("10.2.255.255", None, "no proxy credential", True),
    ("192.0.2.1", "both", "own networks only", False),
    ("10.1.0.1", "both", "belongs to app net", False),
    ("10.1.0.1", "tok", "belongs to app net", False),
    ("10.3.0.1", "tok", "belongs to app both", False),
    ("192.0.2.1", "net", "own networks only", False),
    ("192.0.2.1", "gone", "does not know", False),
]


@pytest.mark.parametrize(("ip", "app", "detail", "needs_credential"), REFUSALS)
def test_refusals(ip: str, app: str | None, detail: str, needs_credential: bool) -> None:
    """Each says which; 407 only where no credential was sent, so that clients do not loop."""
    field = None if app is None else _basic(app, _token(app))
    with pytest.raises(IdentityUnknown, match="identity_unknown") as caught:
        _identify(ip, field)
    assert detail in caught.value.detail
    assert caught.value.needs_credential is needs_credential
    assert caught.value.status == (407 if needs_credential else 403)
    assert (
        "egress token issue" in caught.value.remedy
        or "Call from" in caught.value.remedy
        or app in ("gone", "tok", "both")
    )
    assert caught.value.remedy


def test_an_app_identified_by_nothing_is_not_identified() -> None:
    """`token: false` without networks: a genuine token does not make it known."""
    snapshot = replace(SNAPSHOT, apps={"dark": _app("dark", token=False)})
    with pytest.raises(IdentityUnknown, match="not identified by tokens"):
        identify(
            snapshot, "192.0.2.1", _basic("dark", _token("dark")),
            verify=lambda token: verify(ROOT, token, NOW_S), revoked=frozenset(),
        )  # fmt: skip


def test_revoked() -> None:
    """By id; a token of the same app with another id goes on."""
    token, token_id = issue(ROOT, "tok", 3600, NOW_S)
    with pytest.raises(IdentityUnknown, match="revoked"):
        _identify("192.0.2.1", _basic("tok", token), revoked=frozenset({token_id}))
    assert _identify("192.0.2.1", _basic("tok", _token("tok")), revoked=frozenset({token_id}))


def test_expired_and_forged_are_told_apart() -> None:
    """What the maker must do differs."""
    token = _token("tok", ttl_s=60)
    with pytest.raises(IdentityUnknown, match="expired"):
        _identify("192.0.2.1", _basic("tok", token), at_s=NOW_S + 61)
    with pytest.raises(IdentityUnknown, match="signature"):
        _identify("192.0.2.1", _basic("tok", token[:-2] + ("AA" if not token.endswith("AA") else "BB")))


def test_a_bad_credential_is_refused_even_where_the_network_would_do() -> None:
    """Nobody goes on by accident with a stale token."""
    with pytest.raises(IdentityUnknown):
        _identify("10.1.0.1", _basic("net", "wrong"))


def test_the_user_name_may_not_name_another_app() -> None:
    """Free text is fine, another app's name is a mix-up."""
    with pytest.raises(IdentityUnknown, match="user name says app net"):
        _identify("192.0.2.1", _basic("net", _token("tok")))


@pytest.mark.parametrize(
    "field",
    [
        b"",
        b"Basic",
        b"Basic ",
        b"Basic !!!!",
        b"Basic " + base64.b64encode(b"no colon"),
        b"Basic " + base64.b64encode(b"\xff\xfe:x"),
        b"Bearer",
        b"Bearer ",
        b"Digest abc",
        b"Negotiate abc",
        b"egp1.x.y",
        b"Basic " + b"A" * 5000,
        b"Bearer \xff\xff",
        b"Basic  " + base64.b64encode(b":"),
    ],
)
def test_malformed_fields(field: bytes) -> None:
    """A coded refusal with 403, never another exception, never an echo."""
    with pytest.raises(IdentityUnknown) as caught:
        _identify("10.1.0.1", field)
    assert caught.value.status == 403
    assert "AAAA" not in str(caught.value)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_refusal(field: bytes) -> None:
    """Fuzz."""
    with pytest.raises(IdentityUnknown):
        _identify("10.1.0.1", field)


@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_a_refusal_never_repeats_the_credential(scheme: str) -> None:
    """Errors go into logs and answers."""
    secret = "hunter2-hunter2"
    field = _basic("user-x", secret) if scheme == "Basic" else f"Bearer {secret}".encode()
    with pytest.raises(IdentityUnknown) as caught:
        _identify("192.0.2.1", field)
    shown = f"{caught.value} {caught.value.detail} {caught.value.remedy}"
    assert secret not in shown
    assert "user-x" not in shown


@pytest.mark.parametrize("ip", ["", "localhost", "1.2.3", "10.1.0.1\n"])
def test_a_client_without_an_address_is_nobody(ip: str) -> None:
    """A coded refusal, not an accident."""
    with pytest.raises(IdentityUnknown, match="no IP address"):
        _identify(ip, None)
