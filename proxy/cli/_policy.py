"""What `push`, `diff` and `rollback` share: the content of directory and store, who signs, the way to effective."""

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxy.cli import EXIT_FINDINGS, CliError
from proxy.cli._admin import ask, running
from proxy.config.manifest import Manifest, ManifestRefused, Signer, parse
from proxy.paths import Paths
from proxy.stores.ports import Conflict

if TYPE_CHECKING:
    from proxy.config.compile import Content
    from proxy.config.diff import Change
    from proxy.stores.open import Store

EFFECTIVE_S: Final = 5.0
_POLL_S: Final = 0.05


def add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="URL", help="store of a shared installation (default: the embedded one)")


def add_signer(parser: argparse.ArgumentParser) -> None:
    """Options that say who publishes and why."""
    parser.add_argument("--reason", default="", help="why; stands in the manifest and in `egress status`")
    parser.add_argument("--author", metavar="NAME", help="who (default: this user)")
    parser.add_argument(
        "--key", metavar="FILE", type=Path, help="a publisher's Ed25519 private key (PEM, or base64 seed)"
    )
    parser.add_argument("--key-id", metavar="NAME", default="", help="the publisher's name under `publishers:`")


def load(directory: Path, paths: Paths, *, preview: bool = False) -> "Content | None":
    """The directory's content, or None after all its mistakes were printed. `preview`: to be looked at only; what is
    made at the first start may be missing, which is printed too."""
    from proxy.config.compile import load_content
    from proxy.config.errors import ConfigErrors

    if not directory.is_dir():
        raise CliError("there is no such directory", str(directory), "name the directory that holds platform.yaml")
    try:
        content = load_content(directory, paths.state_dir, preview=preview)
    except ConfigErrors as errors:
        print(errors, file=sys.stderr)
        return None
    warn(content, directory)
    return content


def warn(content: "Content", directory: Path) -> None:
    """Prints what a preview goes on without."""
    for one in content.warnings:
        print(replace(one, file=str(directory / one.file)).told("warning"), file=sys.stderr)


async def head_of(store: "Store") -> tuple[Manifest | None, bytes | None]:
    """The store's newest manifest and its content; nothing, with a warning, when what stands there is no manifest."""
    raw = await store.config.head_manifest()
    try:
        manifest = parse(raw) if raw is not None else None
    except ManifestRefused as refused:
        print(f"warning: the store's policy log is damaged ({refused}); who else writes to it?", file=sys.stderr)
        return None, None
    return manifest, await store.config.get_revision(manifest.revision) if manifest else None


def parsed_log(log: "Sequence[bytes]") -> list[Manifest]:
    """Newest first; what is no manifest is left out."""
    found = []
    for raw in log:
        with contextlib.suppress(ManifestRefused):
            found.append(parse(raw))
    return found


def signer_of(args: argparse.Namespace) -> Signer:
    """The key named by `--key`, else the installation's own."""
    if args.key is None:
        from proxy.cli._keys import load_root
        from proxy.keys.root import MANIFEST

        return Signer(load_root(args.paths).derive(MANIFEST))
    if not args.key_id:
        raise CliError("--key needs the publisher's name", "--key-id", "give the name that stands under `publishers:`")
    return Signer(_seed(args.key), args.key_id)


def is_signed(args: argparse.Namespace, head: Manifest) -> bool:
    """False when `head` names our key and is not signed with it: the root key was rotated since, or somebody forged
    it. Whether another publisher's signature is good, the workers know."""
    from proxy.config.manifest import verify

    signer = signer_of(args)
    if head.key_id != signer.key_id:
        return True
    try:
        verify(head, {signer.key_id: signer.public_key()})
    except ManifestRefused:
        return False
    return True


def _seed(path: Path) -> bytes:
    import base64
    import binascii

    raw = path.read_bytes()
    try:
        if b"PRIVATE KEY" in raw:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
            from cryptography.hazmat.primitives.serialization import load_pem_private_key

            key = load_pem_private_key(raw, None)
            seed = key.private_bytes_raw() if isinstance(key, Ed25519PrivateKey) else b""
        else:
            seed = base64.b64decode(raw.strip(), validate=True)
    except (ValueError, TypeError, binascii.Error):
        seed = b""
    if len(seed) != 32:
        raise CliError(
            "not an Ed25519 private key without password", str(path), "make one: `openssl genpkey -algorithm ed25519`"
        )
    return seed


