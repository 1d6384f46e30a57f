"""Every mistake that a policy file can hold: its place, its words, and a value that would work."""
# ruff: noqa: E501 - one row of a table, one line

from pathlib import Path

import pytest
import yaml

from proxy.config.schema import APP, CONNECTOR_FILE, ENTRY, PLATFORM
from proxy.config.types import Field, Obj
from tests.config.kit import HEAD, certificate, mistakes, private_key, write
from tests.config.kit import PLATFORM as PLAIN_PLATFORM
from tests.shared_data import ROOT, needs, rows

ENTRY_HEAD = HEAD + "allow:\n  - id: x\n    host: api.example.com\n"
"""Eight lines; keys of the entry may follow."""

# text of the app file -> (line:col, part of the message, part of the fix)
APP_MISTAKES = {
    "unknown key": (HEAD + "alow: []\n", "6:1", "unknown key 'alow'", "did you mean `allow:`?"),
    "far key": (HEAD + "xyzzy: 1\n", "6:1", "unknown key 'xyzzy'", "known keys: version, app"),
    "internal key": (ENTRY_HEAD + "    connector: x\n", "9:5", "unknown key 'connector'", "known keys"),
    "missing key": ("version: 1\napp: a\nidentify: {token: true}\n", "1:1", "`owner:` is missing", "add `owner: "),
    "version": (HEAD.replace("version: 1", "version: 2"), "1:10", "'2' is not the version", "one of: 1"),
    "name": (HEAD.replace("app: a", "app: A_b"), "2:6", "'A_b' is not a name", "lower-case letters"),
    "other name": (HEAD.replace("app: a", "app: b"), "2:6", "`app: b` stands in the file apps/a.yaml", "apps/b.yaml"),
    "empty value": (HEAD + "dlp:\n", "6:5", "a mapping (dlp) is expected here, not nothing", "for example {profile: strict}"),
    "empty text": (HEAD.replace("team@example.com", "''"), "3:8", "the text is empty", "one short line"),
    "scalar for a list": (HEAD + "use: connectors/x\n", "6:6", "a list is expected here, not 'connectors/x'", "[connectors/"),
    "list for a mapping": (HEAD + "dlp: [a]\n", "6:6", "a mapping (dlp) is expected here, not a list", "{profile"),
    "mapping for a scalar": (HEAD.replace("stage: production", "stage: {a: b}"), "4:8", "a stage is expected here, not a mapping", "suspended"),
    "stage": (HEAD.replace("production", "prod"), "4:8", "'prod' is not a stage", "one of: suspended"),
    "stage typo": (HEAD.replace("production", "Production"), "4:8", "'Production' is not a stage", "did you mean production?"),
    "date": (HEAD + "expires: 31.03.2027\n", "6:10", "not a date or an instant", "2027-03-31"),
    "no such day": (HEAD + "expires: 2027-02-29\n", "6:10", "there is no such date", "2027-03-31"),
    "local time": (HEAD + "expires: 2027-03-31T10:00:00\n", "6:10", "not a date or an instant", "T18:00:00Z"),
    "report without end": (HEAD + "mode: report\n", "6:1", "`mode: report` needs `report_until:`", "report_until: 2027"),
    "end without report": (HEAD + "report_until: 2027-01-31\n", "6:1", "means nothing without `mode: report`", "remove"),
    "no identity": (HEAD.replace("{token: true}", "{token: false}"), "5:11", "nothing identifies the app", "token: true"),
    "empty identity": (HEAD.replace("{token: true}", "{}"), "5:11", "nothing identifies the app", "networks: [10."),
    "no networks": (HEAD.replace("{token: true}", "{networks: []}"), "5:22", "the list is empty", "[10.20.30.0/24]"),
    "network": (HEAD.replace("{token: true}", "{networks: [10.1]}"), "5:23", "'10.1' is not a network", "10.20.30.0/24"),
    "host bits": (HEAD.replace("{token: true}", "{networks: [10.1.2.3/8]}"), "5:23", "canonical spelling", "write 10.0.0.0/8"),
    "boolean": (HEAD.replace("token: true", "token: yes"), "5:19", "'yes' is neither true nor false", "true, or false"),
    "yaml boolean": (HEAD.replace("token: true", "token: True"), "5:19", "'True' is neither true nor false", "true"),
    "connector": (HEAD + "use: [connectors/slak]\n", "6:7", "no connector 'connectors/slak'", "create connectors/slak.yaml"),
    "connector form": (HEAD + "use: [slack]\n", "6:7", "'slack' is not a connector", "connectors/slack-webhook"),
    "twice": (HEAD.replace("{token: true}", "{networks: [10.0.0.0/8, 10.0.0.0/8]}"), "5:35", "'10.0.0.0/8' stands here twice", "keep one"),
    "budget without limit": (HEAD + "budget: {unpriced: deny}\n", "6:9", "a budget without a limit", "daily_usd: 20"),
    "daily above monthly": (HEAD + "budget: {daily_usd: 9, monthly_usd: 8}\n", "6:10", "above the monthly one", "lower it"),
    "infinite money": (HEAD + "budget: {daily_usd: .inf}\n", "6:21", "'.inf' is not an amount", "20 or 0.50"),
    "no number": (HEAD + "budget: {daily_usd: .nan}\n", "6:21", "'.nan' is not an amount", "20"),
    "negative money": (HEAD + "budget: {daily_usd: -1}\n", "6:21", "'-1' is not an amount", "plain digits"),
    "exponent": (HEAD + "budget: {daily_usd: 1e3}\n", "6:21", "'1e3' is not an amount", "plain digits"),
    "ten decimals": (HEAD + "budget: {daily_usd: 0.0000000001}\n", "6:21", "is not an amount", "plain digits"),
    "time zone": (HEAD + "budget: {daily_usd: 1, time_zone: Mars/Base}\n", "6:35", "not a time zone", "Europe/Berlin"),
    "path as zone": (HEAD + "budget: {daily_usd: 1, time_zone: ../../etc/passwd}\n", "6:35", "not a time zone", "UTC"),
    "size": (HEAD + "limits: {max_body: 4MB}\n", "6:20", "'4MB' is not a size", "4MiB"),
    "no size": (HEAD + "limits: {max_body: 0B}\n", "6:20", "0B is outside", "4MiB"),
    "huge size": (HEAD + "limits: {max_body: 1GiB}\n", "6:20", "1GiB is outside 1B to 64MiB", "4MiB"),
    "zero rate": (HEAD + "limits: {requests_per_minute: 0}\n", "6:31", "0 is outside 1 to", "120"),
    "octal": (HEAD + "limits: {connections: 0100}\n", "6:23", "'0100' is not a count", "plain digits"),
    "underscore": (HEAD + "limits: {connections: 1_000}\n", "6:23", "'1_000' is not a count", "plain digits"),
    "duration": (HEAD + "cache: {ttl: 600}\n", "6:14", "'600' is not a duration", "10m"),
    "long duration": (HEAD + "cache: {ttl: 31d}\n", "6:14", "31d is longer than 30d", "10m"),
    "cache word": (HEAD + "cache: on\n", "6:8", "'on' is not off", "off"),
    "empty cache": (HEAD + "cache: {}\n", "6:8", "`ttl:` is missing (cache)", "ttl: 10m"),
}  # fmt: skip

