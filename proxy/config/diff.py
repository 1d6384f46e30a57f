"""What changed between two revisions, and whether a change allows more than before.

`widens` errs on the safe side: only what provably allows no more is False.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_network
from typing import Any, Final

import orjson

from proxy.config.documents import decode
from proxy.config.scalars import DURATION, SIZE
from proxy.config.schema import PROFILES, STAGES
from proxy.config.types import BadValue
from proxy.model import DLP_ACTIONS


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `app` is `platform` for platform.yaml; `path` such as `allow[openai].paths`; `before` and
    `after` as in the file (None: absent). `at`: the place in the newer revision, or in the older one when removed."""

    app: str
    path: str
    before: Any
    after: Any
    widens: bool
    at: str = ""

    def __str__(self) -> str:
        sign = "+" if self.widens else " "
        return f"{sign} {self.app}: {self.path}: {_shown(self.before)} -> {_shown(self.after)}"


def _shown(value: Any) -> str:
    text = "(none)" if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= 120 else text[:119] + "…"


def diff_contents(old: bytes | None, new: bytes) -> list[Change]:
    """All differences of two canonical revisions, by app and path. `old` None: everything is new.

    Raises ConfigErrors for what is not a revision.
    """
    before = decode(old) if old is not None else {"platform": {}, "apps": {}, "_at": {"platform": {}, "apps": {}}}
    after = decode(new)
    changes = list(_Walk("platform", before, after).compare((), before["platform"], after["platform"]))
    for app in sorted(before["apps"].keys() | after["apps"].keys()):
        walk = _Walk(app, before, after)
        was, now = before["apps"].get(app), after["apps"].get(app)
        if was is None or now is None:
            place = walk.place("", now is None)
            changes.append(Change(app, "(app)", _label(was), _label(now), now is not None, place))
        else:
            changes.extend(walk.compare((), was, now))
    return changes


def _label(app: Mapping[str, Any] | None) -> str | None:
    return None if app is None else f"{app.get('stage', 'draft')}, {len(app.get('allow', ()))} entries"


