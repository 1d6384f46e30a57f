"""`egress token issue|list|revoke`: proxy tokens, by which apps without a network of their own are known."""

import argparse
import asyncio
import time
from collections.abc import Mapping
from typing import Any

from proxy.cli import CliError, Verb
from proxy.cli._issue import issue, open_store
from proxy.cli._keys import actions, day, load_root, parse_duration
from proxy.cli._out import show, table
from proxy.keys import tokens
from proxy.stores.ports import StoreUnavailable


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="URL", help="store of a shared installation (default: the embedded one)")
    action = actions(parser)
    new = action("issue", "print a new token")
    new.add_argument("--app", required=True)
    new.add_argument("--ttl", default="1h", help="lifetime, up to 7d (default: 1h)")
    new.add_argument("--note", default="", help="who it is for; shown by `list`")
    listing = action("list", "tokens that have not expired")
    listing.add_argument("--app")
    revoke = action("revoke", "make a token worthless within a second")
    revoke.add_argument("token_id", metavar="ID", help="the id that `issue` and `list` show (or the token itself)")


def _run(args: argparse.Namespace) -> int:
    return asyncio.run({"issue": _issue, "list": _list, "revoke": _revoke}[args.action](args))


async def _issue(args: argparse.Namespace) -> int:
    made = await issue(args.paths, args.store, args.app, parse_duration(args.ttl), args.note, must_record=True)
    value = {"token": made.token, "id": made.id, "app": made.app, "expires_at_s": made.expires_at_s}
    # The token alone on standard output, so that $(egress token issue …) works.
    show(args, value, made.token)
    return 0


async def _list(args: argparse.Namespace) -> int:
    store = open_store(args.store, args.paths)
    try:
        known, revoked = await store.config.tokens(), await store.config.revoked_tokens()
    finally:
        await store.aclose()
    rows = sorted(_rows(known, revoked, args.app, time.time()), key=lambda row: (row["app"], row["expires_at_s"]))
    cells = [(row["id"], row["app"], day(row["expires_at_s"]), row["state"], row["note"]) for row in rows]
    show(args, rows, table(("ID", "APP", "EXPIRES", "STATE", "NOTE"), cells) if rows else "no tokens")
    return 0


def _rows(
    known: Mapping[str, Mapping[str, Any]], revoked: frozenset[str], app: str | None, now_s: float
) -> list[dict[str, Any]]:
    rows = []
    for token_id, facts in known.items():
        expires_at_s = float(facts.get("expires_at_s", 0))
        if expires_at_s > now_s and app in (None, facts.get("app")):
            state = "revoked" if token_id in revoked else "valid"
            note = str(facts.get("note", ""))
            name = str(facts.get("app", ""))
            rows.append({"id": token_id, "app": name, "expires_at_s": expires_at_s, "state": state, "note": note})
    return rows


async def _revoke(args: argparse.Namespace) -> int:
    token_id = args.token_id
    if token_id.startswith("egp1."):
        try:
            token_id = tokens.verify(load_root(args.paths), token_id, time.time()).id
        except ValueError as error:
            raise CliError(f"{error}; nothing to revoke", "ID", "`egress token list` shows the ids") from None
    store = open_store(args.store, args.paths)
    try:
        known = await store.config.tokens()
        # Long enough to outlive any token, also one that was issued while the store was away.
        await store.config.revoke_token(token_id, ttl_s=tokens.MAX_TTL_S)
    except StoreUnavailable as error:
        raise CliError(
            f"the store does not answer: {error}",
            "store",
            "start the proxy, or stop the app at once: `egress kill APP`",
        ) from None
    finally:
        await store.aclose()
    unknown = "" if token_id in known else " (no such token is on record; its id is refused all the same)"
    show(args, {"id": token_id, "revoked": True, "known": token_id in known}, f"revoked {token_id}{unknown}")
    return 0


VERB = Verb("token", "issue, list and revoke proxy tokens", _configure, _run)
