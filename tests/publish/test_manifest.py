"""Nobody but a publisher makes a policy, and no policy comes back under an old number."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.manifest import (
    Accepted,
    Manifest,
    ManifestRefused,
    Signer,
    accept,
    check_content,
    next_manifest,
    parse,
    publisher_text,
    trusted_keys,
    verify,
)

ROOT, CI = Signer(b"r" * 32), Signer(b"c" * 32, "ci")
KEYS = {"root": ROOT.public_key(), "ci": CI.public_key()}
R1, R2, R3 = (hashlib.sha256(text).hexdigest() for text in (b"1", b"2", b"3"))
FIRST = ROOT.sign(Manifest(1, R1, "", "ann", 1.5, "ü\u2028first"))


def refused(why: str, call: object, *arguments: object) -> None:
    with pytest.raises(ManifestRefused) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.why == why
    assert str(caught.value)


def test_round_trip() -> None:
    assert parse(FIRST.to_bytes()) == FIRST
    verify(FIRST, KEYS)
    verify(CI.sign(replace(FIRST, seq=2)), KEYS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seq", 2),
        ("revision", R2),
        ("parent", R2),
        ("author", "bob"),
        ("time_s", 2.0),
        ("reason", ""),
        ("key_id", "ci"),
    ],
)
def test_every_member_is_signed(field: str, value: object) -> None:
    refused("signature", verify, replace(FIRST, **{field: value}), KEYS)


def test_who_may_publish() -> None:
    refused("unknown_key", verify, CI.sign(FIRST), {"root": ROOT.public_key()})
    refused("signature", verify, Signer(b"x" * 32, "ci").sign(FIRST), KEYS)
    refused("signature", verify, replace(FIRST, signature="AAAA"), KEYS)
    refused("signature", verify, replace(FIRST, signature="%%"), KEYS)
    refused("signature", verify, replace(FIRST, signature=""), KEYS)


def test_a_root_that_was_rotated_out_still_counts_for_the_root_only() -> None:
    old = Signer(b"o" * 32)
    verify(old.sign(FIRST), KEYS, [old.public_key()])
    verify(FIRST, KEYS, [old.public_key()])
    refused("signature", verify, old.sign(FIRST), KEYS)
    refused("signature", verify, Signer(old.seed, "ci").sign(FIRST), KEYS, [old.public_key()])
    refused("signature", verify, replace(FIRST, signature="AAAA"), KEYS, [old.public_key()])


def test_trusted_keys() -> None:
    assert trusted_keys(KEYS["root"], {"ci": publisher_text(KEYS["ci"])}) == KEYS
    assert trusted_keys(KEYS["root"], {"root": publisher_text(KEYS["ci"])}) == {"root": KEYS["root"]}
    for text in ("ed25519:AAAA", "rsa:" + "A" * 43 + "=", "ed25519:!", ""):
        with pytest.raises(ValueError, match="publisher ci"):
            trusted_keys(KEYS["root"], {"ci": text})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{" * 5000,
        b"{}",
        FIRST.to_bytes() + b" ",
        FIRST.to_bytes().replace(b'"seq":1', b'"seq":1,"seq":1'),
        FIRST.to_bytes().replace(b'"seq":1', b'"seq": 1'),
        FIRST.to_bytes().replace(b'"seq":1', b'"seq":true'),
        FIRST.to_bytes().replace(b'"seq":1', b'"seq":0'),
        FIRST.to_bytes().replace(b'"seq":1', b'"seq":1.0'),
        FIRST.to_bytes().replace(b'"time_s":1.5', b'"time_s":NaN'),
        FIRST.to_bytes().replace(b'"time_s":1.5', b'"time_s":1e999'),
        FIRST.to_bytes().replace(b'"author":"ann"', b'"author":"\\ud800"'),
        FIRST.to_bytes().replace(b'"author":"ann"', b'"author":"ann","extra":1'),
        FIRST.to_bytes().replace(R1.encode(), R1.upper().encode()),
        FIRST.to_bytes().replace(R1.encode(), b"../../etc"),
        FIRST.to_bytes().replace("ü".encode(), b"\\u00fc"),
        b"\xff\xfe",
        json.dumps({"a": "x" * 20_000}).encode(),
    ],
)
def test_anything_but_the_canonical_form_is_malformed(raw: bytes) -> None:
    refused("malformed", parse, raw)


@given(st.binary(max_size=300))
def test_noise_is_malformed(raw: bytes) -> None:
    refused("malformed", parse, raw)


def test_order() -> None:
    last = Accepted.of(FIRST)
    accept(FIRST, None)
    accept(FIRST, last)
    accept(ROOT.sign(Manifest(2, R2, R1, "a", 2.0, "")), last)
    accept(ROOT.sign(Manifest(9, R3, R2, "a", 2.0, "")), last)
    refused("forked", accept, ROOT.sign(Manifest(2, R3, R2, "a", 2.0, "")), last)
    refused("forked", accept, ROOT.sign(Manifest(1, R2, "", "a", 2.0, "")), last)
    refused("forked", accept, ROOT.sign(replace(FIRST, reason="other")), last)
    refused("older", accept, FIRST, Accepted(2, R2, "x"))


def test_rollback_is_old_content_under_a_new_number() -> None:
    second = ROOT.sign(Manifest(2, R2, R1, "a", 2.0, ""))
    back = ROOT.sign(next_manifest(second, None, revision=R1, author="a", time_s=3.0, reason="rollback"))
    assert (back.seq, back.parent, back.revision) == (3, R2, R1)
    accept(back, Accepted.of(second))


def test_numbers_go_on_above_what_was_accepted_when_the_store_lost_its_log() -> None:
    floor = Accepted(7, R2, "x")
    fresh = next_manifest(None, floor, revision=R3, author="a", time_s=1.0, reason="")
    assert (fresh.seq, fresh.parent) == (8, R2)
    accept(fresh, floor)
    behind = next_manifest(FIRST, floor, revision=R3, author="a", time_s=1.0, reason="")
    assert (behind.seq, behind.parent) == (8, R2)
    ahead = next_manifest(replace(FIRST, seq=9), floor, revision=R3, author="a", time_s=1.0, reason="")
    assert (ahead.seq, ahead.parent) == (10, R1)


def test_content_is_what_was_signed() -> None:
    check_content(FIRST, b"1")
    refused("content", check_content, FIRST, b"2")
