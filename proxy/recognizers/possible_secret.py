"""Values with the form of a secret, of which ordinary text is full.

What documentation prints (`AKIA…EXAMPLE`), tokens that were cut short, key material without a name, logins with
placeholders, addresses of wallets that have no checksum. Looked for only where a policy names the entity: by who would
rather deny too much than judge whether an example is one.
"""

import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import LIKELY, SURE, WITH_CONTEXT_ONLY, Recognizer
from proxy.recognizers.crypto_wallet import RECOGNIZER as WALLETS
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
# Sixty-four hex digits are a key of Ethereum, or the name of a transaction: only the words beside them tell.
_HEX_KEY: Final = re.compile(r"(?<![A-Za-z0-9])0x[0-9a-fA-F]{64}(?![A-Za-z0-9])")
# As `connection_string` knows them, whatever stands for user and password: `user:pass@` may be true.
_LOGIN: Final = re.compile(
    r"(?<![A-Za-z0-9+])[a-z][a-z0-9+]{2,20}://[^\s:/@?#]{1,64}:[^\s/@?#]{1,128}@(?=[A-Za-z0-9\[])"
)
_MACHINE_MADE_BITS: Final = 4.2
_WHOLE: Final = re.compile(r"(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=[^0-9]*[0-9])")


def _find(text: str) -> Iterator[Finding]:
    for token in TOKENS.find(text):
        if token.score < SURE:
            yield Finding(ENTITY, token.start, token.end, SURE, _NAME)
    for match in _CUT.finditer(text):
        if any(char.isdigit() for char in match["rest"]):
            yield Finding(ENTITY, match.start(), match.end(), LIKELY, _NAME)
    for address in WALLETS.find(text):
        if address.score < SURE:
            yield Finding(ENTITY, address.start, address.end, LIKELY, _NAME)
    for match in _LOGIN.finditer(text):
        yield Finding(ENTITY, match.start(), match.end(), LIKELY, _NAME)
    for match in _HEX_KEY.finditer(text):
        yield Finding(ENTITY, match.start(), match.end(), WITH_CONTEXT_ONLY, _NAME)
    for match in _BARE.finditer(text):
        if _WHOLE.match(match[0]) and entropy_bits(match[0]) >= _MACHINE_MADE_BITS:
            yield Finding(ENTITY, match.start(), match.end(), LIKELY, _NAME)


def _trigger(text: str) -> bool:
    return len(text) >= _MIN_CHARS


_MIN_CHARS: Final = 19

RECOGNIZER: Final = Recognizer(
    name=_NAME,
    entities=frozenset({ENTITY}),
    layer="pattern",
    find=_find,
    trigger=_trigger,
    context=frozenset({"key", "private", "secret", "wallet", "signer"}),
)
