"""`tokenize`: a placeholder, the same for the same value within app and period, put back in answers."""

from typing import Final

from proxy.actions.base import Action, StandIn, Value
from proxy.placeholders import placeholder


def _replace(value: Value) -> StandIn:
    return StandIn(placeholder(value.key, value.entity, value.meaning), restores=True)


ACTION: Final = Action("tokenize", _replace)