class _Walk:
    """Compares one document with its older self."""

    def __init__(self, app: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        self.app = app
        self._was = self._places(before)
        self._now = self._places(after)

    def _places(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        places = document["_at"]
        found: Mapping[str, Any] = places["platform"] if self.app == "platform" else places["apps"].get(self.app, {})
        return found

    def place(self, pointer: str, gone: bool) -> str:
        """The file:line:col of a JSON pointer, or of the nearest thing around it."""
        places = self._was if gone else self._now
        while pointer and pointer not in places:
            pointer = pointer.rpartition("/")[0]
        return str(places.get(pointer, ""))

    def compare(self, path: tuple[str, ...], was: Any, now: Any, pointer: str = "") -> Iterator[Change]:
        """Differences of two values at `path`."""
        if was == now:
            return
        if isinstance(was, dict | None) and isinstance(now, dict | None) and (was or now) and not _whole(path):
            was, now = was or {}, now or {}
            for key in sorted(was.keys() | now.keys()):
                yield from self.compare((*path, key), was.get(key), now.get(key), f"{pointer}/{key}")
        elif path == ("allow",):
            yield from self._entries(was or [], now or [])
        elif path and path[-1] in _LISTS:
            yield from self._members(path, was or [], now or [], pointer)
        else:
            yield self._change(path, was, now, pointer, _widens(path, was, now))

    def _change(self, path: tuple[str, ...], was: Any, now: Any, pointer: str, widens: bool) -> Change:
        return Change(self.app, ".".join(path), was, now, widens, self.place(pointer, now is None))

    def _entries(self, was: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Iterator[Change]:
        old = {_entry_id(entry): (index, entry) for index, entry in enumerate(was)}
        new = {_entry_id(entry): (index, entry) for index, entry in enumerate(now)}
        for rule_id in sorted(old.keys() | new.keys()):
            name = f"allow[{rule_id}]"
            if rule_id not in new:
                index, entry = old[rule_id]
                yield self._change((name,), entry.get("host"), None, f"/allow/{index}", False)
            elif rule_id not in old:
                index, entry = new[rule_id]
                yield self._change((name,), None, entry.get("host"), f"/allow/{index}", True)
            else:
                index, entry = new[rule_id]
                yield from self.compare((name,), old[rule_id][1], entry, f"/allow/{index}")

    def _members(self, path: tuple[str, ...], was: list[Any], now: list[Any], pointer: str) -> Iterator[Change]:
        for index, member in enumerate(was):
            if member not in now:
                yield self._change(path, member, None, f"{pointer}/{index}", _widens(path, member, None))
        for index, member in enumerate(now):
            if member not in was:
                yield self._change(path, None, member, f"{pointer}/{index}", _widens(path, None, member))


_LISTS: Final = frozenset(("rules", "except", "prices", "dictionaries", "patterns", "exact_match"))


def _whole(path: tuple[str, ...]) -> bool:
    """Mappings that are one value: what stands in lists, a model, a class."""
    return len(path) > 1 and path[-2] in ("models", "prices") and path[0] in ("models", "prices")


def _entry_id(entry: Mapping[str, Any]) -> str:
    connector = entry.get("connector")
    return f"{connector}/{entry.get('id')}" if connector else str(entry.get("id"))


def _widens(path: tuple[str, ...], was: Any, now: Any) -> bool:
    judge = _JUDGES.get(path[-1]) if path else None
    if judge is None and len(path) > 1:
        judge = _PARENTS.get(path[-2])
    return judge(was, now) if judge is not None else True


def _never(was: Any, now: Any) -> bool:
    del was, now
    return False


def _any_when_absent(was: Any, now: Any) -> bool:
    return was is not None and (now is None or not set(now) <= set(was))


def _more_members(was: Any, now: Any) -> bool:
    return now is None or not set(now) <= set(was or ())


def _more_or_none(was: Any, now: Any) -> bool:
    return not set(now or ()) <= set(was or ())


def _fewer_members(was: Any, now: Any) -> bool:
    return not set(was or ()) <= set(now or ())


def _later(was: Any, now: Any) -> bool:
    return now is None or (was is not None and str(now) > str(was))


def _larger(was: Any, now: Any) -> bool:
    return now is None or (was is not None and _number(now) > _number(was))


def _number(value: Any) -> Decimal:
    for scalar in (SIZE, DURATION):
        with contextlib.suppress(BadValue):
            return Decimal(scalar.parse(str(value))[0])
    return Decimal(str(value))


def _ranked(order: Sequence[str], absent: str) -> Callable[[Any, Any], bool]:
    """True when `now` stands later in `order`, which goes from tight to loose."""

    def judge(was: Any, now: Any) -> bool:
        return order.index(now or absent) > order.index(was or absent)

    return judge


def _networks_grow(was: Any, now: Any) -> bool:
    """Of `addresses:` and `identify.networks`: absent means something else than a list, so a switch widens."""
    if not isinstance(was, list) or not isinstance(now, list):
        return True
    old = [ip_network(text) for text in was]
    for network in (ip_network(text) for text in now):
        if not any(one.version == network.version and _inside(network, one) for one in old):
            return True
    return False


def _inside(network: Any, other: Any) -> bool:
    return bool(network.subnet_of(other))


def _pins(was: Any, now: Any) -> bool:
    return bool(was) and (not now or not set(now) <= set(was))


def _rule(was: Any, now: Any) -> bool:
    """A DLP rule came or went. A new one can only loosen what `otherwise` did; a lost one what itself did."""
    if was is not None:
        return bool(was.get("action") != "allow")
    return bool(now.get("action") != "block" or now.get("mode") == "report")


def _removed(was: Any, now: Any) -> bool:
    del now
    return was is not None


def _added(was: Any, now: Any) -> bool:
    del was
    return now is not None


_JUDGES: Final[dict[str, Callable[[Any, Any], bool]]] = {
    **dict.fromkeys(
        ("owner", "cost_center", "reason", "ticket", "approved_by", "cache", "ttl", "only_deterministic", "version",
         "time_zone", "explicit", "transparent", "dns", "metrics"), _never),
    **dict.fromkeys(("methods", "paths", "models", "tiers"), _any_when_absent),
    **dict.fromkeys(("ports", "protocols"), _more_members),
    **dict.fromkeys(("headers", "sandbox"), _more_or_none),
    **dict.fromkeys(("expires", "report_until"), _later),
    **dict.fromkeys(("max_body", "requests_per_minute", "max_output_tokens", "connections", "daily_usd",
                     "monthly_usd", "max_staleness"), _larger),
    "deny": _fewer_members,
    "addresses": _networks_grow,
    "networks": _networks_grow,
    "pins": _pins,
    "rules": _rule,
    "except": _added,
    "dictionaries": _removed,
    "patterns": _removed,
    "exact_match": _removed,
    "upstream_ca": _added,
    "stage": _ranked(STAGES, "draft"),
    "mode": _ranked(("enforce", "report"), "enforce"),
    "tls": _ranked(("inspect", "passthrough"), "inspect"),
    "scheme": _ranked(("https", "http"), "https"),
    "subdomains": _ranked(("plain", "any"), "plain"),
    "token": lambda was, now: bool(was) and not now,
    "on_exceeded": _ranked(("deny", "report"), "deny"),
    "unpriced": _ranked(("deny", "allow"), "deny"),
    "on_unavailable": _ranked(("deny", "allow"), "deny"),
    "otherwise": _ranked(DLP_ACTIONS, "redact"),
    "profile": _ranked(PROFILES[::-1], "balanced"),
}  # fmt: skip
_PARENTS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "uninspectable": _ranked(("block", "allow"), "block"),
    "publishers": _added,
}
