"""BudgetStore over Redis: one Lua script per operation, all keys of an app under one hash tag.

Lua numbers are doubles: exact up to 2^53 nano-dollars, nine million dollars in one app and period. Amounts travel as
decimal text because Lua prints 1e15 as `1e+15`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from proxy.stores.faults import StoreFault
from proxy.stores.link import HASH, RedisLink, Script, as_bytes, as_int, as_list, as_pairs, as_text
from proxy.stores.ports import Grant
from proxy.stores.usage_rows import counters, days, field_name, row_from

DAY_S: Final = 86_400
SPEND_TTL_S: Final = 800 * DAY_S
# A lease outlives its month by weeks, so that a worker found dead late is still settled. Its totals live longer:
# they must never run out before a lease that would then be subtracted from nothing.
LEASE_TTL_S: Final = 70 * DAY_S
LEASED_TTL_S: Final = 71 * DAY_S
DONE_TTL_S: Final = 70 * DAY_S

# A script that fails half way keeps what it did: all values are checked before the first write.
_NUMBER: Final = (
    "local function text(n) return string.format('%.0f', n) end "
    "local function whole(raw) local n = tonumber(raw) "
    "if not n or math.abs(n) > 2^53 or text(n) ~= raw then error('a value is not a whole number') end return n end "
    "local function num(key) return whole(redis.call('GET', key) or '0') end "
)
_LEASE: Final = Script(
    _NUMBER
    + "local room, day, month = tonumber(ARGV[1]), nil, nil "
    + "local day_used, month_used = num(KEYS[1]) + num(KEYS[3]), num(KEYS[2]) + num(KEYS[4]) "
    + "num(KEYS[5]) "
    + "if ARGV[3] ~= '' then day = tonumber(ARGV[3]) - day_used if day < room then room = day end end "
    + "if ARGV[4] ~= '' then month = tonumber(ARGV[4]) - month_used if month < room then room = month end end "
    + "if room < tonumber(ARGV[2]) or room < 0 then room = 0 end "
    + "if room > 0 then "
    + "for i = 3, 5 do redis.call('INCRBY', KEYS[i], text(room)) "
    + "redis.call('EXPIRE', KEYS[i], i == 5 and ARGV[6] or ARGV[5]) end end "
    + "return {text(room), day and text(day - room) or '', month and text(month - room) or ''}"
)
_SETTLE: Final = Script(
    _NUMBER
    + "if num(KEYS[1]) >= tonumber(ARGV[5]) then return 0 end "
    + "local held, spent = num(KEYS[6]), tonumber(ARGV[1]) "
    + "for i = 2, 5 do num(KEYS[i]) end "
    + "local off = math.min(held, spent + tonumber(ARGV[2])) "
    + "redis.call('SET', KEYS[1], ARGV[5], 'EX', ARGV[3]) "
    + "if spent > 0 then for i = 2, 3 do redis.call('INCRBY', KEYS[i], text(spent)) "
    + "redis.call('EXPIRE', KEYS[i], ARGV[4]) end end "
    + "if off > 0 then for i = 4, 6 do redis.call('DECRBY', KEYS[i], text(off)) end end "
    + "if off > 0 and off == held then redis.call('DEL', KEYS[6]) end "
    + "return 1"
)
_ADD_USAGE: Final = Script(
    _NUMBER + "if num(KEYS[1]) >= tonumber(ARGV[3]) then return 0 end "
    "for i = 5, #ARGV, 2 do whole(redis.call('HGET', KEYS[2], ARGV[4] .. '|' .. ARGV[i]) or '0') end "
    "redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[1]) "
    "for i = 5, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[4] .. '|' .. ARGV[i], ARGV[i + 1]) end "
    "redis.call('EXPIRE', KEYS[2], ARGV[2]) return 1"
)


def _key(app: str, *rest: str) -> str:
    tag = app.replace("%", "%25").replace("{", "%7b").replace("}", "%7d")
    return ":".join((f"egress:{{a:{tag}}}", *rest))


def check_amounts(*amounts: int) -> None:
    """Negative money would mint budget. Raises ValueError."""
    if any(amount < 0 for amount in amounts):
        raise ValueError("an amount of money is negative")


class RedisBudgetStore:
    """See proxy.stores.ports.BudgetStore."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def lease(
        self,
        app: str,
        *,
        day: str,
        month: str,
        want_usd_nanos: int,
        least_usd_nanos: int,
        day_limit: int | None,
        month_limit: int | None,
        holder: str,
    ) -> Grant:
        check_amounts(want_usd_nanos, least_usd_nanos)
        # The index is written first: it may name a lease that was never granted, it must not miss one.
        await self._link.script(_INDEX, (_holder_key(holder),), (f"{day} {month} {app}", LEASE_TTL_S))
        keys = (*_period_keys(app, day, month), _key(app, "lease", day, month, holder))
        limits = ["" if limit is None else limit for limit in (day_limit, month_limit)]
        answer = as_list(
            await self._link.script(_LEASE, keys, (want_usd_nanos, least_usd_nanos, *limits, LEASED_TTL_S, LEASE_TTL_S))
        )
        if len(answer) != 3:
            raise StoreFault("garbage")
        granted = as_int(answer[0])
        if granted != 0 and not least_usd_nanos <= granted <= want_usd_nanos:
            raise StoreFault("garbage")
        return Grant(granted, _left(answer[1]), _left(answer[2]))

    async def settle(
        self,
        app: str,
        *,
        day: str,
        month: str,
        spent_usd_nanos: int,
        returned_usd_nanos: int,
        holder: str,
        entry_id: str,
        number: int = 1,
    ) -> None:
        check_amounts(spent_usd_nanos, returned_usd_nanos)
        lease = _key(app, "lease", day, month, holder)
        keys = (_key(app, "done", entry_id), *_period_keys(app, day, month), lease)
        await self._link.script(_SETTLE, keys, (spent_usd_nanos, returned_usd_nanos, DONE_TTL_S, SPEND_TTL_S, number))

    async def spend(self, app: str, *, period: str) -> int:
        return as_int(await self._link.run("GET", _key(app, "spend", period)))

    async def leased(self, app: str, *, day: str, month: str, holder: str) -> int:
        return as_int(await self._link.run("GET", _key(app, "lease", day, month, holder)))

    async def leased_by(self, holder: str) -> Mapping[tuple[str, str, str], int]:
        members = as_list(await self._link.run("SMEMBERS", _holder_key(holder)))
        open_leases: dict[tuple[str, str, str], int] = {}
        for member in map(as_text, members):
            day, month, app = _three(member)
            held = await self.leased(app, day=day, month=month, holder=holder)
            if held > 0:
                open_leases[app, day, month] = held
        return open_leases

    async def add_usage(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            day = str(row["day"])
            keys = (f"egress:{{u:{day}}}:done:{row['id']}", f"egress:{{u:{day}}}:rows")
            counts = [part for pair in counters(row).items() for part in pair]
            await self._link.script(
                _ADD_USAGE, keys, (DONE_TTL_S, SPEND_TTL_S, row.get("number", 1), field_name(row), *counts)
            )

    async def usage(self, *, since: str, until: str, app: str | None) -> Sequence[Mapping[str, Any]]:
        rows: list[Mapping[str, Any]] = []
        for day in days(since, until):
            rows += _rows(day, as_pairs(await self._link.script(HASH, (f"egress:{{u:{day}}}:rows",))), app)
        return rows


_INDEX: Final = Script("redis.call('SADD', KEYS[1], ARGV[1]) redis.call('EXPIRE', KEYS[1], ARGV[2]) return 1")


def _holder_key(holder: str) -> str:
    return f"egress:{{h:{holder}}}:leases"


def _period_keys(app: str, day: str, month: str) -> tuple[str, str, str, str]:
    return _key(app, "spend", day), _key(app, "spend", month), _key(app, "leased", day), _key(app, "leased", month)


def _left(answer: Any) -> int | None:
    return as_int(answer) if as_bytes(answer) else None


def _three(member: str) -> tuple[str, str, str]:
    parts = member.split(" ", 2)
    if len(parts) != 3:
        raise StoreFault("garbage")
    return parts[0], parts[1], parts[2]


def _rows(day: str, fields: Mapping[str, bytes], app: str | None) -> list[Mapping[str, Any]]:
    grouped: dict[str, dict[str, int]] = {}
    for name, value in fields.items():
        label, _, counter = name.rpartition("|")
        grouped.setdefault(label, {})[counter] = as_int(value)
    try:
        rows = [row_from(day, label, counts) for label, counts in sorted(grouped.items())]
    except ValueError:
        raise StoreFault("garbage") from None
    return [row for row in rows if app is None or row["app"] == app]
