"""What an action is. A module of this package exports one `ACTION`, and is found by listing.

Keys: an action that needs one derives it from the app's placeholder key (32 bytes, itself from HKDF) under the
action's own name by HKDF-Expand (RFC 5869 section 2.3), so that no two actions and no two apps ever share a key.
"""

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from proxy.model import DlpAction

PLAIN_TEXT: Final = re.compile(r"[A-Za-z0-9(](?:[A-Za-z0-9 @.()_-]*[A-Za-z0-9])?")
"""What a restorable stand-in other than a placeholder may look like, behind a `+` or not. No JSON, URL, XML or HTML
writer escapes any of these characters, so that it is found again in an answer in one spelling only. (The plus sign
is escaped by some, and stays outside: stand-in and original both begin with it, or neither does.)"""


class Value(NamedTuple):
    """One found value. `original`: the characters that stand in the text; `meaning`: what they say, as the detector
    read them (decoded, normalised digits). `key`: 32 bytes, already derived for the app and period."""

    key: bytes
    entity: str
    original: str
    meaning: str


class StandIn(NamedTuple):
    """What goes out instead. With `restores`, an answer that repeats `text` gets `original` back in its place."""

    text: str
    restores: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do about a found value.

    `replace`: the stand-in; None when this action cannot treat the value (then it is tokenized, which treats all).
    Actions without `replace` leave the text alone (`allow`) or never send it (`block`).
    `whole_runs`: also fit for an encoded run around the value, of which the value's own characters cannot be told.
    """

    name: DlpAction
    replace: Callable[[Value], StandIn | None] | None
    whole_runs: bool = False


@lru_cache(maxsize=1024)
def subkey(key: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose: HKDF-Expand with one block (RFC 5869 section 2.3)."""
    return hmac.digest(key, b"egress action " + purpose.encode() + b"\x01", "sha256")
