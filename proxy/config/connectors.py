"""Shared, approved entries: how an app's `use:` becomes entries of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from proxy.config.checks import PlatformFacts, check_agreement, check_entry, check_ids
from proxy.config.errors import Problems, nearest, shown
from proxy.config.types import Rec, Val

_INHERITED: Final = ("reason", "ticket", "approved_by", "expires")


def splice(app: Val, connectors: Mapping[str, Val | None], problems: Problems) -> Val:
    """The app with its connectors' entries after its own, and without `use:`."""
    rec: Rec = app.value
    if "use" not in rec:
        return app
    entries = list(rec.items("allow"))
    for item in rec.items("use"):
        name = item.value.removeprefix("connectors/")
        if name not in connectors:
            near = nearest(name, connectors)
            known = ", ".join(f"connectors/{one}" for one in sorted(connectors)) or f"create {item.value}.yaml"
            fix = f"did you mean connectors/{near}?" if near else known
            problems.add(item.mark, f"there is no connector {shown(item.value)}", fix)
        elif (connector := connectors[name]) is not None:
            entries.extend(_entry(one, connector.value) for one in connector.value.items("allow"))
    allow = Val(tuple(entries), [entry.canon for entry in entries], rec.at("allow"))
    fields = {**{name: value for name, value in rec.fields.items() if name != "use"}, "allow": allow}
    keys = {**{name: mark for name, mark in rec.keys.items() if name != "use"}, "allow": rec.at("allow")}
    canon = {name: value.canon for name, value in fields.items()}
    return Val(Rec(fields, keys, rec.mark), canon, app.mark)


def _entry(entry: Val, connector: Rec) -> Val:
    """One entry of a connector: it inherits reason, approval and expiry (the earlier of the two) of its file."""
    rec: Rec = entry.value
    name = connector.fields.get("connector")
    inherited = {key: connector.fields[key] for key in _INHERITED if key in connector.fields and key not in rec.fields}
    if "expires" in rec.fields and "expires" in connector.fields:
        earlier = min(rec.fields["expires"], connector.fields["expires"], key=lambda value: float(value.value))
        inherited["expires"] = earlier
    fields = {**rec.fields, **inherited, **({"connector": name} if name else {})}
    keys = {**{key: value.mark for key, value in inherited.items()}, **rec.keys}
    canon = {key: value.canon for key, value in fields.items()}
    return replace(entry, value=Rec(fields, keys, rec.mark), canon=canon)


def check_connectors(connectors: Mapping[str, Val | None], facts: PlatformFacts, problems: Problems) -> None:
    """Checks connectors by themselves, so that mistakes show before an app uses them."""
    for connector in connectors.values():
        entries = [_entry(item, connector.value).value for item in connector.value.items("allow")] if connector else []
        for entry in entries:
            check_entry(entry, facts, problems)
        check_ids(entries, problems)
        check_agreement(entries, problems)
