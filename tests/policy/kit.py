"""Small policies and requests for tests of rules."""

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from proxy.config.snapshot import Snapshot
from proxy.model import Authority, Principal, RequestHead
from proxy.policy import Facts, Ruling, Stage, rule_on
from tests.config.kit import HEAD, PLATFORM, snapshot, write

NOW_S = 1_795_000_000.0
"""2026-11-18, inside every permission of the tests."""


@lru_cache(maxsize=256)
def policy(text: str, platform: str = PLATFORM) -> Snapshot:
    """The compiled policy with the one app `a`; `text` follows the app's head unless it is a whole file."""
    with tempfile.TemporaryDirectory() as directory:
        whole = text if text.startswith("version:") else HEAD + text
        return snapshot(write(Path(directory), whole, platform=platform))


def head(url: str, method: str = "POST", headers: dict[str, str] | None = None, protocol: Any = "http1") -> RequestHead:
    """A request head with a Host field as a client would send it, unless one is given."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    host, _, port = place.partition(":")
    authority = Authority(
        "https" if scheme == "https" else "http", host, int(port or (443 if scheme == "https" else 80))
    )
    fields = {"Host": place, **(headers or {})}
    pairs = tuple((name.encode(), value.encode("latin-1")) for name, value in fields.items())
    return RequestHead(method, slash + path or "/", authority, pairs, protocol)


def ask(found: Snapshot, request: RequestHead, stage: Stage = "head", **facts: Any) -> Ruling:
    """Policy's ruling on a request of the app `a`."""
    explain = facts.pop("explain", False)
    base: dict[str, Any] = {
        "sni": request.authority.host if request.authority.scheme == "https" and stage != "connect" else None,
        "head": request if stage in ("head", "body") else None,
        "now_s": NOW_S,
        **facts,
    }
    return rule_on(
        found, Facts(stage, Principal("a", "token", "10.0.0.1"), "explicit", request.authority, **base), explain=explain
    )


def outcome(ruling: Ruling) -> str:
    """`allow ENTRY`, `deny CODE RULE` or `report CODE RULE`."""
    decision = ruling.decision
    if decision.action == "deny":
        return f"deny {decision.code} {decision.rule_id}"
    return f"report {decision.code} {decision.rule_id}" if decision.would_deny else f"allow {decision.rule_id}"
