"""`block`: the message does not leave at all."""

from typing import Final

from proxy.actions.base import Action

ACTION: Final = Action("block", None, whole_runs=True)
