"""An operator has stopped the app, or all apps (`*`)."""

from collections.abc import Mapping
from typing import Any

from proxy.config.snapshot import AppPolicy, Snapshot
from proxy.rules.base import FROM_CONNECT, Facts, Gate, Verdict


def stopped(app: str, kills: Mapping[str, Mapping[str, Any]]) -> Verdict | None:
    """Why the app may do nothing now, or None. `kills`: app (`*`: every app) -> facts."""
    if not kills or (app not in kills and "*" not in kills):
        return None
    who, facts = (f"the app {app}", kills[app]) if app in kills else ("every app", kills["*"])
    reason = facts.get("reason")
    said = f": {reason}" if isinstance(reason, str) and reason else ""
    return Verdict("killed", f"an operator has stopped {who} with `egress kill`{said}")


def _judge(facts: Facts, app: AppPolicy, snapshot: Snapshot) -> Verdict | None:
    del snapshot
    return stopped(app.app, facts.kills)


RULE = Gate("kill_switch", 10, FROM_CONNECT, _judge, "not stopped by an operator")