# lines after the entry's head -> the same
ENTRY_MISTAKES = {
    "scheme": ("    scheme: ftp\n", "9:13", "'ftp' is not a scheme", "one of: https, http"),
    "port word": ("    ports: [https]\n", "9:13", "'https' is not a port", "443"),
    "port octal": ("    ports: [0443]\n", "9:13", "'0443' is not a port", "443"),
    "port range": ("    ports: [65536]\n", "9:13", "'65536' is not a port", "65535"),
    "port zero": ("    ports: [0]\n", "9:13", "'0' is not a port", "from 1"),
    "port twice": ("    ports: [443, 443]\n", "9:18", "'443' stands here twice", "keep one"),
    "method case": ("    methods: [post]\n", "9:15", "methods are written in capitals", "write POST"),
    "method typo": ("    methods: [PSOT]\n", "9:15", "not a method", "did you mean POST?"),
    "connect": ("    methods: [CONNECT]\n", "9:15", "not a method that the proxy carries", "one of: GET"),
    "query in path": ("    paths: ['/v1?x=1']\n", "9:13", "a path rule holds no query", "write /v1"),
    "relative path": ("    paths: [v1/models]\n", "9:13", "a path starts with '/'", "write /v1/models"),
    "dot segment": ("    paths: [/a/../b]\n", "9:13", "'.' and '..' segments", "/v1/chat"),
    "encoded dot": ("    paths: [/a/%2e%2e/b]\n", "9:13", "decoded by some servers", "/v1/chat"),
    "escape case": ("    paths: [/caf%c3%a9/*]\n", "9:13", "canonical spelling of the path", "write /caf%C3%A9/*"),
    "part of a segment": ("    paths: [/v1/file-*]\n", "9:13", "a wildcard is a whole segment", "`*` (one segment)"),
    "models and tiers": ("    models: [m]\n    tiers: [t]\n", "10:5", "`models:` and `tiers:` together", "keep one"),
    "unknown tier": ("    tiers: [trusted]\n", "9:13", "no model of platform.yaml has the tier 'trusted'", "none yet"),
    "protocol": ("    protocols: [http2]\n", "9:17", "'http2' is not a protocol", "did you mean"),
    "tls": ("    tls: off\n", "9:10", "'off' is not inspect or passthrough", "inspect"),
    "passthrough and paths": ("    tls: passthrough\n    paths: [/x]\n", "10:5", "`paths:` cannot be enforced", "remove"),
    "passthrough and methods": ("    tls: passthrough\n    methods: [GET]\n", "10:5", "`methods:` cannot be", "remove"),
    "passthrough and models": ("    tls: passthrough\n    models: [m]\n", "10:5", "`models:` cannot be", "remove"),
    "passthrough and dlp": ("    tls: passthrough\n    dlp: {otherwise: block}\n", "10:5", "`dlp:` cannot be", "remove"),
    "passthrough and cache": ("    tls: passthrough\n    cache: {ttl: 1m}\n", "10:5", "`cache:` cannot be", "remove"),
    "passthrough and keys": ("    tls: passthrough\n    credentials: {headers: [authorization]}\n", "10:5", "`credentials:` cannot", "remove"),
    "http and tls": ("    scheme: http\n    tls: inspect\n", "10:5", "`tls:` means nothing with `scheme: http`", "remove"),
    "http and h2": ("    scheme: http\n    protocols: [h2]\n", "10:5", "h2 needs TLS", "remove h2"),
    "addresses word": ("    addresses: private\n", "9:16", "'private' is not public", "public"),
    "no header": ("    credentials: {headers: ['x y']}\n", "9:29", "'x y' is not a header name", "authorization"),
    "no headers": ("    credentials: {}\n", "9:18", "`headers:` is missing", "headers: [authorization]"),
    "short pin": ("    credentials: {headers: [a], pins: ['hmac-sha256:9f2c']}\n", "9:40", "is not a pin", "hmac-sha256:9f2c"),
    "raw key as pin": ("    credentials: {headers: [a], pins: [sk-abc]}\n", "9:40", "is not a pin", "hmac-sha256"),
    "unknown class": ("    dlp: {rules: [{classes: [pci], action: block}]}\n", "9:30", "no class 'pci'", "add them under"),
    "unknown entity": ("    dlp: {rules: [{entities: [EMAIL_ADRESS], action: block}]}\n", "9:31", "no recogniser finds", "did you mean EMAIL_ADDRESS?"),
    "entity case": ("    dlp: {rules: [{entities: [person], action: block}]}\n", "9:31", "'person' is not an entity", "capitals"),
    "empty rule": ("    dlp: {rules: [{action: block}]}\n", "9:19", "names nothing to look for", "entities: ["),
    "no action": ("    dlp: {rules: [{entities: [PERSON]}]}\n", "9:19", "`action:` is missing", "action: block"),
    "action typo": ("    dlp: {rules: [{entities: [PERSON], action: tokenise}]}\n", "9:48", "'tokenise' is not a DLP action", "did you mean tokenize?"),
    "answer tokenized": ("    dlp: {response: {entities: [PERSON], action: tokenize}}\n", "9:42", "cannot be treated with tokenize", "block"),
    "exception without end": ("    dlp: {except: [{entity: PERSON, reason: x}]}\n", "9:20", "would be let through whole", "values: ["),
    "exception of both": ("    dlp: {except: [{entity: PERSON, values: [x], json: $.a, reason: x}]}\n", "9:20", "names an entity or a JSON leaf", "either"),
    "exception of none": ("    dlp: {except: [{reason: x}]}\n", "9:20", "names an entity or a JSON leaf", "either"),
    "exception unreasoned": ("    dlp: {except: [{json: $.a}]}\n", "9:20", "`reason:` is missing", "reason"),
    "json path": ("    dlp: {except: [{json: metadata.id, reason: x}]}\n", "9:27", "is not a JSON path", "$.metadata"),
    "media kind": ("    dlp: {uninspectable: {video: allow}}\n", "9:27", "unknown key 'video'", "image"),
    "missing CA": ("    upstream_ca: corp.pem\n", "9:18", "the CA file 'corp.pem' cannot be read: no such file", "put a PEM file"),
    "CA outside": ("    upstream_ca: ../corp.pem\n", "9:18", "leaves the directory", "corp-root.pem"),
    "absolute CA": ("    upstream_ca: /etc/ssl/corp.pem\n", "9:18", "leaves the directory", "corp-root.pem"),
    "CA of no state": ("    upstream_ca: 'state:demo/ca.pem'\n", "9:18", "names a file in the state directory", "--state"),
    "id": ("    id2: y\n", "9:5", "unknown key 'id2'", "did you mean `id:`?"),
}  # fmt: skip

