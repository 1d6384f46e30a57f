"""Values with the form of a secret, of which ordinary text is full.

What documentation prints (`AKIA…EXAMPLE`), tokens that were cut short, and key material without a name. Looked for only
where a policy names the entity: by who would rather deny too much than judge whether an example is one.
"""

import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import LIKELY, SURE, Recognizer
from proxy.recognizers.secret_keyword import entropy_bits
from proxy.recognizers.secret_token import RECOGNIZER as TOKENS

ENTITY: Final = "POSSIBLE_SECRET"
_NAME: Final = "possible_secret"
# Prefixes that occur nowhere but in tokens; what follows is shorter than the whole token would be.
_CUT: Final = re.compile(
    r"(?<![A-Za-z0-9_\-])(?:gh[pousr]_|github_pat_|glpat-|npm_|hf_|dop_v1_|sk-ant-|sk-proj-|sk_live_|rk_live_|xox[abeprs]-|"
    r"AIza|SG\.)(?P<rest>[A-Za-z0-9_\-]{16,250})"
)
# An AWS secret access key has 40 characters and no mark; a few characters of what stood around it may touch it.
_BARE: Final = re.compile(r"(?<![A-Za-z0-9+/=_\-])[A-Za-z0-9+/]{40,44}(?![A-Za-z0-9+/=_\-])")
_MACHINE_MADE_BITS: Final = 4.2
_WHOLE: Final = re.compile(r"(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=[^0-9]*[0-9])")


def _find(text: str) -> Iterator[Finding]:
    for token in TOKENS.find(text):
        if token.score < SURE:
            yield Finding(ENTITY, token.start, token.end, SURE, _NAME)
    for match in _CUT.finditer(text):
        if any(char.isdigit() for char in match["rest"]):
            yield Finding(ENTITY, match.start(), match.end(), LIKELY, _NAME)
    for match in _BARE.finditer(text):
        if _WHOLE.match(match[0]) and entropy_bits(match[0]) >= _MACHINE_MADE_BITS:
            yield Finding(ENTITY, match.start(), match.end(), LIKELY, _NAME)


def _trigger(text: str) -> bool:
    return len(text) >= _MIN_CHARS


_MIN_CHARS: Final = 19

RECOGNIZER: Final = Recognizer(name=_NAME, entities=frozenset({ENTITY}), layer="pattern", find=_find, trigger=_trigger)
