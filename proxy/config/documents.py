"""A revision's two forms: read values with marks, and canonical JSON. One reads back as the other.

Canonical JSON: `{"format": 1, "platform": {...}, "apps": {NAME: {...}}, "_at": {"platform": {POINTER: PLACE}, "apps":
{NAME: {POINTER: PLACE}}}}`, keys sorted, no white space. Content and places stand apart, so that a diff sees content.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.config.errors import ConfigError, ConfigErrors, Mark
from proxy.config.tree import Map, Node, Scalar, Seq
from proxy.config.types import Rec, Val

FORMAT: Final = 1
_NOWHERE: Final = Mark("revision", 1, 1)
_MAX_DEPTH: Final = 30


def encode(platform: Val, apps: Mapping[str, Val]) -> bytes:
    """Canonical JSON of a checked policy."""
    return orjson.dumps(
        {
            "format": FORMAT,
            "platform": platform.canon,
            "apps": {name: app.canon for name, app in apps.items()},
            "_at": {"platform": marks_of(platform), "apps": {name: marks_of(app) for name, app in apps.items()}},
        },
        option=orjson.OPT_SORT_KEYS,
    )


def decode(canonical: bytes) -> dict[str, Any]:
    """The JSON object of a revision, its outer shape checked. Raises ConfigErrors."""
    try:
        found = orjson.loads(canonical)
    except orjson.JSONDecodeError as error:
        raise _not_a_revision("it is not JSON") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise _not_a_revision(f"its format is not {FORMAT}")
    places = found.get("_at")
    wanted = (found.get("platform"), found.get("apps"), places)
    if not all(isinstance(part, dict) for part in wanted) or not isinstance(places, dict):
        raise _not_a_revision("a part is missing")
    if not all(isinstance(places.get(part), dict) for part in ("platform", "apps")):
        raise _not_a_revision("the places are missing")
    return found


def _not_a_revision(why: str) -> ConfigErrors:
    message = f"not a revision that this version can read: {why}"
    return ConfigErrors([ConfigError(*_NOWHERE, message, "publish it again with `egress push`")])


def marks_of(document: Val) -> dict[str, str]:
    """JSON pointer -> `file:line:col` of every key, list member and mapping in a document."""
    found = {"": str(document.mark)}
    _collect(document, "", found)
    return found


def _collect(value: Val, pointer: str, found: dict[str, str]) -> None:
    if isinstance(value.value, Rec):
        for name, child in value.value.fields.items():
            found[f"{pointer}/{name}"] = str(value.value.at(name))
            _collect(child, f"{pointer}/{name}", found)
    elif isinstance(value.value, tuple):
        for index, child in enumerate(value.value):
            found[f"{pointer}/{index}"] = str(child.mark)
            _collect(child, f"{pointer}/{index}", found)


def to_node(value: Any, places: Mapping[str, Any], pointer: str = "", above: Mark = _NOWHERE, depth: int = 0) -> Node:
    """JSON of a revision as a tree with the marks of the files it came from. Raises ConfigErrors when too deep."""
    if depth > _MAX_DEPTH:
        raise _not_a_revision("it is nested too deep")
    mark = _place(places.get(pointer), above)
    if isinstance(value, dict):
        pairs: dict[str, tuple[Mark, Node]] = {}
        for key, child in value.items():
            where = f"{pointer}/{key}"
            pairs[key] = (_place(places.get(where), mark), to_node(child, places, where, mark, depth + 1))
        return Map(pairs, mark)
    if isinstance(value, list):
        return Seq([to_node(child, places, f"{pointer}/{i}", mark, depth + 1) for i, child in enumerate(value)], mark)
    if isinstance(value, bool):
        return Scalar("true" if value else "false", plain=True, mark=mark)
    return Scalar("" if value is None else str(value), plain=True, mark=mark)


def _place(text: Any, above: Mark) -> Mark:
    if not isinstance(text, str):
        return above
    try:
        return Mark.parse(text)
    except (ValueError, TypeError):
        return above
