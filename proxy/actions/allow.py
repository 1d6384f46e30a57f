"""`allow`: the value leaves as it is."""

from typing import Final

from proxy.actions.base import Action

ACTION: Final = Action("allow", None, whole_runs=True)
