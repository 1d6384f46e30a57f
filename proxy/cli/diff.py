"""`egress diff`: what a push of the directory would change."""

import argparse
import asyncio
from pathlib import Path

from proxy.cli import EXIT_CLEAN, EXIT_FINDINGS, EXIT_USAGE, Verb
from proxy.cli import _policy as policy
from proxy.cli._issue import open_store
from proxy.cli._out import show


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", nargs="?", type=Path, default=Path("allowlists"), help="default: ./allowlists")
    policy.add_store(parser)


def _run(args: argparse.Namespace) -> int:
    content = policy.load(args.directory, args.paths, preview=True)
    if content is None:
        return EXIT_USAGE
    return asyncio.run(_diff(args, content.canonical, content.revision))


async def _diff(args: argparse.Namespace, canonical: bytes, revision: str) -> int:
    store = open_store(args.store, args.paths)
    try:
        head, old = await policy.head_of(store)
    finally:
        await store.aclose()
    found = policy.changes(old, canonical) if head is None or head.revision != revision else []
    value = {
        "active": {"seq": head.seq, "revision": head.revision} if head else None,
        "revision": revision,
        "changes": policy.change_rows(found),
    }
    show(args, value, policy.changes_text(found))
    return EXIT_FINDINGS if found else EXIT_CLEAN


VERB = Verb("diff", "show what a push would change, and what would allow more", _configure, _run)
