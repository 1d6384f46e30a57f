"""ConfigStore over Redis. All keys share one hash tag: a push, its epoch and its message are one atomic step."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from proxy.stores.faults import StoreFault
from proxy.stores.link import HASH, RedisLink, Script, as_bytes, as_int, as_list, as_pairs, as_text
from proxy.stores.ports import Conflict

LOG_LIMIT: Final = 1000
CHANNEL: Final = "egress:changes"
_P: Final = "egress:{config}:"
_EPOCH: Final = _P + "epoch"
_DAMAGED: Final = {"reason": "this order is damaged in the store"}

_TOUCH: Final = "redis.call('INCR', KEYS[1]) redis.call('PUBLISH', 'egress:changes', '1') "

_APPEND: Final = Script(
    "local head = tonumber(redis.call('GET', KEYS[2]) or '0') "
    "if head ~= tonumber(ARGV[1]) then return {0, head} end "
    "redis.call('SET', KEYS[2], ARGV[2]) "
    "redis.call('LPUSH', KEYS[3], ARGV[3]) "
    "redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[4]) - 1) " + _TOUCH + "return {1, tonumber(ARGV[2])}"
)
_KILL: Final = Script(
    "if ARGV[2] == '' then redis.call('HDEL', KEYS[2], ARGV[1]) else redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) end "
    + _TOUCH
    + "return 1"
)
_REVOKE: Final = Script(
    "local now = tonumber(redis.call('TIME')[1]) "
    "redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now) "
    "redis.call('ZADD', KEYS[2], now + tonumber(ARGV[2]), ARGV[1]) " + _TOUCH + "return 1"
)
_REVOKED: Final = Script("return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. redis.call('TIME')[1], '+inf')")
_PUT_TOKEN: Final = Script(
    "local now = tonumber(redis.call('TIME')[1]) "
    "for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do redis.call('HDEL', KEYS[1], old) end "
    "redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now) "
    "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) "
    "redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[1]) return 1"
)
_TOKENS: Final = Script(
    "local found = {} "
    "for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. redis.call('TIME')[1], '+inf')) do "
    "local facts = redis.call('HGET', KEYS[1], id) "
    "if facts then found[#found + 1] = id found[#found + 1] = facts end end return found"
)


class RedisConfigStore:
    """See proxy.stores.ports.ConfigStore."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def put_revision(self, revision: str, content: bytes) -> None:
        await self._link.run("SET", f"{_P}rev:{revision}", content)

    async def get_revision(self, revision: str) -> bytes | None:
        return as_bytes(await self._link.run("GET", f"{_P}rev:{revision}"))

    async def append_manifest(self, manifest: bytes, *, seq: int, expect_seq: int) -> None:
        keys = (_EPOCH, _P + "seq", _P + "log")
        answer = as_list(await self._link.script(_APPEND, keys, (expect_seq, seq, manifest, LOG_LIMIT)))
        if len(answer) != 2:
            raise StoreFault("garbage")
        if not as_int(answer[0]):
            raise Conflict(as_int(answer[1]))

    async def head_manifest(self) -> bytes | None:
        return as_bytes(await self._link.run("LINDEX", _P + "log", 0))

    async def manifests(self, limit: int) -> Sequence[bytes]:
        if limit < 1:
            return []
        rows = as_list(await self._link.run("LRANGE", _P + "log", 0, limit - 1))
        return [row for row in map(as_bytes, rows) if row is not None]

    async def epoch(self) -> int:
        return as_int(await self._link.run("GET", _EPOCH))

    async def changes(self) -> AsyncIterator[None]:
        return await self._link.subscribe(CHANNEL)

    async def put_token(self, token_id: str, facts: Mapping[str, Any], *, ttl_s: int) -> None:
        body = json.dumps(dict(facts))
        await self._link.script(_PUT_TOKEN, (_P + "tokens", _P + "token_ends"), (token_id, body, ttl_s))

    async def tokens(self) -> Mapping[str, Mapping[str, Any]]:
        return _facts(await self._link.script(_TOKENS, (_P + "tokens", _P + "token_ends")))

    async def revoke_token(self, token_id: str, *, ttl_s: int) -> None:
        await self._link.script(_REVOKE, (_EPOCH, _P + "revoked"), (token_id, ttl_s))

    async def revoked_tokens(self) -> frozenset[str]:
        return frozenset(map(as_text, as_list(await self._link.script(_REVOKED, (_P + "revoked",)))))

    async def set_kill(self, app: str, facts: Mapping[str, Any] | None) -> None:
        body = "" if facts is None else json.dumps(dict(facts))
        await self._link.script(_KILL, (_EPOCH, _P + "kills"), (app, body))

    async def kills(self) -> Mapping[str, Mapping[str, Any]]:
        bodies = as_pairs(await self._link.script(HASH, (_P + "kills",)))
        # One damaged order must not hide the others; it stops its app, as any order without a seal does.
        return {app: facts if (facts := _object(body)) is not None else _DAMAGED for app, body in bodies.items()}


def _facts(answer: Any) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for name, body in as_pairs(answer).items():
        facts = _object(body)
        if facts is None:
            raise StoreFault("garbage")
        found[name] = facts
    return found


def _object(body: bytes) -> dict[str, Any] | None:
    """None for anything but a JSON object."""
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None
