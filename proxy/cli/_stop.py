"""What `kill` and `unkill` share: on this machine at once, with or without a running proxy, with or without a store."""

import argparse
import asyncio
import time
from collections.abc import Mapping
from typing import Any

from proxy.cli import CliError
from proxy.cli._admin import ask, running
from proxy.cli._issue import open_store
from proxy.cli._keys import load_root
from proxy.cli._policy import add_store
from proxy.paths import Paths
from proxy.stores.orders import Sealer
from proxy.stores.ports import StoreUnavailable
from proxy.stores.publish import this_user
from proxy.stores.stops import StopsFile, deliver

ALL_APPS = "*"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("app", nargs="?", metavar="APP")
    parser.add_argument("--all", action="store_true", help="every app")
    add_store(parser)


def app_of(args: argparse.Namespace) -> str:
    """The app named, or `*`. CliError unless it is exactly one of the two."""
    if bool(args.app) == args.all:
        raise CliError("name one app, or --all", f"egress {args.verb_name}", f"`egress {args.verb_name} APP`")
    return ALL_APPS if args.all else str(args.app)


def order(args: argparse.Namespace, app: str, reason: str | None) -> dict[str, Any]:
    """Stops `app` for `reason`, or lifts the stop (None). Returns `workers` (of this machine) and `store`: told or
    not (it will be, as soon as it answers). CliError when a running proxy refuses, and for a lift without the root key:
    it has to be sealed."""
    by = this_user()
    sealer = _sealer(args.paths, needed=reason is None)
    if running(args.paths):
        answer = ask(args.paths, "unkill" if reason is None else "kill", app=app, reason=reason or "", by=by)
        workers = int(answer.get("workers", 0))
    else:
        facts = None if reason is None else {"reason": reason, "by": by, "time_s": time.time()}
        StopsFile(args.paths.last_good).order(app, facts)
        workers = 0
    return {"app": app, "workers": workers, "store": asyncio.run(_tell(args, sealer))}


async def _tell(args: argparse.Namespace, sealer: Sealer | None) -> bool:
    store = open_store(args.store, args.paths)
    try:
        await deliver(StopsFile(args.paths.last_good), store.config, sealer, time.time())
    except StoreUnavailable:
        return False
    finally:
        await store.aclose()
    return True


def _sealer(paths: Paths, *, needed: bool) -> Sealer | None:
    """None without the installation's root key: a stop is obeyed without its seal. Raises CliError when `needed`."""
    from proxy.keys.root import MANIFEST

    try:
        root = load_root(paths)
    except CliError:
        if needed:
            raise
        return None
    return Sealer(root.derive(MANIFEST), root.older_manifest_seeds())


def text(outcome: Mapping[str, Any], done: str) -> str:
    app = "all apps" if outcome["app"] == ALL_APPS else outcome["app"]
    here = f"on {outcome['workers']} workers of this machine" if outcome["workers"] else "on this machine"
    rest = "the store knows" if outcome["store"] else "the store does not answer; it is told as soon as it does"
    return f"{app} {done} {here}; {rest}"
