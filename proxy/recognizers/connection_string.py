"""Credentials inside addresses: `scheme://user:password@host`, `Server=…;Password=…;`, libpq and JDBC parameters."""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

from proxy.model import Finding
from proxy.recognizers.base import LIKELY, WITH_CONTEXT_ONLY, Recognizer

_URL: Final = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.\-]{1,24}://([^\s/:@'\"<>]{0,128}):([^\s@'\"<>/]{1,256})@(?=[\w\[.\-])"
)
_PAIR: Final = re.compile(
    r"(?<![A-Za-z])(?:password|pwd|accountkey|sharedaccesskey|secret)\s{0,2}=\s{0,2}([^;&\s'\"]{3,256}|'[^'\r\n]{3,256}')",
    re.IGNORECASE,
)
_KIND: Final = re.compile(
    r"(?<![A-Za-z])(?:server|data source|host|hostname|database|initial catalog|dbname|user id|uid|"
    r"endpoint|accountname|dsn|jdbc:\w+)\s{0,2}[=:]",
    re.IGNORECASE,
)
_WINDOW_CHARS: Final = 256
_PLACEHOLDER: Final = re.compile(
    r"(?:\$|%|\{|<|\*|x{3,}|your|example|changeme|password\Z|passwd\Z|pass\Z|pwd\Z|secret\Z|user\Z|\.\.\.)",
    re.IGNORECASE,
)


def _score(value: str) -> float:
    return WITH_CONTEXT_ONLY if _PLACEHOLDER.match(unquote(value)) else LIKELY


def _find(text: str) -> Iterator[Finding]:
    for match in _URL.finditer(text):
        yield Finding("SECRET", match.start(2), match.end(2), _score(match[2]), "connection_string")
    for match in _PAIR.finditer(text):
        around = text[max(0, match.start() - _WINDOW_CHARS) : match.end() + _WINDOW_CHARS]
        if _KIND.search(around):
            yield Finding("SECRET", match.start(1), match.end(1), _score(match[1].strip("'")), "connection_string")


def _trigger(text: str) -> bool:
    return "://" in text or "=" in text


RECOGNIZER: Final = Recognizer(
    name="connection_string",
    entities=frozenset({"SECRET"}),
    layer="pattern",
    find=_find,
    trigger=_trigger,
)