HOSTS = {
    "'*'": "*.example.com",
    "*.example.com": "*.example.com",
    "'*.'": "*.example.com",
    "'*.com'": "*.example.com",
    "'api.*.com'": "*.example.com",
    "'*example.com'": "*.example.com",
    "'*.*.example.com'": "*.example.com",
    "example.*": "*.example.com",
    "éxämple.com": "xn--xmple-gra7a.com",
    "''": "api.example.com",
    "'a.com '": "write a.com",
    "https://a.com/x": "host: a.com",
    "a.com/x": "write a.com",
    "a.com:443": "write a.com",
    "a.com.": "write a.com",
    "A.com": "write a.com",
    "'evil.test\\0.allowed.test'": "api.example.com",
    "10.0.0.1": "addresses: [10.0.0.1/32]",
    "'::1'": "addresses: [::1/128]",
    "'FD00::1'": "write fd00::1",
    "'[fd00::1]'": "write fd00::1",
    "127.1": "api.example.com",
    "2130706433": "api.example.com",
    "'*.10.0.0.1'": "write 10.0.0.1",
    "http_x..com": "api.example.com",
}


def single(directory: Path, text: str) -> tuple[str, str, str]:
    found = mistakes(write(directory, text))
    assert len(found) == 1, found
    assert found[0].file == "apps/a.yaml"
    return f"{found[0].line}:{found[0].col}", found[0].message, found[0].fix


