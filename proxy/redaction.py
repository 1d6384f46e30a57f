"""What to do about findings: which rule decides each, and what stands in its place. Pure.

The severest matching rule wins (`proxy.model.DLP_ACTIONS`). Rules on trial are recorded, not applied.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from proxy.actions import actions
from proxy.actions.base import StandIn, Value
from proxy.config.snapshot import DlpException, DlpRule
from proxy.model import DLP_ACTIONS, DlpAction
from proxy.placeholders import normalise

SEVERITY: Final[dict[DlpAction, int]] = {action: rank for rank, action in enumerate(reversed(DLP_ACTIONS))}


@dataclass(frozen=True, slots=True)
class Hit:
    """A finding mapped to its leaf. `leaf`: index of the leaf; `start:end`: span in the leaf's text; `value`: what was
    found, as the detector read it. `whole`: the span is an encoded run around the value, replaceable only as a whole.
    `editable`: the leaf can be rewritten at all. `part`: 0 for a value in one leaf; 1, 2 … for the pieces of one
    that was split over several leaves, the first of which stands for all."""

    leaf: int
    start: int
    end: int
    entity: str
    value: str
    score: float
    recognizer: str
    whole: bool = False
    editable: bool = True
    part: int = 0


@dataclass(frozen=True, slots=True)
class Ruled:
    """A hit with what is done about it, and the rule's place. `trial`: the severest action of a rule on trial.
    `fixed`: blocked only because its place cannot be rewritten."""

    hit: Hit
    action: DlpAction
    where: str = ""
    trial: DlpAction | None = None
    fixed: bool = False


class Span(NamedTuple):
    """Characters `start:end` of a leaf, to be replaced as `action` says, under the name of `entity`. `value`: what the
    span says, or "" where only the span's own text says it (overlapping findings). `part`: as in Hit."""

    start: int
    end: int
    action: DlpAction
    entity: str
    whole: bool
    value: str
    part: int = 0


def rule_on(
    hits: Sequence[Hit],
    rules: Sequence[DlpRule],
    otherwise: DlpAction,
    exceptions: Sequence[DlpException],
    now_s: float,
) -> list[Ruled]:
    """One verdict per hit, in the order of `hits`.

    An entity that only a rule on trial names is let through; a threshold on trial (`at_least`) names nothing.
    """
    excepted = _excepted(hits, [rule for rule in exceptions if rule.values and is_live(rule, now_s)])
    counted = [hit for index, hit in enumerate(hits) if index not in excepted]
    values: dict[str, set[str]] = {}
    for hit in counted:
        values.setdefault(hit.entity, set()).add(normalise(hit.entity, hit.value))
    reached = [rule for rule in rules if _distinct(rule, values) >= rule.at_least]
    verdicts = {entity: _verdict(entity, reached, otherwise) for entity in values}
    return [
        Ruled(hit, "allow", excepted[index]) if index in excepted else _place(hit, *verdicts[hit.entity])
        for index, hit in enumerate(hits)
    ]


def is_live(rule: DlpException, now_s: float) -> bool:
    """False once the exception has expired."""
    return rule.expires_at_s is None or now_s < rule.expires_at_s


def _distinct(rule: DlpRule, values: Mapping[str, set[str]]) -> int:
    return sum(len(values.get(entity, ())) for entity in rule.entities)


def _verdict(entity: str, reached: Sequence[DlpRule], otherwise: DlpAction) -> tuple[DlpAction, str, DlpAction | None]:
    matching = [rule for rule in reached if entity in rule.entities]
    enforced = max((rule for rule in matching if rule.mode == "enforce"), key=_severity, default=None)
    trial = max((rule for rule in matching if rule.mode == "report"), key=_severity, default=None)
    if enforced is not None:
        return enforced.action, enforced.at, trial.action if trial else None
    if any(rule.at_least == 1 for rule in matching):
        return "allow", trial.at if trial else "", trial.action if trial else None
    return otherwise, "", trial.action if trial else None


def _severity(rule: DlpRule) -> int:
    return SEVERITY[rule.action]


def _place(hit: Hit, action: DlpAction, where: str, trial: DlpAction | None) -> Ruled:
    if not hit.editable and action not in ("allow", "block"):
        return Ruled(hit, "block", where, trial, fixed=True)
    if hit.whole and not actions()[action].whole_runs:
        return Ruled(hit, "redact", where, trial)
    return Ruled(hit, action, where, trial)


