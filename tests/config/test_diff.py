"""What changed, and whether it allows more. Every row is also read backwards, so that both directions are pinned."""

from pathlib import Path

import pytest

from proxy.config.compile import load_content
from proxy.config.diff import Change, diff_contents
from proxy.config.errors import ConfigErrors
from tests.config.kit import ENTITIES, HEAD, PLATFORM, certificate, write

NOTHING = ""


def canonical(directory: Path, text: str, platform: str = PLATFORM) -> bytes:
    return load_content(write(directory, text, platform=platform), entities=ENTITIES).canonical


def entry(more: str) -> str:
    return HEAD + f"allow: [{{id: x, host: a.com{', ' if more else ''}{more}}}]\n"


# before, after, path, widens, widens when undone
APP = {
    "owner": ("owner: team@", "owner: squad@", "owner", False, False),
    "stage": ("stage: production", "stage: sandbox", "stage", False, True),
    "suspended": ("stage: production", "stage: suspended", "stage", False, True),
    "token": ("{token: true}", "{token: true, networks: [10.0.0.0/8]}", "identify.networks", True, True),
    "network grows": ("{token: true}", "{networks: [10.0.0.0/8]}", "identify.token", True, False),
}
BLOCKS = {
    "expires": (NOTHING, "expires: 2027-01-01", "expires", False, True),
    "expires later": ("expires: 2027-01-01", "expires: 2027-01-02", "expires", True, False),
    "report": (NOTHING, "mode: report\nreport_until: 2027-01-01", "mode", True, False),
    "report longer": (
        "mode: report\nreport_until: 2027-01-01",
        "mode: report\nreport_until: 2027-02-01",
        "report_until",
        True,
        False,
    ),
    "limit comes": (NOTHING, "limits: {max_body: 1MiB}", "limits.max_body", False, True),
    "limit rises": ("limits: {max_body: 512KiB}", "limits: {max_body: 1MiB}", "limits.max_body", True, False),
    "rate rises": (
        "limits: {requests_per_minute: 9}",
        "limits: {requests_per_minute: 10}",
        "limits.requests_per_minute",
        True,
        False,
    ),
    "budget comes": (NOTHING, "budget: {daily_usd: 9}", "budget.daily_usd", False, True),
    "budget rises": ("budget: {daily_usd: 9}", "budget: {daily_usd: 10}", "budget.daily_usd", True, False),
    "budget reports": (
        "budget: {daily_usd: 9}",
        "budget: {daily_usd: 9, on_exceeded: report}",
        "budget.on_exceeded",
        True,
        False,
    ),
    "unpriced": ("budget: {daily_usd: 9}", "budget: {daily_usd: 9, unpriced: allow}", "budget.unpriced", True, False),
    "default written out": (
        "budget: {daily_usd: 9}",
        "budget: {daily_usd: 9, unpriced: deny}",
        "budget.unpriced",
        False,
        False,
    ),
    "cache": (NOTHING, "cache: {ttl: 1m}", "cache.ttl", False, False),
    "profile": ("dlp: {profile: balanced}", "dlp: {profile: strict}", "dlp.profile", True, False),
    "otherwise": ("dlp: {otherwise: redact}", "dlp: {otherwise: tokenize}", "dlp.otherwise", True, False),
    "block rule": (NOTHING, "dlp: {rules: [{entities: [PERSON], action: block}]}", "dlp.rules", False, True),
    "allow rule": (NOTHING, "dlp: {rules: [{entities: [PERSON], action: allow}]}", "dlp.rules", True, False),
    "trial rule": (
        NOTHING,
        "dlp: {rules: [{entities: [PERSON], action: block, mode: report}]}",
        "dlp.rules",
        True,
        True,
    ),
    "exception": (NOTHING, "dlp: {except: [{json: $.a, reason: x}]}", "dlp.except", True, False),
    "image": (NOTHING, "dlp: {uninspectable: {image: allow}}", "dlp.uninspectable.image", True, False),
}
ENTRY = {
    "method more": ("methods: [GET]", "methods: [GET, POST]", "allow[x].methods", True, False),
    "methods any": ("methods: [GET]", NOTHING, "allow[x].methods", True, False),
    "path other": ("paths: [/a]", "paths: [/b]", "allow[x].paths", True, True),
    "model fewer": ("models: [m, n]", "models: [m]", "allow[x].models", False, True),
    "port more": ("ports: [443]", "ports: [443, 8443]", "allow[x].ports", True, False),
    "protocol more": ("protocols: [http1]", "protocols: [http1, websocket]", "allow[x].protocols", True, False),
    "passthrough": (NOTHING, "tls: passthrough", "allow[x].tls", True, False),
    "private addresses": (NOTHING, "addresses: [10.0.0.0/8]", "allow[x].addresses", True, True),
    "addresses narrower": ("addresses: [10.0.0.0/8]", "addresses: [10.1.0.0/16]", "allow[x].addresses", False, True),
    "pins": (
        "credentials: {headers: [authorization]}",
        f"credentials: {{headers: [authorization], pins: ['hmac-sha256:{'0' * 64}']}}",
        "allow[x].credentials.pins",
        False,
        True,
    ),
    "entry expires": (NOTHING, "expires: 2027-01-01", "allow[x].expires", False, True),
    "reason": (NOTHING, "reason: because", "allow[x].reason", False, False),
    "upstream ca": (NOTHING, "upstream_ca: ca.pem", "allow[x].upstream_ca", True, False),
}
PLATFORMS = {
    "deny": (NOTHING, "deny: [b.com]", "deny", False, True),
    "sandbox": (NOTHING, "sandbox: [b.com]", "sandbox", True, False),
    "class": ("classes: {pci: [PERSON]}", "classes: {pci: [PERSON, SECRET]}", "classes.pci", True, True),
    "resolve": (NOTHING, "resolve: {a.com: 127.0.0.1}", "resolve.a.com", True, True),
    "publisher": (NOTHING, f"publishers: {{ci: 'ed25519:{'0' * 64}'}}", "publishers.ci", True, False),
    "default limit": (NOTHING, "defaults: {limits: {connections: 5}}", "defaults.limits.connections", False, True),
    "staleness bounded": (NOTHING, "max_staleness: 20m", "max_staleness", False, True),
    "staleness grows": ("max_staleness: 20m", "max_staleness: 1h", "max_staleness", True, False),
    "listen": (NOTHING, "listen: {explicit: '0.0.0.0:8080'}", "listen.explicit", False, False),
}  # fmt: skip


