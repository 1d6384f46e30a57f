"""Files to a revision to a snapshot: exact values, one name per content, reuse, and nothing bad gets through."""
# ruff: noqa: E501 - one row of a table, one line

from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config.compile import compile_snapshot, known_entities, load_content, revision_of
from proxy.config.errors import ConfigErrors
from proxy.config.snapshot import CachePolicy, HostPattern, Limits, PriceOverride
from tests.config.kit import ENTITIES, HEAD, PLATFORM, app, certificate, mistakes, snapshot, write

FULL = """version: 1
app: a
owner: team@example.com
cost_center: CC-1
stage: production
expires: 2027-03-31
mode: report
report_until: 2027-01-31T12:00:00+02:00
identify: {networks: [10.20.30.0/24, 10.9.8.7], token: true}
allow:
  - id: openai
    host: api.openai.com
    methods: [POST]
    paths: [/v1/chat/completions, "/v1/files/*"]
    models: [gpt-4o-mini]
    credentials: {headers: [Authorization], pins: ["hmac-sha256:PIN"]}
    dlp: {rules: [{entities: [EMAIL_ADDRESS], action: allow}]}
    cache: off
    limits: {max_body: 20MiB}
    expires: 2027-01-31
  - id: wild
    host: "*.example.com"
    scheme: http
    protocols: [http1, websocket]
    addresses: [10.9.8.0/24]
dlp:
  profile: paranoid
  rules:
    - {classes: [pci], action: block}
    - {entities: [PERSON, EMAIL_ADDRESS], action: tokenize}
    - {entities: [PERSON], at_least: 20, action: block, mode: report}
  otherwise: mask
  except:
    - {entity: EMAIL_ADDRESS, values: [support@example.com], reason: ours, expires: 2027-01-31}
    - {json: "$.metadata.request_id", reason: opaque}
  uninspectable: {image: allow}
  response: {classes: [pci], action: block}
cache: {ttl: 10m, only_deterministic: true}
budget: {daily_usd: 0.000000001, monthly_usd: 200.5, time_zone: Europe/Berlin, on_exceeded: report, unpriced: allow}
limits: {requests_per_minute: 120, max_body: 512KiB, max_output_tokens: 4096, connections: 100}
""".replace("PIN", "ab" * 32)
RICH_PLATFORM = """version: 1
listen: {explicit: "0.0.0.0:8080", metrics: "[::1]:9090"}
deny: [metadata.google.internal, "*.ngrok.io", "*.internal"]
sandbox: ["*.demo.test"]
resolve: {one.demo.test: 127.0.0.1, two.demo.test: [127.0.0.1, "::1"]}
models: {gpt-4o-mini: {provider: openai, tier: trusted}}
prices:
  - {provider: openai, model: ft-1, input_usd_per_mtok: 0.30, output_usd_per_mtok: 1.20, source: contract, from: 2026-11-01}
classes: {pci: [CREDIT_CARD, IBAN_CODE]}
defaults: {limits: {connections: 500}}
publishers: {ci: "ed25519:KEY"}
""".replace("KEY", "0a" * 32)


def test_every_value_arrives_as_it_is_meant(tmp_path: Path) -> None:
    found = app(tmp_path, FULL, platform=RICH_PLATFORM)
    assert (found.owner, found.cost_center, found.stage, found.mode) == (
        "team@example.com",
        "CC-1",
        "production",
        "report",
    )
    assert found.expires_at_s == 1806451200.0
    assert found.report_until_s == 1801389600.0
    assert [str(network) for network in found.networks] == ["10.20.30.0/24", "10.9.8.7/32"]
    assert found.token
    assert found.cache == CachePolicy(600, only_deterministic=True)
    assert found.limits == Limits(512 << 10, 120, 4096, 100)
    budget = found.budget
    assert budget is not None
    assert (budget.daily_usd_nanos, budget.monthly_usd_nanos) == (1, 200_500_000_000)
    assert (budget.time_zone, budget.on_exceeded, budget.unpriced, budget.on_unavailable) == (
        "Europe/Berlin",
        "report",
        "allow",
        "deny",
    )
    assert (found.at, budget.at) == ("apps/a.yaml:1:1", "apps/a.yaml:39:1")


