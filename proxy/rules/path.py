"""The path is one that the entry lists: `*` stands for one segment, `**` for any number of them."""

from collections.abc import Sequence
from functools import lru_cache

from proxy.config.snapshot import Entry, Snapshot
from proxy.rules.base import FROM_HEAD, Facts, Rule, Verdict, listed


def _admits(entry: Entry, facts: Facts, snapshot: Snapshot) -> bool:
    del snapshot
    if entry.paths is None or facts.head is None:
        return True
    try:
        path = facts.path
    except ValueError:
        return False
    return path in entry.paths or any("*" in pattern and matches(pattern, path) for pattern in entry.paths)


@lru_cache(maxsize=4096)
def _segments(pattern: str) -> tuple[str, ...]:
    return tuple(pattern.split("/"))


def matches(pattern: str, path: str) -> bool:
    """True when the canonical path fits. `*` is one segment that is not empty; `**` any number of segments, but at
    the end of a pattern at least one. Linear in the path for each `**`: no pattern makes matching slow."""
    wanted, given = _segments(pattern), path.split("/")
    position = 0
    resume_pattern, resume_path = -1, 0
    at = 0
    while at < len(given):
        if position < len(wanted) and wanted[position] == "**":
            if position == len(wanted) - 1:
                return True
            resume_pattern, resume_path = position, at
            position += 1
        elif position < len(wanted) and (wanted[position] == given[at] or (wanted[position] == "*" and given[at])):
            position += 1
            at += 1
        elif resume_pattern >= 0:
            resume_path += 1
            position, at = resume_pattern + 1, resume_path
        else:
            return False
    return position == len(wanted)


def _refuse(removed: Sequence[Entry], facts: Facts, snapshot: Snapshot) -> Verdict:
    del snapshot
    entry = removed[0]
    try:
        path = facts.path
    except ValueError as error:
        return Verdict(
            "malformed",
            f"the path of the request to {facts.authority.host} can be read in two ways: {error}",
            entry.at,
            "Send the plain path, without encoding what needs none.",
        )
    del path
    allowed = listed(one for entry in removed for one in entry.paths or ())
    return Verdict(
        "path_denied",
        f"this path on {facts.authority.host} is not allowed; {entry.rule_id} allows {allowed}",
        entry.at,
        f"Use {allowed}, or ask the app's admin to add the path to `paths:` in {entry.at}.",
    )


RULE = Rule("path", 110, FROM_HEAD, _admits, _refuse, "the path is the entry's")