def check(old: bytes, new: bytes, path: str, widens: bool) -> None:
    changes = {change.path: change for change in diff_contents(old, new)}
    if path:
        assert changes[path].widens is widens
        assert changes[path].at
    else:
        assert changes == {}


def both(
    directory: Path, before: tuple[str, str], after: tuple[str, str], path: str, widens: bool, undone: bool
) -> None:
    (directory / "ca.pem").write_bytes(certificate())
    old, new = canonical(directory, *before), canonical(directory, *after)
    check(old, new, path, widens)
    check(new, old, path, undone)


@pytest.mark.parametrize(("before", "after", "path", "widens", "undone"), APP.values(), ids=APP)
def test_an_apps_head(tmp_path: Path, before: str, after: str, path: str, widens: bool, undone: bool) -> None:
    both(tmp_path, (HEAD, PLATFORM), (HEAD.replace(before, after), PLATFORM), path, widens, undone)


@pytest.mark.parametrize(("before", "after", "path", "widens", "undone"), BLOCKS.values(), ids=BLOCKS)
def test_an_apps_blocks(tmp_path: Path, before: str, after: str, path: str, widens: bool, undone: bool) -> None:
    both(tmp_path, (f"{HEAD}{before}\n", PLATFORM), (f"{HEAD}{after}\n", PLATFORM), path, widens, undone)


@pytest.mark.parametrize(("before", "after", "path", "widens", "undone"), ENTRY.values(), ids=ENTRY)
def test_an_entry(tmp_path: Path, before: str, after: str, path: str, widens: bool, undone: bool) -> None:
    both(tmp_path, (entry(before), PLATFORM), (entry(after), PLATFORM), path, widens, undone)


@pytest.mark.parametrize(("before", "after", "path", "widens", "undone"), PLATFORMS.values(), ids=PLATFORMS)
def test_the_platform(tmp_path: Path, before: str, after: str, path: str, widens: bool, undone: bool) -> None:
    both(tmp_path, (HEAD, f"{PLATFORM}{before}\n"), (HEAD, f"{PLATFORM}{after}\n"), path, widens, undone)


def test_entries_come_and_go_by_id(tmp_path: Path) -> None:
    old = canonical(tmp_path, HEAD + "allow: [{id: x, host: a.com}, {id: y, host: b.com}]\n")
    new = canonical(tmp_path, HEAD + "allow: [{id: y, host: b.com}, {id: z, host: c.com}]\n")
    assert diff_contents(old, new) == [
        Change("a", "allow[x]", "a.com", None, False, "apps/a.yaml:6:9"),
        Change("a", "allow[z]", None, "c.com", True, "apps/a.yaml:6:31"),
    ]


def test_apps_come_and_go(tmp_path: Path) -> None:
    old = canonical(tmp_path, HEAD)
    (tmp_path / "apps" / "a.yaml").unlink()
    write(tmp_path, {"b": HEAD.replace("app: a", "app: b")})
    new = load_content(tmp_path, entities=ENTITIES).canonical
    assert [(change.app, change.before, change.after, change.widens) for change in diff_contents(old, new)] == [
        ("a", "production, 0 entries", None, False),
        ("b", None, "production, 0 entries", True),
    ]


def test_moved_lines_and_other_spellings_are_no_change(tmp_path: Path) -> None:
    old = canonical(tmp_path, HEAD + "cache: {ttl: 60s}\nlimits: {max_body: 1024KiB}\n")
    new = canonical(tmp_path, "# c\n" + HEAD + "limits: {max_body: 1MiB}\ncache: {ttl: 1m}\n")
    assert diff_contents(old, new) == []


def test_everything_is_new_at_first(tmp_path: Path) -> None:
    changes = diff_contents(None, canonical(tmp_path, HEAD, PLATFORM + "deny: [b.com]\n"))
    assert {(change.app, change.path) for change in changes} == {
        ("platform", "version"),
        ("platform", "deny"),
        ("a", "(app)"),
    }


def test_what_is_no_revision_is_refused() -> None:
    with pytest.raises(ConfigErrors):
        diff_contents(b"{}", b"{}")