def test_entries_arrive_with_what_they_inherit(tmp_path: Path) -> None:
    openai, wild = app(tmp_path, FULL, platform=RICH_PLATFORM).entries
    assert (openai.host, openai.wildcard, openai.scheme, openai.ports) == ("api.openai.com", False, "https", {443})
    assert (openai.methods, openai.models, openai.tiers) == ({"POST"}, {"gpt-4o-mini"}, None)
    assert openai.paths == ("/v1/chat/completions", "/v1/files/*")
    assert openai.credentials is not None
    assert (openai.credentials.headers, openai.credentials.pins) == ({"authorization"}, {"hmac-sha256:" + "ab" * 32})
    assert openai.cache is None
    assert openai.limits == Limits(20 << 20, 120, 4096, 100)
    assert openai.at == "apps/a.yaml:11:5"
    assert (wild.host, wild.wildcard, wild.scheme, wild.ports) == ("example.com", True, "http", {80})
    assert (wild.methods, wild.paths, wild.models, wild.credentials) == (None, None, None, None)
    assert wild.protocols == {"http1", "websocket"}
    assert [str(network) for network in wild.addresses or ()] == ["10.9.8.0/24"]
    assert wild.cache == CachePolicy(600, only_deterministic=True)
    assert wild.limits == Limits(512 << 10, 120, 4096, 100)


def test_dlp_arrives_with_classes_resolved(tmp_path: Path) -> None:
    found = app(tmp_path, FULL, platform=RICH_PLATFORM)
    dlp, own = found.dlp, found.entries[0].dlp
    assert (dlp.profile, dlp.otherwise, dlp.mode) == ("paranoid", "mask", "enforce")
    assert [(sorted(rule.entities), rule.action, rule.at_least, rule.mode) for rule in dlp.rules] == [
        (["CREDIT_CARD", "IBAN_CODE"], "block", 1, "enforce"),
        (["EMAIL_ADDRESS", "PERSON"], "tokenize", 1, "enforce"),
        (["PERSON"], "block", 20, "report"),
    ]
    assert dlp.rules[0].at == "apps/a.yaml:29:7"
    assert [rule.action for rule in dlp.response_rules] == ["block"]
    assert dlp.uninspectable == {
        "image": "allow",
        "audio": "block",
        "pdf": "block",
        "encrypted": "block",
        "unknown": "block",
    }
    mail, leaf = dlp.exceptions
    assert (mail.entity, mail.values, mail.expires_at_s) == ("EMAIL_ADDRESS", {"support@example.com"}, 1801353600.0)
    assert (leaf.json_path, leaf.expires_at_s) == ("$.metadata.request_id", None)
    assert [(sorted(rule.entities), rule.action) for rule in own.rules][1:] == [
        (["PERSON"], "tokenize"),
        (["PERSON"], "block"),
        (["EMAIL_ADDRESS"], "allow"),
    ]
    assert own.digest != dlp.digest


def test_the_platform_arrives(tmp_path: Path) -> None:
    found = snapshot(write(tmp_path, FULL, platform=RICH_PLATFORM)).platform
    assert found.listen == {"explicit": "0.0.0.0:8080", "metrics": "[::1]:9090"}
    assert [HostPattern(one.host, one.wildcard) for one in found.deny] == [
        HostPattern("metadata.google.internal", False),
        HostPattern("ngrok.io", True),
        HostPattern("internal", True),
    ]
    assert [one.at for one in found.deny] == ["platform.yaml:3:8", "platform.yaml:3:34", "platform.yaml:3:48"]
    assert found.resolve == {"one.demo.test": ("127.0.0.1",), "two.demo.test": ("127.0.0.1", "::1")}
    assert found.prices == (PriceOverride("openai", "ft-1", 300_000, 1_200_000, "contract", 1793491200.0),)
    assert found.models["gpt-4o-mini"].tier == "trusted"
    assert found.classes == {"pci": {"CREDIT_CARD", "IBAN_CODE"}}
    assert found.publishers == {"ci": "ed25519:" + "0a" * 32}


def test_a_revision_is_named_by_its_content_alone(tmp_path: Path) -> None:
    content = load_content(write(tmp_path, FULL, platform=RICH_PLATFORM), entities=ENTITIES)
    again = load_content(write(tmp_path, FULL, platform=RICH_PLATFORM), entities=ENTITIES)
    assert content == again
    assert content.revision == revision_of(content.canonical) == compile_snapshot(content.canonical, seq=7).revision
    assert content.apps == ("a",)
    changed = load_content(write(tmp_path, FULL.replace("CC-1", "CC-2"), platform=RICH_PLATFORM), entities=ENTITIES)
    assert changed.revision != content.revision