@pytest.mark.parametrize(("text", "place", "message", "fix"), APP_MISTAKES.values(), ids=APP_MISTAKES)
def test_mistakes_of_an_app(tmp_path: Path, text: str, place: str, message: str, fix: str) -> None:
    at, said, way = single(tmp_path, text)
    assert at == place
    assert message in said
    assert fix in way


@pytest.mark.parametrize(("lines", "place", "message", "fix"), ENTRY_MISTAKES.values(), ids=ENTRY_MISTAKES)
def test_mistakes_of_an_entry(tmp_path: Path, lines: str, place: str, message: str, fix: str) -> None:
    at, said, way = single(tmp_path, ENTRY_HEAD + lines)
    assert at == place
    assert message in said
    assert fix in way


@pytest.mark.parametrize(("host", "fix"), HOSTS.items())
def test_hosts_that_are_none(tmp_path: Path, host: str, fix: str) -> None:
    text = ENTRY_HEAD.replace("api.example.com", host if host != "'evil.test\\0.allowed.test'" else '"evil\\0.test"')
    at, _, way = single(tmp_path, text)
    assert at in ("8:11", "8:12", "8:5")
    assert fix in way


@pytest.mark.parametrize(
    "host", ["a.com", "'*.example.com'", "'*.a.b.example.co.uk'", "a_b.com", "localhost", "xn--xmple-gra7a.com"]
)
def test_hosts_that_are(tmp_path: Path, host: str) -> None:
    assert mistakes(write(tmp_path, ENTRY_HEAD.replace("api.example.com", host))) == ()


