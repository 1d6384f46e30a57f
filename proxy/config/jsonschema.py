"""schema.json for editors, generated from the table of `proxy.config.schema`.

It knows every key and value; what spans several keys only `egress check` knows. To write it anew:
`python -m proxy.config.jsonschema > allowlists/schema.json`.
"""

import sys
from typing import Any, Final

import orjson

from proxy.config.schema import APP, BUDGET, CONNECTOR_FILE, DLP, DLP_RULE, ENTRY, LIMITS, PLATFORM
from proxy.config.testfile import TEST_FILE
from proxy.config.types import Obj

_SHARED: Final[dict[str, Obj]] = {
    "entry": ENTRY, "dlp": DLP, "dlp_rule": DLP_RULE, "limits": LIMITS, "budget": BUDGET,
}  # fmt: skip
"""Parts that stand in several places, largest first."""


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of platform, connector, app and test files."""
    kinds = {"platform": PLATFORM, "connector": CONNECTOR_FILE, "app": APP, "test": TEST_FILE}
    shared = [(name, part.json_schema()) for name, part in _SHARED.items()]
    definitions = {name: _with_refs(kind.json_schema(), shared) for name, kind in kinds.items()}
    definitions |= {
        name: _with_refs(schema, [one for one in shared if one[0] != name], inner=True) for name, schema in shared
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Policy files of the egress proxy",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in kinds],
        "$defs": definitions,
    }


def schema_text() -> bytes:
    """The content of allowlists/schema.json."""
    return orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _with_refs(schema: Any, shared: list[tuple[str, dict[str, Any]]], *, inner: bool = False) -> Any:
    """The schema with shared parts replaced by references. A description beside a reference stays (2020-12)."""
    if isinstance(schema, list):
        return [_with_refs(one, shared) for one in schema]
    if not isinstance(schema, dict):
        return schema
    bare = {key: value for key, value in schema.items() if key != "description"}
    for name, part in shared if not inner else []:
        if bare == part:
            said = {"description": schema["description"]} if isinstance(schema.get("description"), str) else {}
            return {**said, "$ref": f"#/$defs/{name}"}
    return {key: _with_refs(value, shared) for key, value in schema.items()}


if __name__ == "__main__":
    sys.stdout.buffer.write(schema_text())
