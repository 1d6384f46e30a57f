"""Why a store did not serve: a closed list of reasons, so that status, alerts and tests can tell them apart."""

import asyncio
from typing import Final

from proxy.stores.ports import StoreUnavailable

REASONS: Final = {
    "connection": "the store cannot be reached",
    "timeout": "the store did not answer in time",
    "auth": "the store refuses our user or password",
    "loading": "the store is still loading its data",
    "readonly": "the store is a read-only replica",
    "full": "the store has no memory left",
    "disk": "the store cannot write its disk",
    "wrong_type": "a key in the store holds another kind of value",
    "cluster": "the store's cluster has moved or lost the key's slot",
    "garbage": "the store's answer is not what the protocol allows",
    "refused": "the store refused the command",
}


class StoreFault(StoreUnavailable):
    """StoreUnavailable with its `reason`, a key of REASONS. The message is ours: never the server's text."""

    def __init__(self, reason: str) -> None:
        super().__init__(REASONS[reason])
        self.reason = reason


_CODES: Final = {
    "NOAUTH": "auth",
    "WRONGPASS": "auth",
    "NOPERM": "auth",
    "LOADING": "loading",
    "READONLY": "readonly",
    "OOM": "full",
    "MISCONF": "disk",
    "NOREPLICAS": "disk",
    "WRONGTYPE": "wrong_type",
    "MOVED": "cluster",
    "ASK": "cluster",
    "CLUSTERDOWN": "cluster",
    "TRYAGAIN": "cluster",
    "CROSSSLOT": "cluster",
    "MASTERDOWN": "cluster",
}


def reason_of(error: BaseException) -> str:
    """The REASONS key for an exception that redis-py (or the socket below it) raised."""
    from redis import exceptions as redis

    if isinstance(error, (redis.TimeoutError, TimeoutError, asyncio.TimeoutError)):
        return "timeout"
    by_class: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
        (redis.BusyLoadingError, "loading"),
        ((redis.AuthenticationError, redis.AuthenticationWrongNumberOfArgsError, redis.NoPermissionError), "auth"),
        (redis.AuthorizationError, "auth"),
        (redis.ReadOnlyError, "readonly"),
        (redis.OutOfMemoryError, "full"),
        ((redis.ClusterError, redis.RedisClusterException, redis.MasterDownError, redis.TryAgainError), "cluster"),
        ((redis.MovedError, redis.AskError, redis.ClusterCrossSlotError, redis.ClusterDownError), "cluster"),
        ((redis.ConnectionError, OSError), "connection"),
        (redis.InvalidResponse, "garbage"),
    )
    for classes, reason in by_class:
        if isinstance(error, classes):
            return reason
    if isinstance(error, redis.ResponseError):
        code, _, _ = str(error).partition(" ")
        return _CODES.get(code.rstrip(":"), _code_inside(str(error)))
    return "garbage"


def _code_inside(message: str) -> str:
    """Errors that a command raised inside a script carry their code after `-` or in the middle of the text."""
    return next((reason for code, reason in _CODES.items() if f"{code} " in message), "refused")
