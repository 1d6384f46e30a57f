"""The one table of the policy files: every key, its type and what it means. Checks, schema.json and docs come from it.

Rules that span several keys or files stand in `proxy.config.checks`.
"""

from dataclasses import replace
from typing import Final

from proxy.config.data_files import parse_index, parse_words
from proxy.config.scalars import (
    BOOLEAN,
    CONNECTOR,
    DENY_PATTERN,
    DURATION,
    ENTITY,
    HEADER,
    HOST,
    HOST_PATTERN,
    INSTANT,
    IP,
    JSON_PATH,
    LISTEN,
    METHOD,
    NAME,
    NETWORK,
    PATH,
    PHRASE,
    PIN,
    PORT,
    PUBLISHER,
    RATE,
    REGEX,
    RULE_ID,
    SIZE,
    TEXT,
    TIME_ZONE,
    USD,
    WORD,
    enum,
    integer,
)
from proxy.config.types import Asset, DataFile, Either, Field, ListOf, MapOf, Obj
from proxy.model import DLP_ACTIONS

PROFILES: Final = ("strict", "balanced", "paranoid")
"""From the fewest findings (precise) to the most."""
MEDIA_KINDS: Final = ("image", "audio", "pdf", "encrypted", "unknown")
STAGES: Final = ("suspended", "draft", "sandbox", "production")
MODES: Final = ("enforce", "report")

FORMAT_VERSION: Final = replace(enum("the version of the file format", "1"), schema={"enum": [1, "1"]})
VERSION: Final = Field("version", FORMAT_VERSION, "Version of the file format.", True)
ACTION: Final = enum("a DLP action", *DLP_ACTIONS)
MODE: Final = enum("a mode", "enforce", "report")
ALLOW_OR_BLOCK: Final = enum("allow or block", "allow", "block")
DENY_OR_REPORT: Final = enum("deny or report", "deny", "report")
DENY_OR_ALLOW: Final = enum("deny or allow", "deny", "allow")

DLP_RULE: Final = Obj(
    "a DLP rule",
    [
        Field("classes", ListOf(WORD), "Classes of entities, as platform.yaml defines them."),
        Field("entities", ListOf(ENTITY), "Entities by name; `egress list recognizers` shows all."),
        Field("action", ACTION, "What happens to the found text.", True),
        Field(
            "at_least", integer("a count", 1, 1_000_000, 20), "Only when so many different values occur in the message."
        ),
        Field("mode", MODE, "report: the rule is on trial, recorded but without effect."),
        Field(
            "tiers",
            ListOf(WORD),
            "Only where the call's model is of one of these tiers; elsewhere as if it were not written.",
        ),
    ],
)

DICTIONARY: Final = Obj(
    "a dictionary",
    [
        Field("entity", ENTITY, "What the words are called in rules and records.", True),
        Field("values", ListOf(PHRASE), "Words and phrases."),
        Field(
            "file",
            DataFile("a word list beside the allowlists", "words", parse_words, "words.txt"),
            "More of them: one a line, `#` begins a comment.",
        ),
        Field("case", enum("insensitive or sensitive", "insensitive", "sensitive"), "Default insensitive."),
        Field("whole_words", BOOLEAN, "false: found within longer words too; default true."),
    ],
)

PATTERN: Final = Obj(
    "a pattern",
    [
        Field("entity", ENTITY, "What a match is called in rules and records.", True),
        Field("regex", REGEX, "In the syntax of RE2, which is linear in the text whatever the expression.", True),
        Field("context", ListOf(PHRASE), "Words of which one must stand near a match."),
    ],
)

EXACT_MATCH: Final = Obj(
    "an exact match",
    [
        Field("id", RULE_ID, "Stable name: the recogniser in findings is `exact_match:ID`.", True),
        Field("entity", ENTITY, "What a found cell is called in rules and records.", True),
        Field(
            "index",
            DataFile("an index beside the allowlists", "index", parse_index, "customers.edm"),
            "What `egress data index` made of the table; `state:FILE` for one in the state directory.",
            True,
        ),
        Field(
            "match",
            Obj(
                "match",
                [
                    Field(
                        "columns",
                        integer("a count", 1, 16, 2),
                        "How many columns of one row must stand together.",
                        True,
                    ),
                    Field("of", ListOf(WORD), "Only these columns count; default all of the index."),
                    Field("within_tokens", integer("a count", 1, 10_000, 50), "Within so many words; default 50."),
                ],
            ),
            "When a row is found.",
            True,
        ),
        Field(
            "at_least", integer("a count", 1, 1_000_000, 20), "Only when so many rows stand in one message; default 1."
        ),
    ],
)

DLP_EXCEPTION: Final = Obj(
    "a DLP exception",
    [
        Field("entity", ENTITY, "The entity whose listed values are no finding."),
        Field("values", ListOf(TEXT), "The exact values."),
        Field("json", JSON_PATH, "A JSON leaf that is not inspected."),
        Field("reason", TEXT, "Why.", True),
        Field("expires", INSTANT, "From this instant on the exception is void."),
    ],
)

