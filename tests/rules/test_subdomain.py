"""Names and data below a wildcard: a corpus with near-misses, and encoders at work."""

import base64
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.subdomain import carries_data
from tests.policy.kit import ask, head, outcome, policy

WILD = "allow: [{id: x, host: '*.allowed.test'}]\n"

NAMES = [
    "www", "api", "a.b", "eu-west-1.api", "tenant-42", "my-company-prod", "acme.sharepoint", "s3.us-east-2",
    "ec2-198-51-100-200.us-east-2.compute", "ip-10-0-12-34.eu-central-1", "static-203-0-113-25", "db01.rack12.dc3",
    "customer-support-portal", "internationalisation", "prod-2026-11-24", "v1.2.3.api", "k8s",
    "deadbeef", "cafe", "face2face", "b2b.web2.h264", "xn--bcher-kva", "my_bucket-name.eu", "node-0001", "x" * 6,
    "staging-web-frontend-blue", "pr-12345.preview", "schlachthofstrasse", "strengths-weaknesses",
]  # fmt: skip
DATA = [
    "4a6f686e446f65.53656372657431",  # DST-42
    "4a6f.686e.446f.6553",  # the same, in short labels
    "4a-6f-68-6e-44-6f-65-53-65",
    "123-45-6789",
    "123456789",
    "4111-1111-1111-1111",
    "4111111111111111",
    "123.45.6789",
    "mfrggzdfmztwq2lknnwg23tp",  # base32
    "sgvsbg8gd29ybgqsihrlc3q",  # base64 in lower case
    "d41d8cd98f00b204e9800998ecf8427e",
    "550e8400-e29b-41d4-a716-446655440000",
    "a" * 41,
    "a.b.c.d.e.f",
    ".".join(["word"] * 30),
    "00-11-22-33-44-55-66-77-88-99",
    "x1y2z3a4b5c6",
    "xkcdqwrtzpsdfghjk",
]


@pytest.mark.parametrize("labels", NAMES)
def test_names_that_people_give_are_names(labels: str) -> None:
    assert carries_data(labels) is None


@pytest.mark.parametrize("labels", DATA)
def test_what_an_encoder_makes_is_data(labels: str) -> None:
    assert carries_data(labels) is not None


ENCODERS = {
    "hex": lambda raw: raw.hex(),
    "base32": lambda raw: base64.b32encode(raw).decode().lower().rstrip("="),
    "base36": lambda raw: _base36(int.from_bytes(raw)),
    "decimal": lambda raw: str(int.from_bytes(raw)),
    "octets": lambda raw: "-".join(map(str, raw)),
}


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    return digits or "0"


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("label_chars", [63, 20, 16])
def test_sixteen_random_bytes_seldom_pass(encode: object, label_chars: int) -> None:
    source, passed = random.Random(42), 0
    for _ in range(300):
        text = encode(source.randbytes(16))  # type: ignore[operator]
        labels = ".".join(text[at : at + label_chars].strip("-") or "a" for at in range(0, len(text), label_chars))
        passed += carries_data(labels) is None
    assert passed <= 30, f"{passed} of 300 went through"


@given(st.from_regex(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63}){0,30}", fullmatch=True))
def test_every_name_is_judged_at_once(labels: str) -> None:
    carries_data(labels)


@pytest.mark.parametrize("stage", ["connect", "hello", "head", "body"])
def test_the_rule_bites_at_every_stage_and_in_report_mode(stage: str) -> None:
    bad = head(f"https://{DATA[0]}.allowed.test/")
    assert outcome(ask(policy(WILD), bad, stage)) == "deny host_denied subdomain"  # type: ignore[arg-type]
    reporting = WILD + "mode: report\nreport_until: 2027-01-01\n"
    assert outcome(ask(policy(reporting), bad, stage)) == "deny host_denied subdomain"  # type: ignore[arg-type]


CASES = {
    "an ordinary name": (WILD, "https://eu.allowed.test/", "allow x"),
    "the wildcard's own labels are not judged": (
        "allow: [{id: x, host: '*.4a6f686e446f65.test'}]\n", "https://api.4a6f686e446f65.test/", "allow x"),
    "an exact host is what it is": (
        f"allow: [{{id: x, host: {DATA[0]}.allowed.test}}]\n", f"https://{DATA[0]}.allowed.test/", "allow x"),
    "an exact entry beside the wildcard": (
        f"allow: [{{id: w, host: '*.allowed.test'}}, {{id: x, host: {DATA[0]}.allowed.test}}]\n",
        f"https://{DATA[0]}.allowed.test/", "allow x"),
    "switched off": ("allow: [{id: x, host: '*.allowed.test', subdomains: any}]\n",
                     f"https://{DATA[0]}.allowed.test/", "allow x"),
    "switched on": ("allow: [{id: x, host: '*.allowed.test', subdomains: plain}]\n",
                    f"https://{DATA[0]}.allowed.test/", "deny host_denied subdomain"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "url", "expected"), CASES.values(), ids=CASES)
def test_where_it_applies(text: str, url: str, expected: str) -> None:
    assert outcome(ask(policy(text), head(url))) == expected


def test_the_denial_tells_what_to_do_without_the_labels() -> None:
    decision = ask(policy(WILD), head(f"https://{DATA[0]}.allowed.test/")).decision
    assert "subdomains: any" in decision.remedy
    assert DATA[0] not in decision.detail + decision.remedy
