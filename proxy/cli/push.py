"""`egress push`: makes the directory's policy the active one, on all machines that share the store."""

import argparse
import asyncio
import sys
from pathlib import Path

from proxy.cli import EXIT_CLEAN, EXIT_FINDINGS, EXIT_USAGE, Verb
from proxy.cli import _policy as policy
from proxy.cli._issue import open_store
from proxy.cli._out import show


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", nargs="?", type=Path, default=Path("allowlists"), help="default: ./allowlists")
    parser.add_argument("--yes", action="store_true", help="do not ask, also when the change allows more")
    policy.add_signer(parser)
    policy.add_store(parser)


def _run(args: argparse.Namespace) -> int:
    content = policy.load(args.directory, args.paths)
    if content is None:
        return EXIT_USAGE
    return asyncio.run(_push(args, content.canonical, content.revision))


async def _push(args: argparse.Namespace, canonical: bytes, revision: str) -> int:
    store = open_store(args.store, args.paths)
    try:
        head, old = await policy.head_of(store)
        if head is not None and head.revision == revision and policy.is_signed(args, head):
            show(args, {"seq": head.seq, "revision": revision, "changed": False}, f"already active as seq {head.seq}")
            return EXIT_CLEAN
        found = policy.changes(old, canonical)
        if not args.json:
            print(policy.changes_text(found))
        if any(change.widens for change in found) and not _confirmed(args):
            print("nothing was published", file=sys.stderr)
            return EXIT_FINDINGS
        manifest = await policy.publish(args, store, canonical, args.reason, head)
    finally:
        await store.aclose()
    effect = await asyncio.to_thread(policy.wait_effective, args.paths, manifest.seq)
    value = {"seq": manifest.seq, "revision": manifest.revision, "changed": True, "effect": effect}
    text = f"published seq {manifest.seq}, revision {manifest.revision[:12]}; {policy.effect_text(effect)}"
    show(args, value | {"changes": policy.change_rows(found)}, text)
    return EXIT_FINDINGS if effect and not effect["effective"] else EXIT_CLEAN


def _confirmed(args: argparse.Namespace) -> bool:
    """Asks only a person at a terminal: a pipeline has had its review."""
    if args.yes or args.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    return input("this allows more than before (+); publish? [y/N] ").strip().lower() in ("y", "yes")


VERB = Verb("push", "publish the policy files, signed", _configure, _run)