def _excepted(hits: Sequence[Hit], rules: Sequence[DlpException]) -> dict[int, str]:
    """Indices of hits that an exception takes out, and what lies inside of one: the admin has read that value."""
    if not rules:
        return {}
    out: dict[int, str] = {}
    shields: dict[int, list[tuple[int, int, str]]] = {}
    for index, hit in enumerate(hits):
        rule = next((r for r in rules if r.entity in (None, hit.entity) and hit.value in r.values), None)
        if rule is not None:
            out[index] = rule.at
            if not hit.whole:
                shields.setdefault(hit.leaf, []).append((hit.start, hit.end, rule.at))
    for ranges in shields.values():
        ranges.sort()
    for index, hit in enumerate(hits):
        ranges = shields.get(hit.leaf, [])
        at = bisect_right(ranges, hit.start, key=_start) - 1
        if at >= 0 and hit.end <= ranges[at][1]:
            out.setdefault(index, ranges[at][2])
    return out


def _start(shield: tuple[int, int, str]) -> int:
    return shield[0]


def spans(ruled: Iterable[Ruled]) -> list[Span]:
    """The replacements in one leaf, without overlaps: overlapping findings become one span under the severest action,
    so that no remainder of either stays behind."""
    wanted = sorted((r for r in ruled if r.action not in ("allow", "block")), key=lambda r: (r.hit.start, -r.hit.end))
    out: list[Span] = []
    best: list[tuple[int, float, int]] = []
    for item in wanted:
        hit = item.hit
        rank = (SEVERITY[item.action], hit.score, hit.end - hit.start)
        span = Span(hit.start, hit.end, item.action, hit.entity, hit.whole, hit.value, hit.part)
        if not out or hit.start >= out[-1].end:
            out.append(span)
            best.append(rank)
            continue
        before = out[-1]
        winner, best[-1] = (span, rank) if rank > best[-1] else (before, best[-1])
        end = max(before.end, hit.end)
        value = winner.value if winner.part or (winner.start, winner.end) == (before.start, end) else ""
        out[-1] = winner._replace(start=before.start, end=end, whole=before.whole or hit.whole, value=value)
    return out


class Replacer:
    """Gives the text in place of a value, and keeps `restore`: stand-in -> original text as first spelled."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._meant: dict[str, tuple[str, str]] = {}
        self.restore: dict[str, str] = {}

    def text(self, action: DlpAction, entity: str, original: str, value: str) -> str:
        """`original`: the characters that stand in the leaf; `value`: what they say."""
        stand_in = self._stand_in(action, Value(self._key, entity, original, value))
        if not stand_in.restores:
            return stand_in.text
        meaning = (entity, normalise(entity, value))
        if self._meant.setdefault(stand_in.text, meaning) != meaning:
            return f"<{entity}>"  # two values met in one stand-in: neither answer could be restored for sure
        plus = stand_in.text.startswith("+") and original.startswith("+")
        self.restore.setdefault(stand_in.text[plus:], original[plus:])
        return stand_in.text

    @staticmethod
    def _stand_in(action: DlpAction, value: Value) -> StandIn:
        for name in (action, "tokenize"):
            replace = actions()[name].replace
            stand_in = replace(value) if replace is not None else None
            if stand_in is not None:
                return stand_in
        raise RuntimeError(f"no stand-in for the action {action}")


def summary(ruled: Iterable[Ruled]) -> str:
    """`2 x CREDIT_CARD, EMAIL_ADDRESS`: entities and counts, never values."""
    counts: dict[str, int] = {}
    for item in ruled:
        if item.hit.part < 2:
            counts[item.hit.entity] = counts.get(item.hit.entity, 0) + 1
    return ", ".join(f"{count} x {entity}" if count > 1 else entity for entity, count in sorted(counts.items()))


@dataclass(frozen=True, slots=True)
class JsonPaths:
    """The `json:` exceptions of one policy, as one test."""

    patterns: tuple[re.Pattern[str], ...]

    def __call__(self, path: str) -> bool:
        return any(pattern.fullmatch(path) for pattern in self.patterns)


def json_paths(exceptions: Sequence[DlpException], now_s: float) -> JsonPaths | None:
    """The live path exceptions: exact paths, with `[*]` for any index and `.*` for any one key. None without any."""
    listed = [rule.json_path for rule in exceptions if rule.json_path and is_live(rule, now_s)]
    if not listed:
        return None
    return JsonPaths(tuple(_path_pattern(path) for path in listed))


def _path_pattern(path: str) -> re.Pattern[str]:
    any_key = r"""(?:\.[A-Za-z_][A-Za-z0-9_]*|\["(?:[^"\\]|\\.)*"\])"""
    return re.compile(re.escape(path).replace(r"\[\*\]", r"\[\d+\]").replace(r"\.\*", any_key))


def on_trial(ruled: Sequence[Ruled]) -> list[Ruled]:
    """The verdicts of a policy in report mode: what would have been done is recorded, nothing is done."""
    return [replace(item, action="allow", trial=max_action(item.action, item.trial)) for item in ruled]


def max_action(first: DlpAction, second: DlpAction | None) -> DlpAction:
    """The severer of two actions."""
    return first if second is None or SEVERITY[first] >= SEVERITY[second] else second