def test_two_spellings_of_one_policy_differ_in_places_only(tmp_path: Path) -> None:
    plain = app(tmp_path, HEAD + "limits: {max_body: 1MiB}\ncache: {ttl: 60s}\n")
    other = app(
        tmp_path,
        "# moved\n"
        + HEAD.replace("owner: team@example.com", "owner: 'team@example.com'")
        + "cache: {ttl: 1m}\nlimits: {max_body: 1024KiB}\n",
    )
    assert other.digest == plain.digest
    assert other.at != plain.at


@pytest.mark.parametrize(
    "change",
    [
        "limits: {max_body: 2KiB}\n",
        "allow: [{id: x, host: b.com}]\n",
        "budget: {daily_usd: 1}\n",
        "dlp: {otherwise: block}\n",
    ],
)
def test_another_content_is_another_digest(tmp_path: Path, change: str) -> None:
    assert app(tmp_path, HEAD).digest != app(tmp_path, HEAD + change).digest


def test_what_did_not_change_keeps_its_object(tmp_path: Path) -> None:
    apps = {"a": HEAD, "b": HEAD.replace("app: a", "app: b")}
    first = snapshot(write(tmp_path, apps))
    second = snapshot(write(tmp_path, {**apps, "b": apps["b"] + "cost_center: x\n"}), seq=2, previous=first)
    assert second.apps["a"] is first.apps["a"]
    assert second.apps["b"] is not first.apps["b"]
    moved = snapshot(write(tmp_path, {**apps, "a": "# moved\n" + HEAD}), seq=3, previous=first)
    assert moved.apps["a"].at == "apps/a.yaml:2:1"
    assert moved.apps["a"].digest == first.apps["a"].digest


def test_a_change_of_what_apps_inherit_reaches_them(tmp_path: Path) -> None:
    first = snapshot(write(tmp_path, HEAD))
    second = snapshot(
        write(tmp_path, HEAD, platform=PLATFORM + "defaults: {limits: {connections: 5}}\n"), previous=first
    )
    assert second.apps["a"].limits.connections == 5


def test_the_ca_travels_inside(tmp_path: Path) -> None:
    (tmp_path / "corp.pem").write_bytes(b"a comment\n" + certificate())
    text = HEAD + "allow: [{id: x, host: a.com, upstream_ca: corp.pem}]\n"
    pem = app(tmp_path, text).entries[0].upstream_ca
    assert pem is not None
    assert pem.startswith("-----BEGIN CERTIFICATE-----\n")
    assert "comment" not in pem