def test_an_address_as_host_is_named_twice(tmp_path: Path) -> None:
    text = ENTRY_HEAD.replace("api.example.com", "10.0.0.1")
    assert mistakes(write(tmp_path, text + "    addresses: [10.0.0.0/24]\n")) == ()
    assert mistakes(write(tmp_path, text + "    addresses: [10.0.1.0/24]\n"))
    assert mistakes(write(tmp_path, text + "    addresses: [fd00::/8]\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no pem", "is not a PEM certificate"),
        (certificate(ca=False), "is not a CA certificate"),
        (private_key(), "holds a private key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is not a PEM"),
    ],
)
def test_a_ca_file_must_hold_a_ca(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "corp.pem").write_bytes(content)
    found = mistakes(write(tmp_path, ENTRY_HEAD + "    upstream_ca: corp.pem\n"))
    assert message in found[0].message


def test_a_missing_file_is_one_mistake_however_many_entries_name_it(tmp_path: Path) -> None:
    entry = "  - {id: %s, host: a.com, upstream_ca: 'state:demo/ca.pem'}\n"
    found = mistakes(write(tmp_path, HEAD + "allow:\n" + entry % "x" + entry % "y"), tmp_path / "state")
    assert [error.fix for error in found] == ["it is made at the first start: run `egress demo`, or `make run`"]


PLATFORM_MISTAKES = {
    "no platform": (None, "platform.yaml does not exist", "create it"),
    "price": ("prices: [{provider: o, model: m, input_usd_per_mtok: 0.1234567, output_usd_per_mtok: 1, source: c, from: 2026-01-01}]", "is not a price", "at most six decimals"),
    "price twice": ("prices:\n" + 2 * "  - {provider: o, model: m, input_usd_per_mtok: 1, output_usd_per_mtok: 1, source: c, from: 2026-01-01}\n", "a second price of o m", "change `from:`"),
    "listen": ("listen: {explicit: '8080'}", "is not an address to listen on", "0.0.0.0:8080"),
    "listen name": ("listen: {explicit: 'localhost:8080'}", "is not an address to listen on", "0.0.0.0:8080"),
    "bare v6": ("listen: {explicit: '::1:8080'}", "is not an address to listen on", "[::]:8080"),
    "same port": ("listen: {explicit: '0.0.0.0:80', metrics: '0.0.0.0:80'}", "listens on 0.0.0.0:80 already", "another port"),
    "class entity": ("classes: {pci: [CREDITCARD]}", "no recogniser finds 'CREDITCARD'", "did you mean CREDIT_CARD?"),
    "publisher": ("publishers: {ci: 'ed25519:abc'}", "is not a public key", "ed25519:"),
    "resolve": ("resolve: {a.test: b.test}", "is not an IP address", "127.0.0.1"),
    "deny all": ("deny: ['*']", "a wildcard is `*.`", "*.example.com"),
    "default class": ("defaults: {dlp: {rules: [{classes: [nope], action: block}]}}", "no class 'nope'", "none yet"),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "message", "fix"), PLATFORM_MISTAKES.values(), ids=PLATFORM_MISTAKES)
