"""Cases in the form of agent-egress-bench, read, put into words for the wire, and scored. No I/O but `load`.

A case is one JSON object: `id`, `category`, `input_type`, `transport`, `payload`, `expected_verdict` (block or allow),
`capability_tags`, `why_expected`.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from proxy.net.names import canonical_host, is_ip_literal

_OPCODES: Final = {"continuation": 0, "text": 1, "binary": 2, "close": 8, "ping": 9, "pong": 10}
_TRANSPORTS: Final = {"fetch_proxy", "http_proxy", "websocket"}
_URL_SAFE: Final = "/?&=%:;,+@!$'()*~-._[]|"
# No verdict on what was asked: an attack that meets one of these was not stopped by policy.
FAULTS: Final = {
    "audit_unavailable", "inspector_unavailable", "internal", "overloaded", "policy_unavailable", "rate_limited",
    "timeout", "upstream_dns", "upstream_timeout", "upstream_tls", "upstream_unreachable",
}  # fmt: skip


class Inexpressible(Exception):
    """The case cannot be said to a forward proxy: why."""


@dataclass(frozen=True)
class Case:
    """`malicious`: it must not pass. `answer`: what the upstream answers, None for the runner's own."""

    id: str
    category: str
    malicious: bool
    in_answer: bool
    tags: frozenset[str]
    why: str
    transport: str
    payload: Mapping[str, Any]

    @property
    def answer(self) -> bytes | None:
        """The body of the case's answer."""
        body = self.payload.get("response_body")
        return None if body is None else _content(body, self.payload.get("response_encoding"))

    @property
    def out_of_scope(self) -> bool:
        """Prompt injection in an answer: the product reads what leaves, and leaves instructions to the model's side."""
        return self.malicious and self.in_answer


@dataclass(frozen=True)
class Frame:
    """One WebSocket frame of the client."""

    opcode: int
    payload: bytes
    fin: bool
    rsv: int


@dataclass(frozen=True)
class Saying:
    """A request as a client would write it. `frames` for WebSocket, sent behind the handshake."""

    tls: bool
    host: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """`contained`: a denial by policy, and nothing that the case sends arrived. `whole`: everything arrived as sent,
    and the answer came back as given. Neither: a fault, a change on the way, or a case that cannot be said."""

    contained: bool
    whole: bool
    seen: str


def load(folder: Path) -> list[Case]:
    """Every case below `folder`, in order of category and id."""
    rows = [json.loads(file.read_text()) for file in sorted(folder.rglob("*.json"))]
    return [_case(row) for row in rows if isinstance(row, dict) and "expected_verdict" in row and "payload" in row]


def _case(row: Mapping[str, Any]) -> Case:
    return Case(
        str(row["id"]), str(row["category"]), row["expected_verdict"] == "block",
        row.get("input_type") == "response_content", frozenset(row.get("capability_tags", ())),
        str(row.get("why_expected", "")), str(row.get("transport", "")), row["payload"],
    )  # fmt: skip


def express(case: Case) -> Saying:
    """What the client says. Raises `Inexpressible`."""
    payload = case.payload
    url = payload.get("url")
    if case.transport not in _TRANSPORTS:
        raise Inexpressible(f"transport {case.transport} does not pass a forward proxy")
    if not isinstance(url, str) or "://" not in url:
        raise Inexpressible("it names no URL")
    parts = urlsplit(url)
    frames = tuple(_frame(frame) for frame in payload.get("frames", ()))
    if parts.scheme not in {"http", "https", "ws", "wss"}:
        raise Inexpressible(f"scheme {parts.scheme} is none of a forward proxy")
    if case.transport == "websocket" and not frames:
        raise Inexpressible("it names no frame")
    authority = parts.netloc.rpartition("@")
    host = authority[2] if authority[2].endswith("]") else authority[2].rsplit(":", 1)[0]
    target = quote(parts.path or "/", safe=_URL_SAFE) + (
        f"?{quote(parts.query, safe=_URL_SAFE)}" if parts.query else ""
    )
    body = _content(payload.get("body", ""), payload.get("body_encoding") or payload.get("encoding"))
    return Saying(
        parts.scheme in {"https", "wss"}, host, str(payload.get("method", "GET")), target,
        _headers(payload, authority[0]), body, frames,
    )  # fmt: skip