DLP: Final = Obj(
    "dlp",
    [
        Field("profile", enum("a profile", *PROFILES), "How much is looked for: strict (sure only) to paranoid (all)."),
        Field("rules", ListOf(DLP_RULE), "All that match are looked at; the severest wins."),
        Field("otherwise", ACTION, "For every entity that no rule names."),
        Field("dictionaries", ListOf(DICTIONARY), "Words that only you know; those of platform, app and entry add up."),
        Field("patterns", ListOf(PATTERN), "Regular expressions of your own; those of platform, app and entry add up."),
        Field("exact_match", ListOf(EXACT_MATCH), "Rows of indexed tables; those of platform, app and entry add up."),
        Field("except", ListOf(DLP_EXCEPTION), "Known harmless values and leaves."),
        Field(
            "uninspectable",
            Obj(
                "uninspectable",
                [
                    Field(kind, ALLOW_OR_BLOCK, f"Bodies of kind `{kind}`, which cannot be inspected.")
                    for kind in MEDIA_KINDS
                ],
            ),
            "What happens to bodies that cannot be inspected; default block.",
        ),
        Field(
            "response", DLP_RULE, "What may not come back in an answer, which is then held whole: block, redact, mask."
        ),
    ],
)

LIMITS: Final = Obj(
    "limits",
    [
        Field(
            "requests_per_minute", integer("a count", 1, 10_000_000, 120), "Requests per minute, all workers together."
        ),
        Field("max_body", SIZE, "Largest request body."),
        Field("max_output_tokens", integer("a count", 1, 10_000_000, 4096), "Written into calls that set no cap."),
        Field("connections", integer("a count", 1, 1_000_000, 100), "Client connections open at a time."),
    ],
)

CACHE: Final = Either(
    enum("off", "off"),
    Obj(
        "cache",
        [
            Field("ttl", DURATION, "How long an answer may be repeated.", True),
            Field("only_deterministic", BOOLEAN, "Only calls with temperature 0 or a seed."),
        ],
    ),
)

BUDGET: Final = Obj(
    "budget",
    [
        Field("daily_usd", USD, "Limit per calendar day."),
        Field("monthly_usd", USD, "Limit per calendar month."),
        Field("time_zone", TIME_ZONE, "In which days and months begin; default UTC."),
        Field("on_exceeded", DENY_OR_REPORT, "deny (default), or report: recorded, traffic flows."),
        Field("unpriced", DENY_OR_ALLOW, "Calls to models without a known price; default deny."),
        Field("on_unavailable", DENY_OR_ALLOW, "When the budget cannot be checked; default deny."),
    ],
)

CREDENTIALS: Final = Obj(
    "credentials",
    [
        Field(
            "headers", ListOf(HEADER), "Header fields that carry the key; the only secrets that may travel here.", True
        ),
        Field("pins", ListOf(PIN), "Keyed digests of the allowed keys; none: any key of the provider's own form."),
    ],
)

ENTRY: Final = Obj(
    "an allow entry",
    [
        Field("id", RULE_ID, "Stable name: the rule_id in audit, explain and metrics.", True),
        Field("host", HOST_PATTERN, 'A host, or "*.example.com": any depth below it, never example.com itself.', True),
        Field(
            "subdomains",
            enum("plain or any", "plain", "any"),
            "Below a wildcard: plain (default) refuses labels that look like data (long, hex, numbers); any takes all.",
        ),
        Field("scheme", enum("a scheme", "https", "http"), "https (default), or http where it must be."),
        Field("ports", ListOf(PORT), "Default 443 for https, 80 for http."),
        Field("methods", ListOf(METHOD), "Default: any."),
        Field("paths", ListOf(PATH), "Canonical paths without query; `*` one segment, `**` any. Default: any."),
        Field("models", ListOf(WORD), "Models that inference calls may name. Default: any."),
        Field("tiers", ListOf(WORD), "Instead of models: tiers of platform.yaml's catalogue."),
        Field("protocols", ListOf(enum("a protocol", "http1", "websocket", "h2")), "Default [http1]."),
        Field("tls", enum("inspect or passthrough", "inspect", "passthrough"), "passthrough: TLS is not opened."),
        Field("credentials", CREDENTIALS, "Which keys may travel here."),
        Field(
            "addresses",
            Either(enum("public or a list of networks", "public"), ListOf(NETWORK)),
            "What the name may resolve to; default public addresses only.",
        ),
        Field(
            "upstream_ca",
            Asset("a PEM file beside the allowlists", "corp-root.pem"),
            "Extra trust for this entry only: a PEM file, `state:FILE` for one in the state directory.",
        ),
        Field("dlp", DLP, "Overrides the app's rules for this destination."),
        Field("cache", CACHE, "Overrides the app's."),
        Field("limits", LIMITS, "Overrides the app's."),
        Field("reason", TEXT, "Why the app needs it."),
        Field("ticket", TEXT, "Where it was discussed."),
        Field("approved_by", TEXT, "Who approved it."),
        Field("expires", INSTANT, "From this instant on the entry is void."),
        Field("connector", NAME, "The connector that the entry came from.", internal=True),
    ],
)

