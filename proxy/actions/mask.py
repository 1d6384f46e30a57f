"""`mask`: letters and digits as `*`, but for the last four; ASCII punctuation and spaces stay, to keep the form."""

from typing import Final

from proxy.actions.base import Action, StandIn, Value

_SHOWS: Final = 4
_LEAST: Final = 8
"""Characters: of a shorter value the last four would be most of it."""


def masked(text: str) -> str:
    """`4111 1111 1111 1111` as `**** **** **** 1111`."""
    hideable = [index for index, char in enumerate(text) if char.isalnum() or not char.isascii()]
    shown = set(hideable[-_SHOWS:]) if len(hideable) >= _LEAST else set()
    hidden = set(hideable) - shown
    return "".join("*" if index in hidden or not char.isascii() else char for index, char in enumerate(text))


def _replace(value: Value) -> StandIn:
    return StandIn(masked(value.original))


ACTION: Final = Action("mask", _replace)
