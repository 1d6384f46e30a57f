"""Audit records as OCSF events: against the schema itself where it is, and what each outcome becomes."""

import json
from functools import cache
from typing import Any

import pytest

from proxy.audit import FIELDS
from proxy.ocsf import activity
from tests import shared_data

BASE: dict[str, Any] = {
    "v": 1, "writer": "w1", "seq": 7, "prev": "0" * 64, "id": "d-1", "kind": "terminal", "mac": "1" * 64,
    "time": "2026-11-24T10:00:00.250Z", "app": "alpha", "client_ip": "10.0.0.5", "outcome": "allowed", "status": 200,
    "method": "POST", "scheme": "https", "host": "api.openai.com", "port": 443, "path": "/v1/chat/completions",
    "upstream_ip": "203.0.113.9", "sni": "api.openai.com", "duration_ms": 12, "request_bytes": 190, "rule_id": "openai",
    "rule_at": "apps/a.yaml:7:3", "revision": "a" * 64, "policy_seq": 3, "gen_ai.request.model": "gpt-4o-mini",
    "cost_usd_nanos": 150, "findings": {"PERSON:tokenize": 1},
}  # fmt: skip
DENIED = {"outcome": "denied", "code": "pii", "status": 403, "detail": "US_SSN in body"}


@pytest.mark.parametrize(
    ("more", "action", "disposition", "status", "severity"),
    [
        ({}, 1, 1, 1, 1),
        ({"transformed": True}, 4, 11, 1, 1),
        ({"would_deny": "host_denied"}, 3, 19, 1, 2),
        (DENIED, 2, 2, 2, 3),
        ({**DENIED, "code": "host_denied"}, 2, 2, 2, 2),
        ({"outcome": "aborted", "aborted_by": "client"}, 1, 1, 2, 2),
        ({"outcome": "error", "fault": "ValueError", "code": "internal"}, 2, 27, 2, 4),
    ],
)
def test_outcomes(more: dict[str, Any], action: int, disposition: int, status: int, severity: int) -> None:
    event = activity({**BASE, **more})
    told = event["action_id"], event["disposition_id"], event["status_id"], event["severity_id"]
    assert told == (action, disposition, status, severity)
    assert event["is_alert"] is (action in {2, 3})


def test_where_things_go() -> None:
    event = activity(BASE)
    assert (event["class_uid"], event["category_uid"], event["activity_id"], event["type_uid"]) == (4002, 4, 6, 400206)
    assert event["time"] == 1795514400250
    assert event["http_request"]["url"] == {
        "scheme": "https", "hostname": "api.openai.com", "port": 443, "path": "/v1/chat/completions",
    }  # fmt: skip
    assert event["src_endpoint"] == {"ip": "10.0.0.5", "name": "alpha"}
    assert event["policy"] == {"uid": "a" * 64, "version": "3"}
    assert event["unmapped"] == {
        "gen_ai.request.model": "gpt-4o-mini", "cost_usd_nanos": 150, "findings": {"PERSON:tokenize": 1},
    }  # fmt: skip


def test_no_field_is_lost() -> None:
    """Each field of a record stands in the event, be it under `unmapped`."""
    record = BASE | {field.name: f"value-of-{field.name}" for field in FIELDS if field.name not in BASE}
    record["sni"] = BASE["host"]
    text = json.dumps(activity(record))
    lost = [name for name, value in record.items() if json.dumps(value)[1:-1] not in text]
    assert set(lost) <= {"v", "prev", "kind", "mac", "time", "outcome", "transformed"}


def test_a_method_that_is_none_of_ours() -> None:
    event = activity({**BASE, "method": "*"})
    assert (event["activity_id"], event["activity_name"], event["type_uid"]) == (99, "*", 400299)


# ---------------------------------------------------------------- against the schema

SCHEMA = shared_data.ROOT / "security" / "ocsf"
_TYPES: dict[str, tuple[type, ...]] = {
    "integer_t": (int,), "long_t": (int,), "timestamp_t": (int,), "port_t": (int,), "boolean_t": (bool,),
}  # fmt: skip


@cache
def definition(kind: str, name: str) -> dict[str, Any]:
    """A class or object with what it inherits and includes."""
    places = [SCHEMA / kind / f"{name}.json", *SCHEMA.glob(f"{kind}/**/{name}.json")]
    own = json.loads(next(place for place in places if place.exists()).read_text())
    whole: dict[str, Any] = {"attributes": {}, "constraints": []}
    if own.get("extends"):
        above = definition(kind, own["extends"])
        whole = {"attributes": dict(above["attributes"]), "constraints": list(above["constraints"])}
    included = own["attributes"].pop("$include", [])
    for one in [included] if isinstance(included, str) else included:
        if "security_control" in one or not one.startswith("profiles"):
            whole["attributes"] |= json.loads((SCHEMA / one).read_text())["attributes"]
    for attribute, facts in own["attributes"].items():
        whole["attributes"][attribute] = whole["attributes"].get(attribute, {}) | facts
    if "at_least_one" in own.get("constraints", {}):
        whole["constraints"] = [own["constraints"]["at_least_one"]]
    return whole


@cache
def dictionary() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads((SCHEMA / "dictionary.json").read_text())["attributes"]
    return whole


def wrong(value: dict[str, Any], kind: str, name: str, at: str = "") -> list[str]:
    """Everything about an event that the schema does not allow."""
    rules = definition(kind, name)
    attributes = rules["attributes"]
    found = [f"{at}{one}: missing" for one, facts in attributes.items() if _required(facts) and one not in value]
    found += [f"{at}: none of {some}" for some in rules["constraints"] if not set(some) & set(value)]
    for one, inner in value.items():
        if one not in attributes:
            found.append(f"{at}{one}: not in the schema")
            continue
        known = dictionary()[one]
        enum = {**known.get("enum", {}), **attributes[one].get("enum", {})}
        # The dictionary's entry for these lists no class of its own: categories and classes are files.
        if enum and one not in {"category_uid", "class_uid"} and str(inner) not in enum:
            found.append(f"{at}{one}: {inner!r} is no value of it")
        kind_of = known["type"]
        if isinstance(inner, dict) and kind_of != "object" and not kind_of.endswith("_t"):
            found += wrong(inner, "objects", kind_of, f"{at}{one}.")
        elif not isinstance(inner, _TYPES.get(kind_of, (str, dict, list))):
            found.append(f"{at}{one}: {inner!r} is no {kind_of}")
    return found


def _required(facts: dict[str, Any]) -> bool:
    return facts.get("requirement") == "required" and "profile" not in facts


@shared_data.needs("security/ocsf")
@pytest.mark.parametrize(
    "record",
    [
        BASE,
        BASE | DENIED,
        {key: BASE[key] for key in ("v", "writer", "seq", "id", "kind", "time", "client_ip")} | DENIED,
        BASE | {"outcome": "aborted", "protocol": "websocket", "sent_bytes": 5, "received_bytes": 6},
        {**BASE, "method": "*"},
    ],
)
def test_the_schema_allows_it(record: dict[str, Any]) -> None:
    assert wrong(activity(record), "events", "http_activity") == []


@shared_data.needs("security/ocsf")
def test_the_schema_would_not_allow_everything() -> None:
    event = activity(BASE)
    del event["metadata"]["product"]
    event["action_id"] = 5
    event["http_request"]["verb"] = "GET"
    event["time"] = "now"
    assert len(wrong(event, "events", "http_activity")) == 4
