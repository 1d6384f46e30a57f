"""Rules that span several keys and files."""
# ruff: noqa: E501 - one row of a table, one line

from pathlib import Path

import pytest

from tests.config.kit import HEAD, PLATFORM, app, certificate, mistakes, write

ALLOW = HEAD + "allow:\n"


def entry(rule_id: str, host: str = "a.com", more: str = "") -> str:
    return f"  - {{id: {rule_id}, host: '{host}'{', ' if more else ''}{more}}}\n"


DISAGREE = {
    "tls": (entry("x"), entry("y", more="tls: passthrough"), "tls"),
    "protocols": (entry("x"), entry("y", more="protocols: [http1, websocket]"), "protocols"),
    "addresses": (entry("x", more="addresses: [10.0.0.0/8]"), entry("y"), "addresses"),
    "other addresses": (
        entry("x", more="addresses: [10.0.0.0/8]"),
        entry("y", more="addresses: [10.0.0.0/9]"),
        "addresses",
    ),
    "upstream_ca": (entry("x", more="upstream_ca: ca.pem"), entry("y"), "upstream_ca"),
    "below a wildcard": (entry("x", "*.a.com"), entry("y", "b.a.com", "tls: passthrough"), "tls"),
    "deep below a wildcard": (entry("x", "d.c.b.a.com"), entry("y", "*.a.com", "tls: passthrough"), "tls"),
    "wildcard in wildcard": (entry("x", "*.a.com"), entry("y", "*.b.a.com", "tls: passthrough"), "tls"),
    "one port of two": (
        entry("x", more="ports: [443, 8443]"),
        entry("y", more="ports: [8443], tls: passthrough"),
        "tls",
    ),
}
AGREE = {
    "same": entry("x") + entry("y"),
    "default written out": entry("x") + entry("y", more="tls: inspect, protocols: [http1], addresses: public"),
    "order": entry("x", more="protocols: [http1, h2]") + entry("y", more="protocols: [h2, http1]"),
    "other port": entry("x") + entry("y", more="ports: [8443], tls: passthrough"),
    "other host": entry("x") + entry("y", "b.com", "tls: passthrough"),
    "wildcard does not hold the name itself": entry("x", "*.a.com") + entry("y", "a.com", "tls: passthrough"),
    "suffix of a label": entry("x", "*.a.com") + entry("y", "ba.com", "tls: passthrough"),
    "http beside https": entry("x") + entry("y", more="scheme: http, addresses: [10.0.0.0/8]"),
}


@pytest.mark.parametrize(("first", "second", "key"), DISAGREE.values(), ids=DISAGREE)
@pytest.mark.parametrize("swapped", [False, True])
def test_entries_of_one_host_and_port_agree(tmp_path: Path, first: str, second: str, key: str, swapped: bool) -> None:
    (tmp_path / "ca.pem").write_bytes(certificate())
    found = mistakes(write(tmp_path, ALLOW + (second + first if swapped else first + second)))
    assert len(found) == 1
    assert f"differ in `{key}:`" in found[0].message


@pytest.mark.parametrize("entries", AGREE.values(), ids=AGREE)
def test_what_cannot_meet_need_not_agree(tmp_path: Path, entries: str) -> None:
    assert mistakes(write(tmp_path, ALLOW + entries)) == ()


def test_ids_are_unique(tmp_path: Path) -> None:
    found = mistakes(write(tmp_path, ALLOW + entry("x") + entry("x", "b.com")))
    assert [(error.line, error.message) for error in found] == [(8, "the id 'x' is taken (line 7)")]


NETWORKS = {
    "same": ("[10.0.0.0/24]", "[10.0.0.0/24]", True),
    "inside": ("[10.0.0.0/8]", "[10.9.8.0/24]", True),
    "around": ("[10.9.8.0/24]", "[10.0.0.0/8]", True),
    "second of two": ("[192.168.0.0/16, 10.9.8.7/32]", "[172.16.0.0/12, 10.9.8.0/24]", True),
    "hidden behind a neighbour": ("[10.0.0.0/8]", "[10.1.0.0/16, 10.2.0.0/16]", True),
    "six": ("[fd00::/8]", "[fd12::/16]", True),
    "neighbours": ("[10.0.0.0/24]", "[10.0.1.0/24]", False),
    "other family": ("['::/0']", "[0.0.0.0/0]", False),
}


