"""From a request through inspection to the answer that repeats it, without processes: what went out comes back."""

import json

import pytest

from proxy.config.snapshot import DlpPolicy
from proxy.model import DlpAction
from proxy.restore import JsonRestorer, Placeholders
from tests.inspection.kit import CARD, MAIL, policy, rule, run

IBAN = "DE89 3704 0044 0532 0130 00"
TEXT = f'pay {CARD} for "{MAIL}"\nfrom {IBAN}'


def echoed(dlp: DlpPolicy, **more: object) -> tuple[str, str]:
    """(what the upstream sees, what the client reads when the upstream repeats it within JSON)"""
    verdict = run(json.dumps({"m": TEXT}).encode(), dlp=dlp, **more)  # type: ignore[arg-type]
    assert verdict.body is not None
    seen = json.loads(verdict.body)["m"]
    restorer = JsonRestorer(Placeholders(verdict.restore))
    answer = restorer.feed(json.dumps({"echo": [f"you said: {seen}", "other"]}).encode()) + restorer.finish()
    return seen, json.loads(answer)["echo"][0]


@pytest.mark.parametrize("action", ["tokenize", "encrypt", "synthesize"])
def test_what_went_out_comes_back(action: DlpAction) -> None:
    seen, read = echoed(policy(otherwise=action))
    assert not any(value in seen for value in (CARD, MAIL, IBAN))
    assert read == f"you said: {TEXT}"


@pytest.mark.parametrize("action", ["redact", "hash", "mask"])
def test_what_does_not_come_back_does_not(action: DlpAction) -> None:
    seen, read = echoed(policy(otherwise=action))
    assert not any(value in read for value in (CARD, MAIL, IBAN))
    assert read == f"you said: {seen}"


def test_each_entity_its_own_and_each_tier_its_own() -> None:
    dlp = policy(
        rule("encrypt", "CREDIT_CARD"), rule("synthesize", "EMAIL_ADDRESS", tiers=frozenset({"trusted"})),
        otherwise="redact",
    )  # fmt: skip
    trusted, read = echoed(dlp, tier="trusted")
    assert "@example.org" in trusted
    assert "<IBAN_CODE>" in trusted
    assert read == f"you said: {TEXT.replace(IBAN, '<IBAN_CODE>')}"
    assert "<EMAIL_ADDRESS>" in echoed(dlp, tier="public")[0]
    assert echoed(dlp, tier="public")[0] == echoed(dlp)[0]
