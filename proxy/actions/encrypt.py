"""`encrypt`: cards, phone and account numbers as other numbers of the same form (FF1), put back in answers.

The cipher text of a card passes Luhn and that of an IBAN mod 97, so that a model or a tool that checks them goes on.
It may by chance be somebody's number: use `synthesize` for phones that someone might call.
"""

from typing import Final

from proxy.actions.base import PLAIN_TEXT, Action, StandIn, Value, subkey
from proxy.actions.formats import compact_of, crypt, laid_out


def _replace(value: Value) -> StandIn | None:
    like = value.original if value.original.isascii() else value.meaning
    compact = compact_of(value.entity, like)
    if compact is None:
        return None
    cipher = crypt(subkey(value.key, "encrypt"), value.entity, compact)
    if cipher is None:
        return None
    text = laid_out(like.removeprefix("+"), cipher.removeprefix("+"))
    plus = "+" if like.startswith("+") else ""
    return StandIn(plus + text, restores=True) if PLAIN_TEXT.fullmatch(text) else None


ACTION: Final = Action("encrypt", _replace)