@pytest.mark.parametrize(("first", "second", "overlap"), NETWORKS.values(), ids=NETWORKS)
def test_networks_of_two_apps_do_not_overlap(tmp_path: Path, first: str, second: str, overlap: bool) -> None:
    one = HEAD.replace("{token: true}", f"{{networks: {first}}}")
    other = HEAD.replace("app: a", "app: b").replace("{token: true}", f"{{networks: {second}, token: true}}")
    found = mistakes(write(tmp_path, {"a": one, "b": other}))
    assert bool(found) is overlap
    assert all("overlaps" in error.message and "apps/" in error.message for error in found)


def test_networks_of_one_app_may_overlap(tmp_path: Path) -> None:
    assert mistakes(write(tmp_path, HEAD.replace("{token: true}", "{networks: [10.0.0.0/8, 10.1.0.0/16]}"))) == ()


DEFAULTS = (
    PLATFORM + "classes: {pci: [CREDIT_CARD]}\n"
    "defaults:\n"
    "  dlp: {profile: balanced, otherwise: redact, uninspectable: {audio: block}, rules: [{classes: [pci], action: block}]}\n"
    "  limits: {max_body: 4MiB, requests_per_minute: 60}\n"
)
APPROVED = ", reason: why, approved_by: boss"
TIGHTEN = {
    "larger body": (HEAD + "limits: {max_body: 5MiB}\n", "at most max_body: 4MiB"),
    "faster": (HEAD + "limits: {requests_per_minute: 61}\n", "at most requests_per_minute: 60"),
    "finds less": (HEAD + "dlp: {profile: strict}\n", "profile: balanced"),
    "milder otherwise": (HEAD + "dlp: {otherwise: tokenize}\n", "otherwise: redact"),
    "lets audio through": (HEAD + "dlp: {uninspectable: {audio: allow}}\n", "audio: block"),
    "entry without approval": (
        ALLOW + entry("x", more="limits: {max_body: 5MiB}, reason: why"),
        "at most max_body: 4MiB",
    ),
    "entry without reason": (
        ALLOW + entry("x", more="dlp: {otherwise: allow}, approved_by: boss"),
        "otherwise: redact",
    ),
}
MAY = {
    "equal": HEAD + "limits: {max_body: 4MiB}\ndlp: {profile: balanced, otherwise: redact}\n",
    "tighter": HEAD + "limits: {max_body: 1KiB}\ndlp: {profile: paranoid, otherwise: block}\n",
    "what the platform leaves open": HEAD + "limits: {connections: 9999}\ndlp: {uninspectable: {image: allow}}\n",
    "approved entry": ALLOW + entry("x", more="limits: {max_body: 20MiB}, dlp: {otherwise: allow}" + APPROVED),
}


@pytest.mark.parametrize(("text", "fix"), TIGHTEN.values(), ids=TIGHTEN)
def test_an_app_may_not_loosen(tmp_path: Path, text: str, fix: str) -> None:
    found = mistakes(write(tmp_path, text, platform=DEFAULTS))
    assert [error.fix for error in found] == [fix]


@pytest.mark.parametrize("text", MAY.values(), ids=MAY)
def test_an_app_may_tighten(tmp_path: Path, text: str) -> None:
    assert mistakes(write(tmp_path, text, platform=DEFAULTS)) == ()


def test_the_platforms_dlp_rules_stay_in_force_whatever_an_entry_says(tmp_path: Path) -> None:
    text = (
        HEAD
        + "dlp: {rules: [{entities: [CREDIT_CARD, PERSON], action: tokenize}]}\nallow:\n"
        + entry("x", more="dlp: {rules: [{entities: [CREDIT_CARD], action: allow}]}" + APPROVED)
    )
    rules = app(tmp_path, text, platform=DEFAULTS).entries[0].dlp.rules
    assert [(sorted(rule.entities), rule.action) for rule in rules] == [
        (["CREDIT_CARD"], "block"),
        (["PERSON"], "tokenize"),
        (["CREDIT_CARD"], "allow"),
    ]


@pytest.mark.parametrize(("limit", "wrong"), [("4s", True), ("5s", False), ("20m", False)])
def test_a_hiccup_of_the_store_may_not_deny_everything(tmp_path: Path, limit: str, wrong: bool) -> None:
    found = mistakes(write(tmp_path, platform=f"version: 1\nmax_staleness: {limit}\n"))
    assert [(one.file, one.line, "hiccup" in one.message) for one in found] == ([("platform.yaml", 2, True)] * wrong)
