"""The page of the policy files: every key, from the table that reads them."""

from collections.abc import Iterator
from typing import Any, Final

from docs.generator.markdown import code, section, table

_LONGEST_EXAMPLE: Final = 40


def policy_files() -> str:
    """proxy/config/schema.py and proxy/config/testfile.py"""
    from proxy.config.schema import APP, CONNECTOR_FILE, PLATFORM
    from proxy.config.testfile import TEST_FILE

    kinds = (
        ("apps/NAME.yaml", APP, "One app: who it is, what it may reach, what may leave."),
        ("connectors/NAME.yaml", CONNECTOR_FILE, "Entries that several apps share; an app takes them with `use:`."),
        ("platform.yaml", PLATFORM, "What holds for every app."),
        ("apps/NAME.test.yaml", TEST_FILE, "Policy tests, run by `egress test`."),
    )
    intro = (
        "All files are YAML, and `allowlists/schema.json` is the same table as JSON Schema for editors (it also says "
        "which values fit). Unknown and duplicate keys are mistakes; scalars are typed by this table, not by YAML, so "
        "`NO` is a text where a text is wanted. `egress check` finds all mistakes at once.\n\n"
        "A date is 00:00 UTC of that day; an instant is RFC 3339. Sizes are `4MiB`, `64KiB`; durations `10m`, `1h`. "
        "Deny overrides allow, the default is deny, and an app may only tighten what the platform sets.\n\n"
    )
    seen: set[str] = set()
    return intro + "\n".join(section(code(name), f"{lead}\n\n{_object(kind, seen)}") for name, kind, lead in kinds)


def _object(kind: Any, seen: set[str]) -> str:
    fields = [one for one in kind.fields if not one.internal]
    rows = [(code(one.name), _type(one.type), "yes" if one.required else "", one.doc) for one in fields]
    text = table(("key", "value", "required", "meaning"), rows)
    for one in fields:
        for inner in _inner(one.type):
            if inner.what not in seen:
                seen.add(inner.what)
                text += "\n" + section(inner.what, _object(inner, seen), 3)
    return text


def _inner(kind: Any) -> Iterator[Any]:
    from proxy.config.types import Either, ListOf, MapOf, Obj

    if isinstance(kind, Obj):
        yield kind
    elif isinstance(kind, ListOf | MapOf):
        yield from _inner(kind.item)
    elif isinstance(kind, Either):
        yield from _inner(kind.other)


def _type(kind: Any) -> str:
    from proxy.config.types import Either, Leaf, ListOf, MapOf, Obj

    if isinstance(kind, Obj):
        return f"[{kind.what}](#{kind.what.lower().replace(' ', '-')})"
    if isinstance(kind, ListOf):
        return f"list of: {_type(kind.item)}"
    if isinstance(kind, MapOf):
        return f"mapping of {kind.key.what} to {_type(kind.item)}"
    if isinstance(kind, Either):
        return f"{_type(kind.word)}, or {_type(kind.other)}"
    words = kind.schema.get("enum") if isinstance(kind, Leaf) else None
    if words:
        return " or ".join(code(word) for word in dict.fromkeys(map(str, words)))
    what = getattr(kind, "what", "")
    if what == "a text":
        return what
    return ", ".join(filter(None, (what, f"e.g. {code(_short(kind.example))}")))


def _short(example: str) -> str:
    return example if len(example) <= _LONGEST_EXAMPLE else example[:_LONGEST_EXAMPLE] + "…"