async def publish(
    args: argparse.Namespace, store: "Store", content: bytes, reason: str, head: Manifest | None
) -> Manifest:
    """Publishes `content` as the successor of `head`, which is what the caller has shown to the user. CliError when
    somebody else was faster."""
    from proxy.stores.publish import publish as publish_to
    from proxy.stores.publish import this_user

    signer = signer_of(args)
    try:
        return await publish_to(
            store.config,
            content,
            author=args.author or this_user(),
            reason=reason,
            signer=signer,
            now_s=time.time(),
            floor=_floor(args.paths),
            expect_seq=head.seq if head else None,
        )
    except ManifestRefused as refused:
        raise CliError(
            f"the store's policy log is damaged: {refused}", "store", "push from a machine that runs the proxy"
        ) from None
    except Conflict as conflict:
        raise CliError(
            f"somebody else has published seq {conflict.head_seq} meanwhile",
            "store",
            "look at `egress diff`, then publish again",
            exit_code=EXIT_FINDINGS,
        ) from None


def _floor(paths: Paths) -> Any:
    """What this machine accepted last, so that numbering goes on when the store has lost its log."""
    if not paths.root_key.exists():
        return None
    from proxy.cli._keys import load_root
    from proxy.keys.root import MANIFEST
    from proxy.stores.last_good import LastGood

    root = load_root(paths)
    return LastGood(paths.last_good, root.derive(MANIFEST), root.older_manifest_seeds()).accepted()


def wait_effective(paths: Paths, seq: int) -> dict[str, Any] | None:
    """Waits until every serving worker of this machine reports `seq`. None when no proxy runs here; else `effective`
    (bool), `workers` and `refused` (what a worker has against the revision)."""
    if not running(paths):
        return None
    ask(paths, "reload")
    deadline_s = time.monotonic() + EFFECTIVE_S
    while True:
        rows = [row for row in ask(paths, "workers")["workers"] if row.get("state") != "draining"]
        refused = next((row["refused"] for row in rows if (row.get("refused") or {}).get("seq") == seq), None)
        effective = bool(rows) and all(int(row.get("seq") or 0) >= seq for row in rows)
        if effective or refused or time.monotonic() > deadline_s:
            return {"effective": effective, "workers": len(rows), "refused": refused}
        time.sleep(_POLL_S)


def effect_text(effect: dict[str, Any] | None) -> str:
    if effect is None:
        return "no proxy runs on this machine; running ones take it within a second"
    if effect["effective"]:
        return f"effective on all {effect['workers']} workers of this machine"
    if effect["refused"]:
        return f"REFUSED by the workers: {effect['refused']['detail']}"
    return "not yet effective on all workers; `egress status` shows why"


def changes(old: bytes | None, new: bytes) -> "list[Change]":
    from proxy.config.diff import diff_contents
    from proxy.config.errors import ConfigErrors

    try:
        return diff_contents(old, new)
    except ConfigErrors:
        if old is None:
            raise
        # A newer version's revision, or a damaged one: it must not keep anybody from publishing a good one.
        print("warning: the store's active revision cannot be read; everything counts as new", file=sys.stderr)
        return diff_contents(None, new)


def change_rows(found: "Sequence[Change]") -> list[dict[str, Any]]:
    names = ("app", "path", "before", "after", "widens", "at")
    return [{name: getattr(change, name) for name in names} for change in found]


def changes_text(found: "Sequence[Change]") -> str:
    """One line per change; `+` marks what allows more."""
    if not found:
        return "no change"
    widening = sum(change.widens for change in found)
    count = "1 change" if len(found) == 1 else f"{len(found)} changes"
    return "\n".join([*map(str, found), f"{count}; {widening or 'none'} allow{'s' * (widening == 1)} more (+)"])
