"""Pages for who runs it: reason codes, metrics, audit record, state directory, environment."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from docs.generator.markdown import code, codes, section, table


def reason_codes() -> str:
    """proxy/errors.py"""
    from proxy.errors import REASONS

    rows = [
        (code(one.id), str(one.status), code(one.proxy_error), one.who, one.title, one.remedy)
        for one in REASONS.values()
    ]
    return (
        "Every refusal carries one of these codes: in the answer's body (`code`), in `X-Egress-Code`, in the reason "
        "phrase of a refused CONNECT, in the audit record and in the label `reason` of `egress_denied_total`.\n\n"
        "*Whose move*: `maker` of the app, `admin` of the allowlist, or `operator` of the proxy. The remedy is the "
        "default; where the rule that refused knows more (the value that would have been allowed, the line of the "
        "entry), the answer says that instead.\n\n"
        "`identity_unknown` is 407 when a proxy credential is missing, and 403 when one was given that is not good.\n\n"
        + table(("code", "status", "RFC 9209 error", "whose move", "what happened", "what to do"), rows)
    )


def metrics() -> str:
    """proxy/dataplane/counters.py"""
    from proxy.dataplane.counters import METRICS, OVERFLOW, SERIES_LIMIT_PER_METRIC

    rows = [(code(f"egress_{one.name}"), one.kind, codes(one.labels), one.help) for one in METRICS.values()]
    return (
        "The metrics listener (`listen.metrics`, `--metrics`) answers `GET /metrics` in Prometheus' text format, "
        "`/healthz` (the supervisor lives) and `/readyz` (200 when traffic would be served, 503 with the reasons "
        "when not).\n\n"
        f"A metric keeps at most {SERIES_LIMIT_PER_METRIC} series per process; what comes after them is counted under "
        f"the label value `{OVERFLOW}`. Labels never hold prompt text, secrets, paths or client addresses. A "
        "histogram adds the suffixes `_bucket`, `_sum` and `_count`.\n\n"
        + table(("metric", "kind", "labels", "meaning"), rows)
    )


def audit_record() -> str:
    """proxy/audit.py"""
    from proxy.audit import ENVELOPE, FIELDS, MAX_LINE_BYTES

    def rows(fields: Iterable[Any]) -> list[tuple[str, str, str]]:
        return [(code(one.name), one.kind, one.meaning) for one in fields]

    return (
        f"One line of ASCII JSON, at most {MAX_LINE_BYTES} bytes. Fields that do not apply are left out. Nothing "
        "outside this table is written, and every value passes the cleaner of its kind: what has room for data (a "
        "path segment, a host label, a long number) is shown as `*`. Too long a record gives up whole fields, which "
        "`shortened` names; a field that nobody documented is named in `unknown_fields` and its value is dropped.\n\n"
        "Verify with `egress audit verify`; read with `egress audit show` "
        "(see [Read the audit trail](../how-to/read-the-audit-trail.md)).\n\n"
        + section("Envelope", table(("field", "kind", "meaning"), rows(ENVELOPE)))
        + "\n"
        + section("Fields", table(("field", "kind", "meaning"), rows(FIELDS)))
    )


# Properties of proxy.paths.Paths: what stands there, and whether losing it hurts.
STATE: Final[Mapping[str, tuple[str, str]]] = {
    "root_key": ("The root secret, mode 0600. Every other key is derived from it.", "back up"),
    "ca_dir": ("The certificate authority: encrypted keys, certificates, trust files.", "back up, with `root.key`"),
    "ca_cert": ("The certificates that apps must trust (public).", "made from the authority"),
    "store_dir": ("The embedded store's append-only file: policy log, spend, cache, revocations.", "back up"),
    "audit_dir": ("The audit trail, one directory per writer.", "back up, apart from the keys"),
    "journal_dir": ("Money that was reserved and not settled yet; replayed after a crash.", "keep"),
    "pace_dir": ("How much each app spent lately, for the first leases of a new worker.", "made anew"),
    "last_good": ("The last accepted policy, for a start without the store.", "keep"),
    "living_dir": ("One file per worker whose books are not closed yet.", "keep"),
    "data_dir": ("Indexes of exact data match, for policies that come from a store.", "keep"),
    "demo_dir": ("Certificates of the look-alikes.", "made anew"),
    "log_dir": ("Standard error of the child processes.", "may go"),
    "limits_file": ("Counts per app that the workers share.", "made anew"),
    "status_file": ("Process id and addresses of the running supervisor.", "made anew"),
    "lock_file": ("Held by the running supervisor.", "made anew"),
    "store_socket": ("The embedded store.", "made anew"),
    "admin_socket": ("The supervisor's admin socket.", "made anew"),
}


def state_directory() -> str:
    """proxy/paths.py"""
    from proxy.paths import SOCKET_PATH_LIMIT_BYTES, Paths

    paths = Paths(Path("/state"))
    rows = []
    for name in state_properties():
        meaning, care = STATE[name]
        rows.append((code(getattr(paths, name).relative_to(paths.state_dir)), meaning, care))
    rows.append((code("run/inspector-N.sock"), "An inspector process.", "made anew"))
    return (
        "Everything that one installation keeps on one machine: `--state DIR`, else `EGRESS_STATE_DIR`, else "
        "`./state`. Mode 0700, owned by the proxy's user; a start is refused when it is not.\n\n"
        + table(("path", "what", "on loss"), sorted(rows))
        + f"\nUnix sockets whose path would be longer than {SOCKET_PATH_LIMIT_BYTES} bytes live in a private directory "
        "under `/tmp` instead, named by a hash of the state directory.\n"
    )


ELSEWHERE: Final = frozenset({"socket_dir", "mounted_root_key"})


def state_properties() -> list[str]:
    """Names of the places that Paths knows."""
    from proxy.paths import Paths

    return [name for name, value in vars(Paths).items() if isinstance(value, property) and name not in ELSEWHERE]


OWN_VARIABLES: Final[Mapping[str, str]] = {
    "EGRESS_STATE_DIR": "The state directory, when `--state` is not given. Default `./state`.",
    "EGRESS_ROOT_KEY": "A mounted root key to use instead of `root.key` in the state directory. Read by every verb, "
    "never made or written.",
    "EGRESS_RECOGNIZERS": "A directory with an installation's own recognisers and profiles.",
    "EGRESS_DEBUG": "Any value: a verb that fails unexpectedly shows its traceback.",
    "EGRESS_PARENT_PID": "Set by the supervisor for its children, so that they end with it. Not for people.",
}


def environment_variables() -> str:
    """proxy/cli/_client_env.py"""
    from proxy.cli._client_env import LANGUAGES, NOTES, VARIABLES

    contents = {
        "proxy": "the proxy's URL, with a token", "no_proxy": "hosts that go round the proxy",
        "replace": "`ca/trust.pem`: our CA and the public roots", "add": "`ca/ca.pem`: our CA alone",
        "switch": "`1`", "jvm": "proxy and trust store options",
    }  # fmt: skip
    own = [(code(name), meaning) for name, meaning in OWN_VARIABLES.items()]
    clients = [(code(one.name), contents[one.content], one.read_by) for one in VARIABLES]
    notes = "\n".join(f"- **{language}**: {note}" for language, note in NOTES.items())
    return (
        section("Read by `egress`", table(("variable", "meaning"), own))
        + "\n"
        + section(
            "Set for clients",
            "`egress env` prints these and `egress connect` sets them. `--lang` narrows them to one of "
            f"{codes(LANGUAGES)}.\n\n" + table(("variable", "holds", "read by"), clients) + f"\n{notes}\n",
        )
    )
