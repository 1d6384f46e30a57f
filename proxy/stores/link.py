"""One connection pool to Redis or Valkey (single, Sentinel or Cluster), with short deadlines and typed faults.

URLs: `redis://`, `rediss://`, `unix://` as redis-py reads them; `redis+sentinel://[user:pass@]host:port,…/service[/db]`
(`rediss+sentinel` for TLS); `redis+cluster://[user:pass@]host:port,…` (`rediss+cluster`).
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from proxy.stores.faults import StoreFault, reason_of

CONNECT_S: Final = 1.0
OPERATION_S: Final = 0.5
SCHEMES: Final = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, run atomically. All keys of one run carry the same hash tag, so that a Cluster takes it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False)  # the name that EVALSHA defines
        object.__setattr__(self, "sha", digest.hexdigest())


# redis-py makes a dict of a bare HGETALL and drops what has no partner: half an answer would look like an empty one.
HASH: Final = Script("return redis.call('HGETALL', KEYS[1])")


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed store URL. `nodes` and `service` are for Sentinel and Cluster; `url` for everything else."""

    kind: str
    url: str
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: bool = False


def parse_url(url: str) -> Target:
    """Raises ValueError that names what is wrong and never repeats the URL, which may hold a password."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"store URL has scheme {parts.scheme!r}; use one of {', '.join(SCHEMES)}")
    base, _, kind = parts.scheme.partition("+")
    if not kind:
        return Target("single", url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    service, _, db = parts.path.strip("/").partition("/")
    if kind == "sentinel" and not service:
        raise ValueError("a Sentinel URL names its service: redis+sentinel://host:26379,host:26379/SERVICE")
    if not db.isdigit() and db:
        raise ValueError("the database in the store URL is not a number")
    return Target(
        kind,
        url="",
        nodes=tuple(_node(text, 26379 if kind == "sentinel" else 6379) for text in hosts.split(",")),
        service=service,
        db=int(db or 0),
        username=unquote(username) or None,
        password=unquote(password) or None,
        tls=base == "rediss",
    )


def _node(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default_port)
    if not host or not port.isdigit():
        raise ValueError("a node in the store URL is not host:port")
    return host.strip("[]"), int(port)


class RedisLink:
    """Runs commands and scripts. Every failure whatsoever is a StoreFault; nothing waits beyond its deadline.

    Nothing is retried here: an operation that timed out may have been done, and only its caller knows what repeating
    it would mean.
    """

    def __init__(self, url: str, *, connect_s: float = CONNECT_S, operation_s: float = OPERATION_S) -> None:
        self._target = parse_url(url)
        self._connect_s = connect_s
        self._operation_s = operation_s
        self._client: Any = None

    async def run(self, *command: bytes | str | int | float) -> Any:
        """One command; the raw answer (bytes, int, list, None)."""
        return await self._guard(lambda client: client.execute_command(*command))

    async def script(self, script: Script, keys: Sequence[str], arguments: Sequence[bytes | str | int] = ()) -> Any:
        """Runs `script` by its digest, sending its text only when the server does not know it yet."""

        async def evaluate(client: Any) -> Any:
            from redis.exceptions import NoScriptError

            try:
                return await client.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
            except NoScriptError:
                return await client.execute_command("EVAL", script.text, len(keys), *keys, *arguments)

        return await self._guard(evaluate)

    async def subscribe(self, channel: str) -> AsyncIterator[None]:
        """Subscribed when this returns; yields per message; ends when the connection is lost."""
        pubsub = None
        try:
            await self._connected()  # as in _guard
            async with asyncio.timeout(self._connect_s + self._operation_s):
                pubsub = await self._pubsub()
                await pubsub.subscribe(channel)
                await pubsub.get_message(timeout=self._operation_s)
        except asyncio.CancelledError:
            await _close(pubsub)
            raise
        except Exception as error:  # noqa: BLE001 - as in _guard
            await _close(pubsub)
            raise StoreFault(reason_of(error)) from None
        return self._messages(pubsub)

    async def aclose(self) -> None:
        client, self._client = self._client, None
        await _close(client)

    async def _guard(self, operation: Any) -> Any:
        try:
            # Before the clock runs: on a cold disk the import of redis alone takes longer than any operation may.
            client = await self._connected()
            async with asyncio.timeout(self._connect_s + self._operation_s):
                return await operation(client)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a lying server makes redis-py raise nearly anything
            raise StoreFault(reason_of(error)) from None

    async def _connected(self) -> Any:
        if self._client is None:
            self._client = self._build()
        return self._client

    def _build(self) -> Any:
        import redis.asyncio as redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        options: dict[str, Any] = {
            "socket_connect_timeout": self._connect_s,
            "socket_timeout": self._operation_s,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,
        }
        target = self._target
        if target.kind == "single":
            return redis.Redis.from_url(target.url, **options)
        if target.tls:
            options["ssl"] = True
        login: dict[str, Any] = {"username": target.username, "password": target.password}
        if target.kind == "sentinel":
            sentinel_class: Any = redis.Sentinel
            sentinels = sentinel_class(
                list(target.nodes), sentinel_kwargs=dict(options), db=target.db, **login, **options
            )
            return sentinels.master_for(target.service)
        nodes = [redis.cluster.ClusterNode(host, port) for host, port in target.nodes]
        return redis.RedisCluster(startup_nodes=nodes, **login, **options)

    async def _pubsub(self) -> Any:
        client = await self._connected()
        if self._target.kind == "cluster":
            await client.initialize()
        return client.pubsub()

    async def _messages(self, pubsub: Any) -> AsyncIterator[None]:
        try:
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
                if message is not None:
                    yield None
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - a lost or lying connection is simply the end of the changes
            return
        finally:
            await _close(pubsub)


async def _close(resource: Any) -> None:
    """Closing never fails: what it would have released is gone already."""
    if resource is None:
        return
    try:
        async with asyncio.timeout(OPERATION_S):
            await resource.aclose()
    except asyncio.CancelledError:
        raise
    except Exception:  # noqa: BLE001
        return


def as_bytes(value: Any) -> bytes | None:
    """`value` when it is a string answer or nothing; StoreFault otherwise: the store lies."""
    if value is None or isinstance(value, bytes):
        return value
    raise StoreFault("garbage")


def as_int(value: Any) -> int:
    """An integer answer, or the decimal text of one; nothing counts as 0."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = as_bytes(value)
    try:
        return int(text or b"0")
    except ValueError:
        raise StoreFault("garbage") from None


def as_list(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (set, frozenset)):
        return list(value)
    raise StoreFault("garbage")


def as_text(value: Any) -> str:
    raw = as_bytes(value)
    if raw is None:
        raise StoreFault("garbage")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise StoreFault("garbage") from None


def as_pairs(value: Any) -> dict[str, bytes]:
    """A hash that HASH returned: a flat list of names and values."""
    flat = as_list(value)
    if len(flat) % 2:
        raise StoreFault("garbage")
    pairs: dict[str, bytes] = {}
    for name, content in zip(flat[::2], flat[1::2], strict=True):
        body = as_bytes(content)
        if body is None:
            raise StoreFault("garbage")
        pairs[as_text(name)] = body
    return pairs
