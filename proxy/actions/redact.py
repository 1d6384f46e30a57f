"""`redact`: the entity's name in place of the value. Nothing of the value is left, not even whether two are equal."""

from typing import Final

from proxy.actions.base import Action, StandIn, Value


def _replace(value: Value) -> StandIn:
    return StandIn(f"<{value.entity}>")


ACTION: Final = Action("redact", _replace, whole_runs=True)
