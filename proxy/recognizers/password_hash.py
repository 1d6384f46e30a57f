"""Stored passwords: crypt(3) strings as in a shadow file, Django's and LDAP's forms. Who holds one guesses at leisure.

Every form has a fixed alphabet and a fixed length of its digest, so that `$1$2` of a replacement text is none.
"""

import re
from collections.abc import Iterator
from typing import Final

from proxy.model import Finding
from proxy.recognizers.base import SURE, Recognizer

_B64: Final = "[./A-Za-z0-9]"
_HASH: Final = re.compile(
    rf"(?<![A-Za-z0-9$])(?:"
    rf"\$(?:1|apr1)\${_B64}{{1,8}}\${_B64}{{22}}"
    rf"|\$5\$(?:rounds=[0-9]{{4,9}}\$)?{_B64}{{1,16}}\${_B64}{{43}}"
    rf"|\$6\$(?:rounds=[0-9]{{4,9}}\$)?{_B64}{{1,16}}\${_B64}{{86}}"
    rf"|\$2[abxy]\$[0-9]{{2}}\${_B64}{{53}}"
    rf"|\$(?:y|gy)\${_B64}{{1,16}}\${_B64}{{1,86}}\${_B64}{{43}}"
    rf"|\$7\${_B64}{{12,100}}\${_B64}{{43}}"
    r"|\$argon2(?:id|i|d)\$v=[0-9]{1,3}\$m=[0-9]{1,9},t=[0-9]{1,4},p=[0-9]{1,4}\$[A-Za-z0-9+/]{11,64}\$[A-Za-z0-9+/]{22,172}"
    r"|\$pbkdf2(?:-sha(?:1|256|512))?\$[0-9]{1,9}\$[./A-Za-z0-9]{2,64}\$[./A-Za-z0-9]{27,86}"
    r"|pbkdf2_sha(?:1|256)\$[0-9]{1,9}\$[A-Za-z0-9]{2,64}\$[A-Za-z0-9+/]{27,43}="
    r"|\{(?i:s?(?:sha(?:256|512)?|md5))\}[A-Za-z0-9+/]{22,140}={0,2}"
    # Lengths are fixed, so that a full stop or slash behind a digest is the sentence's or the path's.
    r")(?![A-Za-z0-9])"
)
# RFC 2307 section 5.3: the scheme's name in any case.
_LDAP: Final = re.compile(r"\{s?(?:sha|md5)", re.IGNORECASE)


def _find(text: str) -> Iterator[Finding]:
    for match in _HASH.finditer(text):
        if len(set(match[0][-22:])) > 4:
            yield Finding("SECRET", match.start(), match.end(), SURE, "password_hash")


def _trigger(text: str) -> bool:
    return "$" in text or _LDAP.search(text) is not None


RECOGNIZER: Final = Recognizer(
    name="password_hash",
    entities=frozenset({"SECRET"}),
    layer="pattern",
    find=_find,
    trigger=_trigger,
)
