"""Doubts about a model's hits: names that touch source code, hold digits, or are a lone shouted word.

spaCy's small model gives no probabilities and was trained on news, so on code, logs and package lists most of its hits
are wrong. These rules look at one finding and the characters around it.
"""

import re
from typing import Final, Literal

from proxy.model import Finding

_CODE_BEFORE: Final = re.compile(r"(?:[_\\/=<>@#$%{}\[\]|`~^*&+]|[\w)\]]\.|::|->|\w\(|\w:|\")\Z")
_CODE_AFTER: Final = re.compile(r"[_\\/=<>@#$%{}\[\]|`~^*+]|\.[\w(]|\(|::|->|:\w|\"")
_CODE_INSIDE: Final = re.compile(r"[_\\/=<>@#$%{}\[\]|`~^*+\"()]|::|->|\.[a-z]|[a-z][A-Z][a-z]*[A-Z]|--")
_LETTERS: Final = re.compile(r"[^\W\d_]+")


def plausible(text: str, finding: Finding, doubt: Literal["none", "usual", "hard"]) -> bool:
    """Whether a person or place found by a model is worth reporting under this much doubt."""
    if doubt == "none" or finding.entity not in {"PERSON", "LOCATION"}:
        return True
    value = text[finding.start : finding.end]
    words = _LETTERS.findall(value)
    if not words or max(map(len, words)) < 2 or _touches_code(text, finding, value):
        return False
    if finding.entity == "PERSON" and any(char.isdigit() for char in value):
        return False
    if not any(word[0].isupper() for word in words):
        return doubt != "hard" and finding.entity == "LOCATION"
    return doubt != "hard" or (len(words) > 1 and not all(word.isupper() for word in words))


def _touches_code(text: str, finding: Finding, value: str) -> bool:
    before = text[max(0, finding.start - 2) : finding.start]
    after = text[finding.end : finding.end + 2]
    return bool(_CODE_BEFORE.search(before) or _CODE_AFTER.match(after) or _CODE_INSIDE.search(value))
