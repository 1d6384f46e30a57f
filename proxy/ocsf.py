"""Audit records as events of the Open Cybersecurity Schema Framework: HTTP Activity with the security_control profile.

The mapping is data: a path in the event, and the record's field that goes there. What OCSF has no place for stands
under `unmapped`, by our own names. Written against the schema version that `metadata.version` names. Pure.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from proxy import __version__

SCHEMA_VERSION: Final = "1.9.0-dev"
CATEGORY: Final = 4
CLASS: Final = 4002
_OTHER: Final = 99
_ACTIVITIES: Final = {
    "CONNECT": 1, "DELETE": 2, "GET": 3, "HEAD": 4, "OPTIONS": 5, "POST": 6, "PUT": 7, "TRACE": 8, "PATCH": 9,
}  # fmt: skip
_UNKNOWN: Final = 0

# outcome, or what became of an allowed request -> (action_id, disposition_id, status_id)
_OUTCOMES: Final = {
    "allowed": (1, 1, 1),
    "transformed": (4, 11, 1),
    "would_deny": (3, 19, 1),
    "denied": (2, 2, 2),
    "aborted": (1, 1, 2),
    "error": (2, 27, 2),
}
_NO_OUTCOME: Final = (0, 0, 0)
_INFORMATIONAL, _LOW, _MEDIUM, _HIGH = 1, 2, 3, 4
_SEVERITIES: Final = {
    **dict.fromkeys(("pii", "credential_denied", "target_mismatch", "ip_denied", "self_connection"), _MEDIUM),
    **dict.fromkeys(("killed", "audit_unavailable", "internal"), _HIGH),
}

_PLACES: Final = (
    ("duration", "duration_ms"),
    ("status_code", "code"),
    ("status_detail", "detail"),
    ("metadata.uid", "id"),
    ("metadata.sequence", "seq"),
    ("metadata.log_name", "writer"),
    ("metadata.original_time", "time"),
    ("src_endpoint.ip", "client_ip"),
    ("src_endpoint.name", "app"),
    ("dst_endpoint.hostname", "host"),
    ("dst_endpoint.port", "port"),
    ("dst_endpoint.ip", "upstream_ip"),
    ("tls.sni", "sni"),
    ("http_request.uid", "id"),
    ("http_request.http_method", "method"),
    ("http_request.body_length", "request_bytes"),
    ("http_request.url.scheme", "scheme"),
    ("http_request.url.hostname", "host"),
    ("http_request.url.port", "port"),
    ("http_request.url.path", "path"),
    ("http_response.code", "status"),
    ("http_response.body_length", "response_bytes"),
    ("firewall_rule.uid", "rule_id"),
    ("firewall_rule.desc", "rule_at"),
    ("policy.uid", "revision"),
    ("policy.version", "policy_seq"),
    ("traffic.bytes_out", "sent_bytes"),
    ("traffic.bytes_in", "received_bytes"),
)
# Objects that OCSF refuses without one of these members.
_NEEDED: Final = {
    "firewall_rule": ("uid",), "policy": ("uid",), "http_response": ("code",), "dst_endpoint": ("hostname", "ip"),
    "src_endpoint": ("ip", "name"), "tls": ("version",), "http_request.url": ("path",),
}  # fmt: skip
_TEXT: Final = frozenset(("policy_seq",))
_MAPPED: Final = frozenset(field for _, field in _PLACES) | {"v", "prev", "mac", "kind", "outcome", "transformed"}


def activity(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The event of one terminal record, as its `fields` stand in the trail. JSON values only."""
    outcome = _outcome(fields)
    action, disposition, status = _OUTCOMES.get(outcome, _NO_OUTCOME)
    method = str(fields.get("method", ""))
    kind = _ACTIVITIES.get(method, _OTHER if method else _UNKNOWN)
    event: dict[str, Any] = {
        "category_uid": CATEGORY,
        "class_uid": CLASS,
        "activity_id": kind,
        "type_uid": CLASS * 100 + kind,
        "time": _milliseconds(fields.get("time")),
        "severity_id": _severity(fields),
        "action_id": action,
        "disposition_id": disposition,
        "status_id": status,
        "is_alert": outcome in {"denied", "would_deny", "error"},
        "message": " ".join(str(part) for part in (method, fields.get("host", ""), outcome) if part),
        "metadata": {
            "version": SCHEMA_VERSION,
            "product": {"name": "egress proxy", "vendor_name": "egress", "version": __version__},
            "profiles": ["security_control"],
        },
        "connection_info": {"direction_id": 2, "protocol_name": "tcp"},
    }
    for path, field in _PLACES:
        if field in fields:
            _put(event, path, str(fields[field]) if field in _TEXT else fields[field])
    if kind == _OTHER:
        event["activity_name"] = event["http_request"].pop("http_method")
    _drop_halves(event)
    rest = {name: value for name, value in fields.items() if name not in _MAPPED}
    if rest:
        event["unmapped"] = rest
    return event


def _outcome(fields: Mapping[str, Any]) -> str:
    outcome = str(fields.get("outcome", ""))
    if outcome != "allowed":
        return outcome
    if fields.get("would_deny"):
        return "would_deny"
    return "transformed" if fields.get("transformed") else outcome


def _severity(fields: Mapping[str, Any]) -> int:
    if fields.get("outcome") == "allowed":
        return _LOW if fields.get("would_deny") else _INFORMATIONAL
    return _SEVERITIES.get(str(fields.get("code", "")), _LOW)


def _milliseconds(time: object) -> int:
    try:
        return round(datetime.fromisoformat(str(time)).timestamp() * 1000)
    except ValueError:
        return 0


def _put(event: dict[str, Any], path: str, value: Any) -> None:
    *above, name = path.split(".")
    for step in above:
        event = event.setdefault(step, {})
    event[name] = value


def _drop_halves(event: dict[str, Any]) -> None:
    for path, needed in _NEEDED.items():
        *above, name = path.split(".")
        holder = event
        for step in above:
            holder = holder.get(step, {})
        if name in holder and not any(one in holder[name] for one in needed):
            del holder[name]
