"""What an audit record says, and how it is made harmless. Pure.

`FIELDS` is the one table of fields: the reference page is generated from it, and nothing outside it reaches the disk.
Every value passes the cleaner of its kind, so that a record is one line of ASCII JSON of at most 8 KiB whatever a
client sent, and so that a value with room for data (a path segment, a host label) is shown as `*`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, wraps
from ipaddress import ip_address
from typing import Any, Final, Literal

import orjson

from proxy.model import AuditRecord

MAX_LINE_BYTES: Final = 8192
"""One write(2) of a page or two; also what syslog and most log shippers carry without splitting."""
_MAX_TEXT_CHARS: Final = 400
_MAX_COUNTS: Final = 40
_MAX_SEGMENTS: Final = 12

type Kind = Literal[
    "word", "digest", "place", "host", "path", "ip", "model", "method", "text", "integer", "flag", "counts", "ids"
]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the record: `kind` chooses its cleaner, `meaning` is the line of the reference page."""

    name: str
    kind: Kind
    meaning: str


def _table(text: str) -> tuple[Field, ...]:
    rows = (line.split("|") for line in text.strip().splitlines())
    return tuple(Field(name.strip(), kind.strip(), meaning.strip()) for name, kind, meaning in rows)  # type: ignore[arg-type]


ENVELOPE: Final = _table("""
v        | integer | version of the record format, 1
writer   | word    | which writer's chain the record stands in
seq      | integer | number within that chain, from 1 without gaps
prev     | word    | `mac` of the record before it (64 zeros for the first)
id       | word    | decision id: the same as in the denial that the app saw
kind     | word    | `terminal` (one per exchange), `open` (a long one began), `event` (the trail about itself)
time     | word    | when the exchange began, UTC, milliseconds
mac      | word    | keyed hash (HMAC-SHA256) over all the fields before it
""")

FIELDS: Final = _table("""
app                     | word    | the app that called
identity                | word    | how it was known: `network`, `token` or `network+token`
token_id                | word    | id of the proxy token, as `egress token list` shows it
client_ip               | ip      | address that the connection came from
listener                | word    | `explicit`, `transparent` or `dns`
outcome                 | word    | `allowed`, `denied`, `aborted`, `error`; `open` in an open record
code                    | word    | reason code of a denial
detail                  | text    | what exactly was refused
remedy                  | text    | the next step that the app was told
status                  | integer | HTTP status sent to the client
rule_id                 | word    | the allowlist entry or rule that decided
rule_at                 | place   | where it stands: `file:line:col`
would_deny              | word    | reason code that report mode let pass
revision                | word    | policy revision (SHA-256)
policy_seq              | integer | sequence number of that revision's manifest
scheme                  | word    | `https` or `http`
host                    | host    | destination; labels that could carry data are `*`
port                    | integer | destination port
sni                     | host    | server name of the TLS ClientHello
upstream_ip             | ip      | the address that was dialled
method                  | method  | HTTP method
path                    | path    | path without query; segments that could carry data are `*`
protocol                | word    | `http1`, `h2`, `websocket` or `tunnel`
inspected               | place   | `full`, or `none:<reason>` where policy names the kind
findings                | counts  | `ENTITY:action` and how many
transformed             | flag    | the request was changed before it left
answer_findings         | counts  | the same of an answer that policy inspects
answer_transformed      | flag    | the answer was changed before the app got it
gen_ai.provider.name    | word    | LLM provider
gen_ai.operation.name   | word    | `chat`, `embeddings`, …
gen_ai.request.model    | model   | model that was asked for
gen_ai.response.model   | model   | model that answered, when it is another
gen_ai.usage.input_tokens            | integer | tokens sent
gen_ai.usage.output_tokens           | integer | tokens received
gen_ai.usage.cache_read.input_tokens | integer | of the tokens sent, those that the provider had cached
estimated               | flag    | the tokens were counted by the proxy, as the provider did not say
reserved_usd_nanos      | integer | held before the call, nano-dollars
cost_usd_nanos          | integer | what the call cost, nano-dollars; absent when unpriced
price_source            | place   | where the price comes from, `unpriced`, or `reserved` when the cost is unknown
cache                   | word    | `hit`, `miss` or `off`
saved_usd_nanos         | integer | what a hit would have cost
saved_input_tokens      | integer | tokens that a hit did not send
saved_output_tokens     | integer | tokens that a hit did not ask for
request_bytes           | integer | request body as received
response_bytes          | integer | body of an answer of the proxy's own
sent_bytes              | integer | bytes to the upstream over a long connection
received_bytes          | integer | bytes from the upstream over a long connection
messages                | integer | WebSocket messages seen
close_code              | integer | WebSocket close code
duration_ms             | integer | from the first byte of the request to the end of the answer
aborted_by              | word    | `client` or `upstream`
abort_detail            | text    | how it ended early
fault                   | word    | type of an error of the proxy's own
event                   | word    | what an `event` record reports; `segment` begins each file
subject                 | word    | the writer that an event is about
subject_seq             | integer | last durable seq of that writer
subject_mac             | digest  | `mac` of that record
pid                     | integer | process id of the writer
key_id                  | word    | root key generation that the chain's key comes from
segment                 | integer | number of the file within the chain, from 1
prev_segment            | integer | the file that this one continues
prev_sha256             | word    | SHA-256 of these bytes
tree_size               | integer | how many lines of the segment a checkpoint covers
tree_root               | word    | root of the Merkle tree over them (RFC 6962)
signer                  | word    | public key of the checkpoints of this segment
signature               | word    | Ed25519 over a checkpoint, or over a new `signer`
signed_by               | word    | public key before a new `signer`, which signed it
prev_bytes              | integer | how many bytes of that file are in the chain; what follows is a torn tail
count                   | integer | how many
step_ms                 | integer | by how much the wall clock jumped
open_ids                | ids     | exchanges that had begun and not ended
actor                   | word    | who gave an operator's order
""")