IDENTIFY: Final = Obj(
    "identify",
    [
        Field("networks", ListOf(NETWORK), "Source networks; those of two apps must not overlap."),
        Field("token", BOOLEAN, "true: a proxy token is needed; with networks both are."),
    ],
)

APP: Final = Obj(
    "an app",
    [
        VERSION,
        Field("app", NAME, "The app's name, which is the file's name too.", True),
        Field("owner", TEXT, "Who answers for the app.", True),
        Field("cost_center", TEXT, "Who pays."),
        Field("stage", enum("a stage", *STAGES), "draft (default), sandbox, production or suspended."),
        Field("expires", INSTANT, "From this instant on the app is denied."),
        Field("mode", MODE, "report: allowlist and DLP verdicts are recorded and traffic flows until `report_until`."),
        Field("report_until", INSTANT, "Required with `mode: report`."),
        Field("identify", IDENTIFY, "How the proxy knows the app.", True),
        Field("use", ListOf(CONNECTOR), "Shared, approved entries."),
        Field("allow", ListOf(ENTRY, least=0), "What the app may reach; nothing else."),
        Field("dlp", DLP, "What may leave."),
        Field("cache", CACHE, "Repeated inference calls."),
        Field("budget", BUDGET, "Money."),
        Field("limits", LIMITS, "Rates and sizes."),
    ],
)

CONNECTOR_FILE: Final = Obj(
    "a connector",
    [
        VERSION,
        Field("connector", NAME, "The connector's name, which is the file's name too.", True),
        Field("owner", TEXT, "Who answers for it.", True),
        Field("reason", TEXT, "What it is for."),
        Field("ticket", TEXT, "Where it was discussed."),
        Field("approved_by", TEXT, "Who approved it.", True),
        Field("expires", INSTANT, "From this instant on all its entries are void."),
        Field("allow", ListOf(ENTRY), "The entries.", True),
    ],
)

MODEL: Final = Obj(
    "a model",
    [
        Field("provider", WORD, "Who serves it.", True),
        Field("tier", WORD, "Its tier, for `tiers:` of an entry.", True),
    ],
)

PRICE: Final = Obj(
    "a price",
    [
        Field("provider", WORD, "Who serves the model.", True),
        Field("model", WORD, "The model as calls name it.", True),
        Field("input_usd_per_mtok", RATE, "USD per million input tokens.", True),
        Field("output_usd_per_mtok", RATE, "USD per million output tokens.", True),
        Field("cache_read_usd_per_mtok", RATE, "USD per million input tokens read from the provider's cache."),
        Field("cache_write_usd_per_mtok", RATE, "USD per million input tokens written to the provider's cache."),
        Field("source", TEXT, "Where the price comes from.", True),
        Field("from", INSTANT, "Valid from this instant on.", True),
    ],
)

LISTENERS: Final = Obj(
    "listen",
    [
        Field("explicit", LISTEN, "HTTP proxy for HTTPS_PROXY."),
        Field("transparent", LISTEN, "Redirected connections."),
        Field("dns", LISTEN, "DNS for apps in transparent networks."),
        Field("metrics", LISTEN, "Prometheus metrics and health."),
    ],
)

PLATFORM: Final = Obj(
    "the platform",
    [
        VERSION,
        Field("listen", LISTENERS, "Addresses to listen on."),
        Field("deny", ListOf(DENY_PATTERN), "Hosts that no app may reach, whatever its allowlist says."),
        Field("sandbox", ListOf(HOST_PATTERN), "The destinations that apps of stage sandbox may reach."),
        Field("resolve", MapOf(HOST, Either(IP, ListOf(IP))), "Names with fixed addresses, without DNS."),
        Field("models", MapOf(WORD, MODEL), "The model catalogue."),
        Field("prices", ListOf(PRICE), "Prices that override or extend the built-in ones."),
        Field("classes", MapOf(WORD, ListOf(ENTITY)), "Names for groups of entities."),
        Field(
            "defaults",
            Obj(
                "defaults",
                [
                    Field("dlp", DLP, "For apps that say nothing; an app may only tighten it."),
                    Field("limits", LIMITS, "For apps that say nothing; an app may only tighten them."),
                ],
            ),
            "What holds for every app.",
        ),
        Field("publishers", MapOf(NAME, PUBLISHER), "Public keys that may sign revisions."),
        Field(
            "max_staleness",
            DURATION,
            "For how long the last good policy holds without contact to the store; then all traffic is denied until "
            "the store is back. Default: as long as it takes.",
        ),
    ],
)
