"""Issues tokens for verbs: signed here with the root key, put on record in the store."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.cli import CliError
from proxy.cli._keys import load_root
from proxy.keys import tokens
from proxy.paths import Paths
from proxy.stores.ports import StoreUnavailable

if TYPE_CHECKING:
    from proxy.stores.open import Store


@dataclass(frozen=True, slots=True)
class Issued:
    """A fresh token. `recorded`: the store knows it, so that `egress token list` shows it."""

    token: str = field(repr=False)
    id: str
    app: str
    expires_at_s: int
    recorded: bool


def open_store(url: str | None, paths: Paths) -> "Store":
    """The store of a verb. Raises CliError for a URL that no store understands."""
    from proxy.stores.open import open_store as open_url

    try:
        return open_url(url, paths)
    except ValueError as error:
        raise CliError(str(error), "--store", "give a redis://, rediss:// or unix:// URL") from None


async def issue(
    paths: Paths, store_url: str | None, app: str, ttl_s: int, note: str, *, must_record: bool, patience_s: float = 2.0
) -> Issued:
    """Raises CliError; StoreUnavailable only with `must_record`: a token is good by its signature alone, and a running
    program must get its next one also while the store is away (its id can still be revoked)."""
    root = load_root(paths)
    now_s = time.time()
    try:
        token, token_id = tokens.issue(root, app, ttl_s, now_s)
    except ValueError as error:
        raise CliError(str(error), "--ttl" if "seconds" in str(error) else "--app", "try `--ttl 1h`") from None
    expires_at_s = int(now_s) + ttl_s
    facts = {"app": app, "issued_at_s": int(now_s), "expires_at_s": expires_at_s, "note": note[:200]}
    recorded = True
    store = open_store(store_url, paths)
    try:
        async with asyncio.timeout(None if must_record else patience_s):
            await store.config.put_token(token_id, facts, ttl_s=ttl_s)
    except (StoreUnavailable, TimeoutError):
        if must_record:
            raise
        recorded = False
    finally:
        await store.aclose()
    return Issued(token, token_id, app, expires_at_s, recorded)
