"""CacheStore over Redis. Values are opaque and MACed by the caller; keys of one app share a hash tag."""

from collections.abc import Sequence
from typing import Final

from proxy.stores.link import RedisLink, Script, as_bytes, as_int, as_list

# Each worker replicates an app's key set, 32 bytes a key: this bounds it to 640 KiB.
KEYS_PER_APP: Final = 20_000
# Values may have a megabyte: without this bound one app could take 20 GB of a store that all share.
BYTES_PER_APP: Final = 256 << 20
CHUNK_BYTES: Final = 4 << 20

# The soonest to expire go first when an app has too many or too large ones, values and all: a value may live for a
# month. All keys have the set's hash tag, so that a Cluster has them on one node. What is left of sizes without a set
# (the server evicts keys on its own) counts for nothing.
_PUT: Final = Script(
    "local now = redis.call('TIME') local now_ms = now[1] * 1000 + math.floor(now[2] / 1000) "
    "local set, sizes, total = KEYS[1], KEYS[2], '#total' "
    "local function resize(member, bytes) "
    "local had = tonumber(redis.call('HGET', sizes, member) or 0) "
    "if bytes then redis.call('HSET', sizes, member, bytes) else redis.call('HDEL', sizes, member) end "
    "redis.call('HINCRBY', sizes, total, (bytes or 0) - had) end "
    "local function drop(members) for _, old in ipairs(members) do "
    "local hex = old:gsub('.', function(c) return string.format('%02x', c:byte()) end) "
    "redis.call('UNLINK', set:sub(1, -5) .. 'v:' .. hex) redis.call('ZREM', set, old) resize(old, nil) end "
    "return #members > 0 end "
    "if redis.call('EXISTS', set) == 0 then redis.call('UNLINK', sizes) end "
    "for i = 3, #KEYS do local at = (i - 3) * 3 + 3 "
    "redis.call('SET', KEYS[i], ARGV[at + 1], 'PX', ARGV[at + 2]) resize(ARGV[at], #ARGV[at + 1]) "
    "redis.call('ZADD', set, string.format('%.0f', now_ms + ARGV[at + 2]), ARGV[at]) end "
    "drop(redis.call('ZRANGEBYSCORE', set, '-inf', string.format('%.0f', now_ms))) "
    "drop(redis.call('ZRANGE', set, 0, -1 - tonumber(ARGV[1]))) "
    "while tonumber(redis.call('HGET', sizes, total) or 0) > tonumber(ARGV[2]) "
    "and drop(redis.call('ZRANGE', set, 0, 0)) do end return 1"
)
_KEYS: Final = Script(
    "local now = redis.call('TIME') local now_ms = now[1] * 1000 + math.floor(now[2] / 1000) "
    "return redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now_ms), '+inf')"
)


class RedisCacheStore:
    """See proxy.stores.ports.CacheStore."""

    def __init__(self, link: RedisLink, *, bytes_per_app: int = BYTES_PER_APP) -> None:
        self._link = link
        self._bytes_per_app = bytes_per_app

    async def get(self, app: str, key: bytes) -> bytes | None:
        return as_bytes(await self._link.run("GET", _key(app, key)))

    async def put_many(self, items: Sequence[tuple[str, bytes, bytes, int]]) -> None:
        for app, chunk in _chunks([item for item in items if len(item[2]) <= self._bytes_per_app]):
            keys = (_set_key(app), _sizes_key(app), *(_key(app, key) for key, _, _ in chunk))
            arguments: list[bytes | int] = [KEYS_PER_APP, self._bytes_per_app]
            for key, value, ttl_s in chunk:
                arguments += [key, value, ttl_s * 1000]
            await self._link.script(_PUT, keys, arguments)

    async def keys(self, app: str) -> frozenset[bytes]:
        found = as_list(await self._link.script(_KEYS, (_set_key(app),)))
        return frozenset(key for key in map(as_bytes, found) if key is not None)

    async def drop_app(self, app: str) -> int:
        members = as_list(await self._link.run("ZRANGE", _set_key(app), 0, -1))
        keys = [_key(app, key) for key in map(as_bytes, members) if key is not None]
        dropped = 0
        for start in range(0, len(keys), 1000):
            dropped += as_int(await self._link.run("UNLINK", *keys[start : start + 1000]))
        await self._link.run("UNLINK", _set_key(app), _sizes_key(app))
        return dropped


def _tag(app: str) -> str:
    return "{c:" + app.replace("%", "%25").replace("{", "%7b").replace("}", "%7d") + "}"


def _key(app: str, key: bytes) -> str:
    return f"egress:{_tag(app)}:v:{key.hex()}"


def _set_key(app: str) -> str:
    return f"egress:{_tag(app)}:keys"


def _sizes_key(app: str) -> str:
    return f"egress:{_tag(app)}:sizes"


def _chunks(
    items: Sequence[tuple[str, bytes, bytes, int]],
) -> list[tuple[str, list[tuple[bytes, bytes, int]]]]:
    """Per app, in groups that one command carries in reasonable time. What has no time to live is left out."""
    chunks: list[tuple[str, list[tuple[bytes, bytes, int]]]] = []
    size = 0
    for app, key, value, ttl_s in sorted((item for item in items if item[3] > 0), key=lambda item: item[0]):
        if not chunks or chunks[-1][0] != app or size + len(value) > CHUNK_BYTES:
            chunks.append((app, []))
            size = 0
        chunks[-1][1].append((key, value, ttl_s))
        size += len(value)
    return chunks