def test_mistakes_of_the_platform(tmp_path: Path, lines: str | None, message: str, fix: str) -> None:
    found = mistakes(write(tmp_path, platform=None if lines is None else f"{PLAIN_PLATFORM}{lines}\n"))
    assert len(found) == 1
    assert found[0].file == "platform.yaml"
    assert message in found[0].message
    assert fix in found[0].fix


def test_all_mistakes_of_all_files_come_at_once_and_sorted(tmp_path: Path) -> None:
    apps = {"b": HEAD + "stge: x\nlimits: {max_body: x}\n", "a": HEAD + "allow: [{id: x}]\n"}
    found = mistakes(write(tmp_path, apps, platform="version: 1\nlisten: {x: 1}\ndeny: ['a b']\n"))
    places = [(error.file, error.line, error.col) for error in found]
    assert places == [
        ("apps/a.yaml", 6, 9),
        ("apps/b.yaml", 2, 6),
        ("apps/b.yaml", 6, 1),
        ("apps/b.yaml", 7, 20),
        ("platform.yaml", 2, 10),
        ("platform.yaml", 3, 8),
    ]
    assert all(error.message and error.fix for error in found)


@needs("security/own/yaml_policy_cases.jsonl")
@pytest.mark.parametrize("row", rows("security/own/yaml_policy_cases.jsonl"), ids=lambda row: row["name"])
def test_no_development_case_loads_as_platform_or_app(tmp_path: Path, row: dict[str, str]) -> None:
    assert mistakes(write(tmp_path, platform=row["yaml"]))
    assert mistakes(write(tmp_path, row["yaml"]))


@needs("security/smokescreen-acl")
@pytest.mark.parametrize(
    "path", sorted((ROOT / "security/smokescreen-acl/yaml").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_acl_of_another_product_is_refused_whole(tmp_path: Path, path: Path) -> None:
    found = mistakes(write(tmp_path, path.read_text()))
    assert any("unknown key 'services'" in error.message or "unknown key 'broken'" in error.message for error in found)


@pytest.mark.parametrize(
    ("name", "stray"),
    [
        ("apps/b.yml", True),
        ("b.yaml", True),
        ("apps/old/b.yaml", True),
        ("connectors/c.test.yaml", True),
        ("apps/.b.yaml.swp", False),
        ("apps/.b.yaml", False),
        ("apps/b.test.yaml", False),
        ("apps/b.yaml.off", False),
        ("notes.txt", False),
    ],
)
def test_a_file_that_nobody_reads_is_a_mistake(tmp_path: Path, name: str, stray: bool) -> None:
    path = write(tmp_path) / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(HEAD)
    assert [error.file for error in mistakes(tmp_path)] == ([name] if stray else [])


def fields_of(kind: Obj) -> list[Field]:
    return list(kind.fields)


@pytest.mark.parametrize("kind", [APP, CONNECTOR_FILE, ENTRY, PLATFORM], ids=lambda kind: kind.what)
def test_every_key_is_explained_and_its_example_is_yaml(kind: Obj) -> None:
    for field in fields_of(kind):
        assert field.doc.endswith((".", "`", ")")) or field.doc[-1].isalnum()
        assert yaml.safe_load(f"{field.name}: {field.type.example.partition(' or ')[0]}")[field.name] is not None
