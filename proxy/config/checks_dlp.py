"""Rules of `dlp:` blocks that span several keys."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from proxy.config.checks_data import CUSTOM_DATA, check_custom_data
from proxy.config.errors import Mark, Problems, nearest, shown
from proxy.config.schema import MEDIA_KINDS, PROFILES
from proxy.config.snapshot import UNLISTED
from proxy.config.types import Rec
from proxy.model import DLP_ACTIONS

_RESPONSE_ACTIONS: Final = ("block", "redact", "mask", "allow")


def own_entities(dlp: Rec | None) -> frozenset[str]:
    """The entities that a `dlp:` block makes known by its own data."""
    if dlp is None:
        return frozenset()
    named = (item.value.get("entity") for name in CUSTOM_DATA for item in dlp.items(name))
    return frozenset(entity for entity in named if entity is not None)


@dataclass(frozen=True, slots=True)
class DlpFacts:
    """What a `dlp:` block may refer to. `entities` None: any name is taken."""

    classes: Mapping[str, frozenset[str]]
    tiers: frozenset[str]
    entities: frozenset[str] | None

    def knowing(self, *blocks: Rec | None) -> "DlpFacts":
        """With the entities that `dlp:` blocks above add."""
        if self.entities is None:
            return self
        return replace(self, entities=self.entities.union(*map(own_entities, blocks)))


def check_dlp(dlp: Rec, facts: DlpFacts, problems: Problems) -> None:
    """Checks one `dlp:` block by itself."""
    facts = facts.knowing(dlp)
    classes, entities = facts.classes, facts.entities
    for item in dlp.items("rules"):
        _check_rule(item.value, classes, entities, problems)
        _check_tiers(item.value, facts.tiers, problems)
    if response := dlp.rec("response"):
        _check_rule(response, classes, entities, problems)
        _check_tiers(response, facts.tiers, problems)
        if (action := response.get("action")) is not None and action not in _RESPONSE_ACTIONS:
            problems.add(response.at("action"), f"an answer cannot be treated with {action}", "block, redact or mask")
    check_custom_data(dlp, problems)
    for item in dlp.items("except"):
        _check_exception(item.value, entities, problems)


def _check_rule(
    rule: Rec, classes: Mapping[str, frozenset[str]], entities: frozenset[str] | None, problems: Problems
) -> None:
    if "classes" not in rule and "entities" not in rule:
        problems.add(rule.mark, "the rule names nothing to look for", "add `entities: [EMAIL_ADDRESS]` or `classes:`")
    for item in rule.items("classes"):
        if item.value not in classes:
            near = nearest(item.value, classes)
            known = ", ".join(sorted(classes)) or "none yet; add them under `classes:`"
            fix = f"did you mean {near}?" if near else f"a class of platform.yaml: {known}"
            problems.add(item.mark, f"platform.yaml has no class {shown(item.value)}", fix)
    for item in rule.items("entities"):
        _check_entity(item.value, item.mark, entities, problems)


def _check_tiers(rule: Rec, tiers: frozenset[str], problems: Problems) -> None:
    for item in rule.items("tiers"):
        if item.value not in tiers and item.value != UNLISTED:
            near = nearest(item.value, tiers)
            known = ", ".join(sorted({*tiers, UNLISTED}))
            fix = f"did you mean {near}?" if near else f"a tier of platform.yaml's `models:`: {known}"
            problems.add(item.mark, f"no model of platform.yaml has the tier {shown(item.value)}", fix)


def _check_entity(entity: str, mark: Mark, entities: frozenset[str] | None, problems: Problems) -> None:

    if entities is None or entity in entities:
        return
    near = nearest(entity, entities)
    fix = f"did you mean {near}?" if near else "`egress list recognizers` shows all"
    problems.add(mark, f"no recogniser finds {shown(entity)}", fix)


def _check_exception(exception: Rec, entities: frozenset[str] | None, problems: Problems) -> None:
    if ("entity" in exception) == ("json" in exception):
        problems.add(exception.mark, "an exception names an entity or a JSON leaf", "either `entity:` or `json:`")
    if "entity" in exception and "values" not in exception:
        problems.add(exception.mark, "an entity without `values:` would be let through whole", "add `values: [...]`")
    if "values" in exception and "entity" not in exception:
        problems.add(exception.at("values"), "`values:` means nothing with `json:`", "remove one of the two")
    if (entity := exception.get("entity")) is not None:
        _check_entity(entity, exception.at("entity"), entities, problems)


def check_dlp_tightens(dlp: Rec, floor: Rec, limit: str, problems: Problems) -> None:
    """`dlp` must not be looser than `floor` in anything it sets. Rules need no check: the floor's stay in force."""
    profile, least = dlp.get("profile"), floor.get("profile")
    if profile is not None and least is not None and PROFILES.index(profile) < PROFILES.index(least):
        problems.add(dlp.fields["profile"].mark, f"`profile: {profile}` finds less than {limit}", f"profile: {least}")
    otherwise, severest = dlp.get("otherwise"), floor.get("otherwise")
    if otherwise is not None and severest is not None and DLP_ACTIONS.index(otherwise) > DLP_ACTIONS.index(severest):
        problems.add(
            dlp.fields["otherwise"].mark, f"`otherwise: {otherwise}` is milder than {limit}", f"otherwise: {severest}"
        )
    kinds, blocked = dlp.rec("uninspectable"), floor.rec("uninspectable")
    for kind in MEDIA_KINDS if kinds and blocked else ():
        if kinds is not None and blocked is not None and kinds.get(kind) == "allow" and blocked.get(kind) == "block":
            problems.add(kinds.fields[kind].mark, f"`{kind}: allow` is milder than {limit}", f"{kind}: block")
