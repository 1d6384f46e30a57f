"""Secrets that only their name gives away: `password = "…"`, `api_key: …`, `Authorization: Bearer …`, `curl -u a:b`.

A value counts when it is quoted or machine-like (mixed classes, entropy) and no placeholder, path, call or plain word.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers._hints import Hints
from proxy.recognizers.base import LIKELY, POSSIBLE, WITH_CONTEXT_ONLY, Recognizer, mentions
from proxy.recognizers.secret_token import documentation

_NAME: Final = (
    r"(?:pass(?:word|wd|phrase|code)?|pwd?|passwort|contraseña|secret|token|api[_\- ]?key|apikey|access[_\- ]?key|"
    r"private[_\- ]?key|encryption[_\- ]?key|signing[_\- ]?key|auth[_\- ]?key|account[_\- ]?key|master[_\- ]?key|"
    r"client[_\- ]?secret|credential|credentials|connection[_\- ]?string)"
)
_KEYWORD: Final = re.compile(
    rf"(?<![A-Za-z]|-){_NAME}s?(?:[_\-][A-Za-z0-9]{{1,12}}){{0,2}}|(?<=[a-z0-9])(?:Password|Secret|Token|ApiKey|Key|Pwd)(?![A-Za-z])",
    re.IGNORECASE,
)
_KEYWORDS: Final = Hints([("pass", "pw", "secret", "token", "key", "credential", "connection", "contrase")])
_KEYWORD_BEFORE_CHARS: Final = 24
_KEYWORD_AFTER_CHARS: Final = 64
_ASSIGN: Final = re.compile(
    r"""(?:["'`\]}]|\\["'])?\s{0,4}(?::=|=>|==?|:|\bis\b:?|\bare\b|\bwas\b)\s{0,4}(?:[bruf]?(?P<quote>\\?["'`])(?P<quoted>[^"'`\r\n\\]{4,512})(?P=quote)|(?P<bare>[^\s"'`,;<>()\[\]{}|]{6,512}))"""
)
_BEARER: Final = re.compile(
    r"(?<![A-Za-z])(?:Bearer|Token|Basic|ApiKey)\s{1,2}([A-Za-z0-9_\-.~+/]{20,2048}={0,2})(?![A-Za-z0-9])"
)
_CURL: Final = re.compile(r"(?:-u|--user)[ =]['\"]?([^\s:'\"]{1,64}):([^\s'\"]{4,128})")
_REFERENCE: Final = re.compile(
    r"\$|%[A-Z_]+%|<|\{\{|process\.env|os\.environ|getenv|env\.|self\.|this\.|settings\.|config\.|request\.|args\.|\(|"
    r"none\b|null\b|true\b|false\b|undefined\b|optional\b|required\b|string\b|str\b|/|https?:|\.{2,}|\*{3,}|x{4,}|-{3,}|_{4,}",
    re.IGNORECASE,
)
_WORDY: Final = re.compile(r"[A-Za-z]+(?:[_\-. ][A-Za-z]+)*[.:!?]?\Z")
_TRAILING: Final = ".:!?"
_JUDGED_CHARS: Final = 96
"""What a value is judged by: enough for any key, and bounded work for a text of nothing but keywords."""
_NEXT_FIELD: Final = re.compile(r"&\w{1,32}=")
"""Of a query or form: `token=…&next=…`."""


def entropy_bits(value: str) -> float:
    """Shannon entropy per character."""
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())


def _classes(value: str) -> int:
    return sum(
        (
            any(char.islower() for char in value),
            any(char.isupper() for char in value),
            any(char.isdigit() for char in value),
            any(not char.isalnum() for char in value),
        )
    )


def _worth(value: str, *, quoted: bool) -> float:
    """A score for a value behind a telling name; 0 when it is a reference, a placeholder or plain prose."""
    value = value[:_JUDGED_CHARS]
    if _REFERENCE.match(value) or documentation(value) or len(set(value)) < 4:
        return 0.0
    if _WORDY.match(value):
        return WITH_CONTEXT_ONLY if quoted and len(value) >= 8 else 0.0
    if len(value) >= 16 and entropy_bits(value) >= 3.0 and _classes(value) >= 2:
        return LIKELY
    if _classes(value) >= 3 or (quoted and _classes(value) >= 2 and any(char.isdigit() for char in value)):
        return POSSIBLE if " " not in value else 0.0
    return 0.0


def _keywords(text: str) -> Iterator[re.Match[str]]:
    for _, stretches in _KEYWORDS.stretches(text, _KEYWORD_BEFORE_CHARS, _KEYWORD_AFTER_CHARS):
        for start, end in stretches:
            yield from _KEYWORD.finditer(text, start, end)


def _assigned(text: str) -> Iterator[Finding]:
    taken = 0
    for name in _keywords(text):
        match = _ASSIGN.match(text, name.end()) if name.start() >= taken else None
        if match is None:
            continue
        group = "quoted" if match["quoted"] is not None else "bare"
        value = match[group]
        if group == "bare":
            value = _NEXT_FIELD.split(value, maxsplit=1)[0].rstrip(_TRAILING)
        score = _worth(value, quoted=group == "quoted")
        if score:
            taken = match.start(group) + len(value)
            yield Finding("SECRET", match.start(group), taken, score, "secret_keyword")


def _find(text: str) -> Iterator[Finding]:
    yield from _assigned(text)
    for match in _BEARER.finditer(text):
        if entropy_bits(match[1]) >= 3.0 and any(char.isdigit() for char in match[1]) and not documentation(match[1]):
            yield Finding("SECRET", match.start(1), match.end(1), LIKELY, "secret_keyword")
    for match in _CURL.finditer(text):
        if not _REFERENCE.match(match[2]):
            yield Finding("SECRET", match.start(2), match.end(2), LIKELY, "secret_keyword")


_NEEDED: Final = (
    "pass", "pw", "secret", "token", "key", "credential", "bearer", "basic", "connection", "contrase", "-u ", "--user",
)  # fmt: skip


def _trigger(text: str) -> bool:
    return mentions(text, _NEEDED)


RECOGNIZER: Final = Recognizer(
    name="secret_keyword",
    entities=frozenset({"SECRET"}),
    layer="pattern",
    find=_find,
    trigger=_trigger,
)
