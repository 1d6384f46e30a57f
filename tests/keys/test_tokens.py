"""Proxy tokens: forged, stale, damaged, rotated."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.keys.root import RootKey, new_generation
from proxy.keys.tokens import MAX_TTL_S, TokenExpired, issue, verify

ROOT = RootKey((new_generation(0),))
NOW_S = 1_800_000_000.0


def test_round_trip() -> None:
    """Claims come back; two tokens of one app differ."""
    token, token_id = issue(ROOT, "expense-triage", 3600, NOW_S)
    claims = verify(ROOT, token, NOW_S + 3599.9)
    assert (claims.app, claims.id, claims.expires_at_s) == ("expense-triage", token_id, NOW_S + 3600)
    assert token.startswith("egp1.")
    assert issue(ROOT, "expense-triage", 3600, NOW_S)[0] != token


def test_expiry_is_to_the_second() -> None:
    """Good before, bad at its instant; the kind of error tells stale from forged."""
    token, _ = issue(ROOT, "a", 60, NOW_S)
    verify(ROOT, token, NOW_S + 59)
    with pytest.raises(TokenExpired, match="expired"):
        verify(ROOT, token, NOW_S + 60)


def test_a_token_from_the_future_is_refused() -> None:
    """A clock that was set back must not make tokens live longer; a minute of skew is forgiven."""
    token, _ = issue(ROOT, "a", 60, NOW_S)
    verify(ROOT, token, NOW_S - 60)
    with pytest.raises(ValueError, match="future"):
        verify(ROOT, token, NOW_S - 61)


def test_every_changed_character_is_noticed() -> None:
    """Each position, replaced by a character that is allowed there; base64 slack bits included."""
    token, _ = issue(ROOT, "a", 60, NOW_S)
    for index in range(len(token)):
        for other in "AQgw_-.0":
            changed = token[:index] + other + token[index + 1 :]
            if changed != token:
                with pytest.raises(ValueError, match="token"):
                    verify(ROOT, changed, NOW_S)


def test_an_expired_forgery_is_called_forged() -> None:
    """Nothing inside a token is believed before its signature."""
    claims = {"k": ROOT.id, "a": "a", "i": "x", "n": 1, "x": 2}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    with pytest.raises(ValueError, match="signature"):
        verify(ROOT, f"egp1.{payload}.{'A' * 43}", NOW_S)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "egp1",
        "egp1..",
        "egp2.e30." + "A" * 43,
        "egp1.e30." + "A" * 43,
        "egp1.W10." + "A" * 43,
        "x" * 100_000,
        "egp1." + "A" * 800 + "." + "A" * 43,
        "egp1.é." + "A" * 43,
        "egp1.e30." + "A" * 43 + "\n",
        "egp1.e30.\x00",
    ],
)
def test_junk_is_a_value_error(token: str) -> None:
    """Never another exception, and never an echo."""
    with pytest.raises(ValueError, match="token") as caught:
        verify(ROOT, token, NOW_S)
    assert "AAAA" not in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_value_error(text: str) -> None:
    """Fuzz."""
    with pytest.raises(ValueError, match="token"):
        verify(ROOT, text, NOW_S)


def test_rotation_and_retirement() -> None:
    """Tokens of the former key count until it is retired; a foreign installation's never do."""
    token, _ = issue(ROOT, "a", 3600, NOW_S)
    rotated = ROOT.rotated(NOW_S)
    assert verify(rotated, token, NOW_S).app == "a"
    with pytest.raises(ValueError, match="signature"):
        verify(rotated.retired(ROOT.id), token, NOW_S)
    with pytest.raises(ValueError, match="signature"):
        verify(RootKey((new_generation(0),)), token, NOW_S)


@pytest.mark.parametrize(("app", "ttl_s"), [("a", 0), ("a", -5), ("a", MAX_TTL_S + 1), ("a" * 700, 60)])
def test_issue_refuses_what_verify_could_not_take(app: str, ttl_s: int) -> None:
    """A week at most, and a name that fits."""
    with pytest.raises(ValueError, match=r"seconds|long"):
        issue(ROOT, app, ttl_s, NOW_S)
