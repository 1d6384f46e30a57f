"""Below a wildcard stand names, not data: whoever may choose the labels could write anything into them.

An entry `*.example.com` lets the app choose the rest of the name, and the owner of the domain sees each look-up and
each SNI. Names that people and cloud providers give are words, numbers and dashes; what an encoder makes is longer,
denser, or not pronounceable. `subdomains: any` on the entry switches this rule off there.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from proxy.config.snapshot import Entry, Snapshot
from proxy.rules.base import FROM_CONNECT, Facts, Rule, Verdict

MAX_LABELS: Final = 5
MAX_LABEL_CHARS: Final = 40
MAX_CHARS: Final = 100
# `ec2-198-51-100-200.us-east-2` has 13 digits; two telephone numbers have more.
MAX_DIGITS: Final = 14
MAX_DIGITS_IN_A_ROW: Final = 8
# An encoder's run: 12 characters carry 6 bytes of hex, or 7 of base32.
MIN_CODED_CHARS: Final = 12
MAX_TURNS: Final = 2
MAX_CONSONANTS: Final = 5
MIN_VOWELS: Final = 0.22  # of the letters; English has 0.38, random letters 0.23

_HEX: Final = re.compile(r"[0-9a-f]+")
_TURN: Final = re.compile(r"(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=[a-z])")
_CONSONANTS: Final = re.compile(rf"[bcdfghjklmnpqrstvwxz]{{{MAX_CONSONANTS + 1},}}")
_DIGIT_RUN: Final = re.compile(rf"[0-9]{{{MAX_DIGITS_IN_A_ROW + 1},}}")
_OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})"
_IPV4: Final = re.compile(rf"(?:^|-){_OCTET}(?:-{_OCTET}){{3}}(?=$|-[a-z])")
_SPLIT_NUMBER: Final = re.compile(r"[0-9]+(?:-[0-9]+){2,}")


@lru_cache(maxsize=4096)
def carries_data(labels: str) -> str | None:
    """Why the canonical labels below a wildcard (`a.b`, without the wildcard's own) look like data, or None."""
    if len(labels) > MAX_CHARS or labels.count(".") >= MAX_LABELS:
        return "is too long"
    parts = labels.split(".")
    if max(map(len, parts)) > MAX_LABEL_CHARS:
        return "has a label that is too long"
    # An address in its reverse or cloud form is no number; cut into labels, a number is still one.
    line = _IPV4.sub("", labels.replace(".", "-"))
    if sum(map(str.isdigit, line)) > MAX_DIGITS or _DIGIT_RUN.search(line) or _split_number(line):
        return "holds a long number"
    # Joined as well: the same text cut into short labels is the same text.
    whole = re.sub(r"[^0-9a-z]", "", labels)
    if _hexadecimal(whole) or any(_coded(token) for part in parts for token in re.split(r"[-_]", part)):
        return "looks encoded"
    return None


def _split_number(line: str) -> bool:
    """Nine digits make an identity number, with or without dashes; a date has eight."""
    return any(sum(map(str.isdigit, found[0])) > MAX_DIGITS_IN_A_ROW for found in _SPLIT_NUMBER.finditer(line))


def _hexadecimal(text: str) -> bool:
    return len(text) >= MIN_CODED_CHARS and any(map(str.isdigit, text)) and _HEX.fullmatch(text) is not None


def _coded(token: str) -> bool:
    if len(token) < MIN_CODED_CHARS:
        return False
    if _hexadecimal(token) or len(_TURN.findall(token)) > MAX_TURNS or _CONSONANTS.search(token):
        return True
    letters = sum(map(str.isalpha, token))
    return sum(char in "aeiouy" for char in token) < MIN_VOWELS * letters


def _below(entry: Entry, host: str) -> str:
    return host.removesuffix(f".{entry.host}")


def _admits(entry: Entry, facts: Facts, snapshot: Snapshot) -> bool:
    del snapshot
    return not entry.wildcard or entry.subdomains == "any" or carries_data(_below(entry, facts.authority.host)) is None


def _refuse(removed: Sequence[Entry], facts: Facts, snapshot: Snapshot) -> Verdict:
    del snapshot
    entry = removed[0]
    why = carries_data(_below(entry, facts.authority.host)) or "looks like data"
    return Verdict(
        "host_denied",
        f"what the host has in front of .{entry.host} {why}: a name can carry data out",
        entry.at,
        f"If this is a real host, ask the app's admin to name it in an entry of its own, or to set `subdomains: any` "
        f"in {entry.at}.",
    )


RULE = Rule(
    "subdomain",
    55,
    FROM_CONNECT,
    _admits,
    _refuse,
    "the labels below a wildcard look like a name",
    bites_in_report=True,
)
