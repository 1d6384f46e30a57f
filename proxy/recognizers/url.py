"""Web addresses with a scheme or `www.`. A bare `word.tld` (`self.tr`, `time.tz`) is no finding."""

import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import LIKELY, Recognizer

_URL: Final = re.compile(r"(?<![\w.])(?:(?:https?|ftps?|wss?)://|www\.)[^\s<>\"'`{}|\\^\[\]]{3,2048}", re.IGNORECASE)
_TAIL: Final = ".,;:!?)*_~"


def _find(text: str) -> Iterator[Finding]:
    for match in _URL.finditer(text):
        found = match[0].rstrip(_TAIL)
        if "." in found:
            yield Finding("URL", match.start(), match.start() + len(found), LIKELY, "url")


def _trigger(text: str) -> bool:
    return "://" in text or "www." in text or "WWW." in text


RECOGNIZER: Final = Recognizer(
    name="url",
    entities=frozenset({"URL"}),
    layer="pattern",
    find=_find,
    trigger=_trigger,
)
