"""schema.json is generated, up to date, and takes the files that ship."""

import json
from pathlib import Path
from typing import Any

from proxy.config.jsonschema import json_schema, schema_text
from proxy.config.schema import APP, CONNECTOR_FILE, PLATFORM

ALLOWLISTS = Path(__file__).parents[2] / "allowlists"


def test_the_shipped_file_is_up_to_date() -> None:
    assert (ALLOWLISTS / "schema.json").read_bytes() == schema_text(), (
        "run `python -m proxy.config.jsonschema > allowlists/schema.json`"
    )


def test_every_key_of_the_table_is_there() -> None:
    definitions = json_schema()["$defs"]
    for name, kind in {"app": APP, "connector": CONNECTOR_FILE, "platform": PLATFORM}.items():
        assert set(definitions[name]["properties"]) == {field.name for field in kind.fields if not field.internal}
        assert definitions[name]["additionalProperties"] is False


def test_every_reference_leads_somewhere() -> None:
    schema = json_schema()

    def references(value: Any) -> list[str]:
        if isinstance(value, list):
            return [found for one in value for found in references(one)]
        if not isinstance(value, dict):
            return []
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for one in value.values() for found in references(one)]

    found = set(references(schema))
    assert found == {f"#/$defs/{name}" for name in schema["$defs"]}
    assert json.loads(schema_text()) == schema


def test_internal_keys_are_not_offered() -> None:
    assert "connector" not in json_schema()["$defs"]["entry"]["properties"]
