"""An operator has stopped the app, or all apps (`*`)."""

from proxy.config.snapshot import AppPolicy, Snapshot
from proxy.rules.base import FROM_CONNECT, Facts, Gate, Verdict


def _judge(facts: Facts, app: AppPolicy, snapshot: Snapshot) -> Verdict | None:
    del snapshot
    kills = facts.kills
    if not kills or (app.app not in kills and "*" not in kills):
        return None
    who, facts_of = (f"the app {app.app}", kills[app.app]) if app.app in kills else ("every app", kills["*"])
    reason = facts_of.get("reason")
    said = f": {reason}" if isinstance(reason, str) and reason else ""
    return Verdict("killed", f"an operator has stopped {who} with `egress kill`{said}")


RULE = Gate("kill_switch", 10, FROM_CONNECT, _judge, "not stopped by an operator")