_KINDS: Final = {field.name: field.kind for field in FIELDS}
if len(_KINDS) != len(FIELDS):
    raise ImportError("proxy.audit.FIELDS names a field twice")

# --- safe forms -------------------------------------------------------------------------------------------------

_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
_MAX_REMEMBERED_CHARS: Final = 256
_WORD = re.compile(r"[A-Za-z0-9_.:+*/@=-]{1,200}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PLACE = re.compile(r"[A-Za-z0-9_./ +~:@()-]{1,300}")
_IP = re.compile(r"[0-9a-f:.]{2,45}(%[a-z0-9]{1,15})?")
_LABEL = re.compile(r"(xn--)?[a-z0-9_](?:[a-z0-9_-]{0,22}[a-z0-9_])?")
_SEGMENT = re.compile(r"[A-Za-z][A-Za-z_.:-]{0,31}|v[0-9]{1,2}(?:\.[0-9])?(?:(?:alpha|beta)[0-9]?)?")
_MODEL = re.compile(r"[A-Za-z][A-Za-z0-9._:/@-]{0,99}")
_NOT_A_WORD = re.compile(r"[bcdfghjklmnpqrstvwxz]{6}", re.IGNORECASE)
# Numbers of six digits and more however they are grouped (phone, card, SSN), addresses, and opaque runs (keys, hashes).
_DATA = re.compile(
    r"[^\s@'\"]{1,64}@[^\s@'\"]{1,255}"
    r"|(?<![\w.])\+?[0-9](?:[ ()/_-]{0,2}[0-9]){5,}"
    r"|[A-Za-z0-9+_=%-]{28,}"
)


def _remembered[T](function: Callable[[str], T]) -> Callable[[str], T]:
    """Remembers answers for short arguments: the same hosts and paths come with every request of an app."""
    known = lru_cache(maxsize=2048)(function)

    @wraps(function)
    def ask(text: str) -> T:
        return known(text) if len(text) <= _MAX_REMEMBERED_CHARS else function(text)

    return ask


def safe_host(host: str, known: str = "") -> str:
    """A canonical host for the record. Labels of the `known` suffix (from policy) stay; others that are long, full of
    digits or unpronounceable become `*`: a name can carry data out, and the record must not carry it on."""
    return _safe_host(host, known) if len(host) <= _MAX_REMEMBERED_CHARS else _shown_host(host, known)


def _shown_host(host: str, known: str) -> str:
    if _is_ip(host):
        return host
    kept = "." + known if known and ("." + host).endswith("." + known) else ""
    labels = host[: max(0, len(host) - len(kept))] if kept else host
    if len(host) > 253:
        return "*"
    shown = ".".join(label if _plain_label(label) else "*" for label in labels.split(".")) if labels else ""
    return shown + (kept if labels else known)


_safe_host = lru_cache(maxsize=2048)(_shown_host)


@_remembered
def _plain_label(label: str) -> bool:
    digits = sum(char.isdigit() for char in label)
    roomy = digits > 4 or (digits == len(label) and digits > 2)
    return bool(_LABEL.fullmatch(label)) and not roomy and not _NOT_A_WORD.search(label)


@_remembered
def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host


@_remembered
def safe_path(path: str) -> str:
    """A path for the record, without query: words and versions stay (`/v1/chat/completions`), every other segment
    becomes `*`, and what follows the twelfth segment becomes one `*`."""
    segments = path.partition("?")[0].split("/", _MAX_SEGMENTS + 1)
    shown = [segment if not segment or _plain_segment(segment) else "*" for segment in segments[: _MAX_SEGMENTS + 1]]
    return "/".join([*shown, "*"] if len(segments) > _MAX_SEGMENTS + 1 else shown)


def _plain_segment(segment: str) -> bool:
    return bool(_SEGMENT.fullmatch(segment)) and not _NOT_A_WORD.search(segment)


def safe_method(method: str) -> str:
    """A method of RFC 9110 / RFC 5789, else `*`: any other token is the client's free text."""
    return method if method in _METHODS else "*"


@_remembered
def safe_model(model: str) -> str:
    """A model name, else `*`. Dates in it stay; longer or grouped numbers do not."""
    if not _MODEL.fullmatch(model):
        return "*"
    for run in re.findall(r"[0-9](?:[-.]?[0-9])*", model):
        digits = run.replace("-", "").replace(".", "")
        if len(digits) > 9 or re.search(r"[0-9]{3}-[0-9]{2}-[0-9]{4}", run):
            return "*"
    return model


@_remembered
def safe_text(text: str) -> str:
    """Our own sentences, in case a client's words got into them: numbers, addresses and opaque runs become `*`."""
    shown = _DATA.sub("*", text[: 4 * _MAX_TEXT_CHARS])
    shown = "".join(char if char.isprintable() else "�" for char in shown)
    return shown if len(shown) <= _MAX_TEXT_CHARS else shown[: _MAX_TEXT_CHARS - 1] + "…"


def for_terminal(text: str) -> str:
    """Text that cannot move the cursor, change colours or run right to left."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


# --- record -> line ---------------------------------------------------------------------------------------------


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    @_remembered
    def fits(value: str) -> bool:
        return pattern.fullmatch(value) is not None

    def clean(value: Any) -> str:
        return value if isinstance(value, str) and fits(value) else "*"

    return clean


_word: Final = _matching(_WORD)


def _integer(value: Any) -> int:
    return max(-(1 << 63), min(int(value), (1 << 63) - 1))


def _counts(value: Any) -> dict[str, int]:
    items = sorted(value.items(), key=lambda item: -int(item[1])) if isinstance(value, Mapping) else []
    shown = {_word(name)[:80]: _integer(count) for name, count in items[:_MAX_COUNTS]}
    if len(items) > _MAX_COUNTS:
        shown["others"] = _integer(sum(int(count) for _, count in items[_MAX_COUNTS:]))
    return shown


_CLEANERS: Final[dict[Kind, Callable[[Any], Any]]] = {
    "word": _word,
    "digest": lambda value: value if isinstance(value, str) and _DIGEST.fullmatch(value) else "*",
    "place": _matching(_PLACE),
    "host": lambda value: safe_host(str(value)) if "*" not in str(value) else _starred(str(value)),
    "path": lambda value: "/".join("*" if part == "*" else safe_path(part) for part in str(value).split("/")[:14]),
    "ip": _matching(_IP),
    "model": lambda value: safe_model(str(value)),
    "method": lambda value: safe_method(str(value)),
    "text": lambda value: safe_text(str(value)),
    "integer": _integer,
    "flag": bool,
    "counts": _counts,
    "ids": lambda value: [_word(item)[:40] for item in list(value)[:100]],
}


def _starred(host: str) -> str:
    return ".".join("*" if label == "*" else safe_host(label) for label in host.split(".")[:128])[:253]


_PLAIN_BELOW: Final = 1 << 62


def clean_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Known fields, cleaned; None is left out. Names that no one documented are listed in `unknown_fields`."""
    shown: dict[str, Any] = {}
    unknown: list[str] = []
    for name, value in fields.items():
        kind = _KINDS.get(name)
        if kind is None:
            unknown.append(_word(name)[:40])
        elif value.__class__ is str:
            repeats = kind != "digest" and len(value) <= _MAX_REMEMBERED_CHARS
            shown[name] = _clean_text(kind, value) if repeats else _clean(kind, value)
        elif value.__class__ is int and kind == "integer" and 0 <= value < _PLAIN_BELOW:
            shown[name] = value
        elif value is not None:
            shown[name] = _clean(kind, value)
    if unknown:
        shown["unknown_fields"] = sorted(unknown)[:20]
    return shown


@lru_cache(maxsize=8192)
def _clean_text(kind: Kind, value: str) -> Any:
    """The same few values come with every record of an app."""
    return _clean(kind, value)


def _clean(kind: Kind, value: Any) -> Any:
    try:
        return _CLEANERS[kind](value)
    except (TypeError, ValueError, OverflowError):
        return "*"


def instant(time_s: float) -> str:
    """RFC 3339 UTC with milliseconds; `*` for a time that no calendar has."""
    try:
        millis = int(time_s * 1000)
        return f"{_second(millis // 1000)}.{millis % 1000:03d}Z"
    except (OverflowError, ValueError, OSError):
        return "*"


@lru_cache(maxsize=16)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# What is given up, in this order, when a line is still too long: whole fields, named in `shortened`, never half ones.
_SPARE: Final = (
    "findings",
    "answer_findings",
    "open_ids",
    "detail",
    "abort_detail",
    "remedy",
    "unknown_fields",
    "rule_at",
    "path",
    "host",
)


def body_json(record: AuditRecord, *, writer: str, seq: int, prev: str) -> bytes:
    """The record as JSON without its closing brace and `mac`; at most MAX_LINE_BYTES with these."""
    line: dict[str, Any] = {
        "v": 1,
        "writer": writer,
        "seq": seq,
        "prev": prev,
        "id": record.id[:64] if _WORD.fullmatch(record.id) else "*",
        "kind": record.kind,
        "time": instant(record.time_s),
    }
    line |= clean_fields(record.fields)
    data = _dump(line)
    for name in _SPARE:
        if len(data) <= MAX_LINE_BYTES - 80:
            break
        if name in line:
            del line[name]
            line["shortened"] = [*line.get("shortened", []), name]
            data = _dump(line)
    return data[:-1]


def _dump(value: Mapping[str, Any]) -> bytes:
    data = orjson.dumps(value)
    # A trail is read with any tool: what is not ASCII stands escaped.
    if data.isascii():
        return data
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