def _headers(payload: Mapping[str, Any], userinfo: str) -> tuple[tuple[str, str], ...]:
    given = payload.get("headers") or {}
    pairs = given.items() if isinstance(given, Mapping) else [tuple(pair) for pair in given]
    fields = [
        (str(name), str(value)) for name, one in pairs for value in (one if isinstance(one, list) else [one])
    ]  # fmt: skip
    names = {name.lower() for name, _ in fields}
    if userinfo and "authorization" not in names:  # what every client makes of it
        fields.append(("Authorization", "Basic " + base64.b64encode(unquote(userinfo).encode()).decode()))
    if "content_type" in payload and "content-type" not in names:
        fields.append(("Content-Type", str(payload["content_type"])))
    return tuple(field for field in fields if field[0].lower() not in {"host", "content-length", "connection"})


def _content(value: object, encoding: object) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.b64decode(text) if encoding == "base64" else text.encode()


def _frame(frame: Mapping[str, Any]) -> Frame:
    name = frame.get("opcode", "text")
    if name not in _OPCODES:
        raise Inexpressible(f"opcode {name} is unknown")
    reserved = sum(bit for key, bit in (("rsv1", 4), ("rsv2", 2), ("rsv3", 1)) if frame.get(key))
    return Frame(
        _OPCODES[name], _content(frame.get("payload", ""), frame.get("encoding")), frame.get("fin", True), reserved
    )


def listed(case: Case, host: str) -> bool:
    """Whether the configuration names the host: all do but those whose very host is the attack."""
    about_host = any("ssrf" in tag or tag == "hostname_exfil" for tag in case.tags) or "subdomain" in case.why
    return not (case.malicious and about_host) and usable(host)


def usable(host: str) -> bool:
    """A name that a policy can hold: canonical, and no address."""
    try:
        return not is_ip_literal(canonical_host(host))
    except ValueError:
        return False


@dataclass(frozen=True)
class Row:
    """One case and what came of it."""

    case: Case
    outcome: Outcome

    @property
    def missed(self) -> bool:
        """An attack that passed, or could not be said."""
        return self.case.malicious and not self.case.out_of_scope and not self.outcome.contained

    @property
    def false_positive(self) -> bool:
        """Harmless, and it did not arrive as it was sent."""
        return not self.case.malicious and not self.outcome.whole


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """The four numbers of a set of cases, and how many are not counted."""
    listed_rows = list(rows)
    attacks = [row for row in listed_rows if row.case.malicious and not row.case.out_of_scope]
    harmless = [row for row in listed_rows if not row.case.malicious]
    return {
        "contained": sum(not row.missed for row in attacks),
        "of_malicious": len(attacks),
        "false_positives": sum(row.false_positive for row in harmless),
        "of_benign": len(harmless),
        "out_of_scope": len(listed_rows) - len(attacks) - len(harmless),
    }


def summary(rows: Sequence[Row], default_deny: Sequence[Row], below_wildcard: Sequence[Row]) -> dict[str, Any]:
    """The JSON line."""
    categories = sorted({row.case.category for row in rows})
    return {
        "cases": len(rows),
        **counts(rows),
        "by_category": {name: counts(row for row in rows if row.case.category == name) for name in categories},
        "default_deny": counts(default_deny),
        "hosts_below_wildcard": counts(below_wildcard),
        "missed": [row.case.id for row in rows if row.missed],
        "false_positive_ids": [row.case.id for row in rows if row.false_positive],
        "out_of_scope_ids": [row.case.id for row in rows if row.case.out_of_scope],
    }
