"""The model of an inference call is one that the entry lists, or of a tier that it lists."""

from collections.abc import Sequence

from proxy.config.snapshot import Entry, Snapshot
from proxy.rules.base import FROM_BODY, Facts, Rule, Verdict, listed, printable


def _admits(entry: Entry, facts: Facts, snapshot: Snapshot) -> bool:
    if entry.models is None and entry.tiers is None:
        return True
    if facts.model is None:
        return False
    if entry.models is not None and facts.model in entry.models:
        return True
    known = snapshot.platform.models.get(facts.model)
    return entry.tiers is not None and known is not None and known.tier in entry.tiers


def _refuse(removed: Sequence[Entry], facts: Facts, snapshot: Snapshot) -> Verdict:
    models = {one for entry in removed for one in entry.models or ()}
    tiers = {one for entry in removed for one in entry.tiers or ()}
    models |= {name for name, known in snapshot.platform.models.items() if known.tier in tiers}
    allowed = listed(frozenset(models)) or "no model yet"
    entry = removed[0]
    asked = f"the model {printable(facts.model)}" if facts.model is not None else "a call that names no model"
    return Verdict(
        "model_denied",
        f"{asked} on {facts.authority.host} is not allowed; {entry.rule_id} allows {allowed}",
        entry.at,
        f"Use {allowed}, or ask the app's admin to add the model to `models:` in {entry.at}.",
    )


RULE = Rule("model", 130, FROM_BODY, _admits, _refuse, "the model is the entry's")
