"""Hosts that platform.yaml denies to every app, whatever its allowlist says."""

from proxy.config.snapshot import AppPolicy, HostPattern, Platform, Snapshot
from proxy.rules.base import FROM_CONNECT, Facts, Gate, Verdict

type _Table = dict[tuple[str, bool], HostPattern]

_tables: dict[int, tuple[Platform, _Table]] = {}
_MAX_TABLES = 4  # one per live snapshot; a reload replaces it


def _table(platform: Platform) -> _Table:
    cached = _tables.get(id(platform))
    if cached is not None and cached[0] is platform:
        return cached[1]
    if len(_tables) >= _MAX_TABLES:
        _tables.clear()
    table = {(pattern.host, pattern.wildcard): pattern for pattern in platform.deny}
    _tables[id(platform)] = (platform, table)
    return table


def _find(table: _Table, host: str) -> HostPattern | None:
    found = table.get((host, False))
    dot = host.find(".")
    while found is None and dot >= 0:
        found = table.get((host[dot + 1 :], True))
        dot = host.find(".", dot + 1)
    return found


def _judge(facts: Facts, app: AppPolicy, snapshot: Snapshot) -> Verdict | None:
    del app
    host = facts.authority.host
    pattern = _find(_table(snapshot.platform), host)
    if pattern is None:
        return None
    text = f"*.{pattern.host}" if pattern.wildcard else pattern.host
    return Verdict(
        "host_denied",
        f"{host} is denied to every app by `deny: {text}`",
        pattern.at,
        "No allowlist entry can override this; use another service, or ask the platform's admin.",
    )


RULE = Gate("always_denied", 30, FROM_CONNECT, _judge, "not on the platform's deny list")
