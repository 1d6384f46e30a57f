"""The app's stage and its expiry, to the second."""

from datetime import UTC, datetime

from proxy.config.snapshot import AppPolicy, Snapshot
from proxy.rules.base import FROM_CONNECT, Facts, Gate, Verdict


def _judge(facts: Facts, app: AppPolicy, snapshot: Snapshot) -> Verdict | None:
    if app.expires_at_s is not None and facts.now_s >= app.expires_at_s:
        since = instant(app.expires_at_s)
        return Verdict(
            "expired",
            f"the app {app.app} expired on {since}",
            app.at,
            f"Ask the app's admin to set a later `expires:` in {app.at}.",
        )
    if app.stage in ("draft", "suspended"):
        return Verdict(
            "app_inactive",
            f"the app {app.app} is in stage {app.stage}, in which no traffic is allowed",
            app.at,
            f"Ask the app's admin to set `stage: production` (or `sandbox`) in {app.at}.",
        )
    if app.stage == "sandbox" and not any(one.matches(facts.authority.host) for one in snapshot.platform.sandbox):
        return Verdict(
            "app_inactive",
            f"the app {app.app} is in stage sandbox, and {facts.authority.host} is no sandbox destination",
            app.at,
            f"Ask the app's admin to set `stage: production` in {app.at}, or the platform's to add the host to "
            "`sandbox:` in platform.yaml.",
        )
    return None


def instant(at_s: float) -> str:
    """`2027-03-31 00:00:00 UTC`."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


RULE = Gate("lifecycle", 20, FROM_CONNECT, _judge, "the app's stage and expiry allow traffic")
