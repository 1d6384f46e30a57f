"""`egress rollback`: an earlier policy under a new number."""

import argparse
import asyncio

from proxy.cli import EXIT_CLEAN, EXIT_FINDINGS, CliError, Verb
from proxy.cli import _policy as policy
from proxy.cli._issue import open_store
from proxy.cli._out import show
from proxy.config.manifest import Manifest
from proxy.stores.open import Store

_LOG_LIMIT = 1000


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("seq", nargs="?", type=int, metavar="SEQ", help="default: what was active before")
    policy.add_signer(parser)
    policy.add_store(parser)


def _run(args: argparse.Namespace) -> int:
    return asyncio.run(_rollback(args))


async def _rollback(args: argparse.Namespace) -> int:
    store = open_store(args.store, args.paths)
    try:
        log = policy.parsed_log(await store.config.manifests(_LOG_LIMIT))
        target = _target(log, args.seq)
        content = await _content(store, target)
        reason = f"rollback to seq {target.seq}" + (f": {args.reason}" if args.reason else "")
        head, _ = await policy.head_of(store)
        manifest = await policy.publish(args, store, content, reason, head)
    finally:
        await store.aclose()
    effect = await asyncio.to_thread(policy.wait_effective, args.paths, manifest.seq)
    text = (
        f"seq {manifest.seq} is the policy of seq {target.seq} (revision {target.revision[:12]}, by {target.author}); "
        f"{policy.effect_text(effect)}"
    )
    value = {"seq": manifest.seq, "revision": manifest.revision, "restored_seq": target.seq, "effect": effect}
    show(args, value, text)
    return EXIT_FINDINGS if effect and not effect["effective"] else EXIT_CLEAN


def _target(log: list[Manifest], seq: int | None) -> Manifest:
    """The manifest with `seq`, else the newest whose content differs from the active one. CliError."""
    if not log:
        raise CliError("nothing has been published yet", "store", "publish with `egress push`")
    if seq is None:
        found = next((manifest for manifest in log if manifest.revision != log[0].revision), None)
        if found is None:
            raise CliError(
                "there is no earlier policy to go back to", "store", "publish another one with `egress push`"
            )
        return found
    found = next((manifest for manifest in log if manifest.seq == seq), None)
    if found is None:
        raise CliError(f"there is no seq {seq}", "SEQ", f"the store knows {log[-1].seq} to {log[0].seq}")
    return found


async def _content(store: Store, target: Manifest) -> bytes:
    content = await store.config.get_revision(target.revision)
    if content is None:
        raise CliError(f"the store has lost the content of seq {target.seq}", "store", "push it from its files instead")
    return content


VERB = Verb("rollback", "publish an earlier policy again", _configure, _run)