def test_the_ca_of_the_state_directory(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ca.pem").write_bytes(certificate())
    write(tmp_path, HEAD + "allow: [{id: x, host: a.com, upstream_ca: 'state:ca.pem'}]\n")
    assert snapshot(tmp_path, tmp_path / "state").apps["a"].entries[0].upstream_ca
    assert mistakes(tmp_path, tmp_path / "elsewhere")


CONNECTOR = "version: 1\nconnector: slack\nowner: o@example.com\napproved_by: boss\nexpires: 2027-06-30\nallow:\n"


def test_connectors_become_entries(tmp_path: Path) -> None:
    text = CONNECTOR + "  - {id: post, host: hooks.slack.com}\n  - {id: old, host: slack.com, expires: 2027-01-01}\n"
    write(tmp_path, HEAD + "use: [connectors/slack]\nallow: [{id: post, host: a.com}]\n", connectors={"slack": text})
    own, post, old = snapshot(tmp_path).apps["a"].entries
    assert (own.rule_id, own.connector) == ("post", "")
    assert (post.rule_id, post.connector, post.expires_at_s) == ("slack/post", "slack", 1814313600.0)
    assert (old.rule_id, old.expires_at_s) == ("slack/old", 1798761600.0)
    assert post.at == "connectors/slack.yaml:7:5"


def test_mistakes_in_connectors_show_once_used_or_not(tmp_path: Path) -> None:
    text = CONNECTOR + "  - {id: post, host: hooks.slack.com, tiers: [gold]}\n"
    for use in ("", "use: [connectors/slack]\n"):
        found = mistakes(write(tmp_path, HEAD + use, connectors={"slack": text}))
        assert [(error.file, error.line, error.col) for error in found] == [("connectors/slack.yaml", 7, 47)]


def test_a_misspelt_connector(tmp_path: Path) -> None:
    text = CONNECTOR + "  - {id: post, host: hooks.slack.com}\n"
    found = mistakes(write(tmp_path, HEAD + "use: [connectors/slak]\n", connectors={"slack": text}))
    assert [error.fix for error in found] == ["did you mean connectors/slack?"]


def test_entities_are_those_of_the_recognisers(tmp_path: Path) -> None:
    assert {"CREDIT_CARD", "EMAIL_ADDRESS", "PERSON"} <= known_entities()
    write(tmp_path, HEAD + "dlp: {rules: [{entities: [CREDIT_KARD], action: block}]}\n")
    with pytest.raises(ConfigErrors, match="did you mean CREDIT_CARD"):
        load_content(tmp_path)


def revision(tmp_path: Path) -> dict[str, object]:
    found: dict[str, object] = orjson.loads(
        load_content(write(tmp_path, FULL, platform=RICH_PLATFORM), entities=ENTITIES).canonical
    )
    return found


BROKEN = {
    "not json": b"{",
    "not an object": b"[]",
    "another format": b'{"format": 2, "platform": {}, "apps": {}, "_at": {"platform": {}, "apps": {}}}',
    "no places": b'{"format": 1, "platform": {}, "apps": {}}',
    "no platform": b'{"format": 1, "apps": {}, "_at": {"platform": {}, "apps": {}}}',
    "bad platform": b'{"format": 1, "platform": {"x": 1}, "apps": {}, "_at": {"platform": {}, "apps": {}}}',
    "app is no object": b'{"format": 1, "platform": {"version": "1"}, "apps": {"a": 5}, "_at": {"platform": {}, "apps": {}}}',
    "too deep": b'{"format": 1, "platform": '
    + b'{"a":' * 100
    + b"1"
    + b"}" * 100
    + b', "apps": {}, "_at": {"platform": {}, "apps": {}}}',
}


@pytest.mark.parametrize("canonical", BROKEN.values(), ids=BROKEN)
def test_what_is_no_revision_never_compiles(canonical: bytes) -> None:
    with pytest.raises(ConfigErrors):
        compile_snapshot(canonical, seq=1)


TAMPERED = [
    ("apps/a/stage", "prod"),
    ("apps/a/app", "b"),
    ("apps/a/use", ["connectors/x"]),
    ("apps/a/allow/0/host", "*.com"),
    ("apps/a/allow/0/upstream_ca", "/etc/passwd"),
    ("apps/a/allow/0/tls", "passthrough"),
    ("apps/a/identify", {}),
    ("platform/deny", [""]),
    ("apps/a/allow/0/surprise", "x"),
]


@pytest.mark.parametrize(("pointer", "value"), TAMPERED, ids=[pointer for pointer, _ in TAMPERED])
def test_a_revision_is_checked_again(tmp_path: Path, pointer: str, value: object) -> None:
    document = revision(tmp_path)
    *path, last = pointer.split("/")
    target: object = document
    for part in path:
        target = target[int(part)] if isinstance(target, list) else target[part]  # type: ignore[index]
    target[last] = value  # type: ignore[index]
    with pytest.raises(ConfigErrors):
        compile_snapshot(orjson.dumps(document), seq=1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["version", "app", "allow", "id", "host", "dlp", "rules", "identify", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, JSON, JSON)
def test_no_revision_makes_it_raise_anything_else(platform: object, app: object, places: object) -> None:
    document = {
        "format": 1,
        "platform": platform,
        "apps": {"a": app},
        "_at": {"platform": places, "apps": {"a": places}},
    }
    try:
        compile_snapshot(orjson.dumps(document), seq=1)
    except ConfigErrors as errors:
        assert errors.errors


LINES = [line + "\n" for line in (FULL + RICH_PLATFORM).splitlines()]
JUNK = [
    "\t",
    "&a ",
    "*a",
    "!x ",
    "- ",
    "  ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "\0",
    "é",
    "'",
    '"',
    "|",
    "#",
    "~",
    "../x",
    "9" * 30,
    "2027-99-99",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_file_makes_the_loader_raise_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    """A policy with lines lost, swapped and soiled is loaded or refused, whole."""
    lines = (
        data.draw(st.lists(st.sampled_from(LINES), max_size=25))
        if data.draw(st.booleans())
        else FULL.splitlines(keepends=True)
    )
    for _ in range(data.draw(st.integers(0, 4))):
        if lines:
            index = data.draw(st.integers(0, len(lines) - 1))
            column = data.draw(st.integers(0, len(lines[index])))
            lines[index] = lines[index][:column] + data.draw(st.sampled_from(JUNK)) + lines[index][column:]
    text = "".join(lines)
    write(tmp_path, text, platform=text if data.draw(st.booleans()) else PLATFORM)
    found = mistakes(tmp_path)
    assert list(found) == sorted(found)
    if not found:
        snapshot(tmp_path)
