"""`egress keys show|rotate|retire|pin`: the root secret's generations; pins of API keys. Secrets are never printed."""

import argparse
import fcntl
import getpass
import os
import sys
import time

from proxy.cli import CliError, Verb
from proxy.cli._keys import actions, day, load_ca, load_root
from proxy.cli._out import show, table
from proxy.keys.root import RootKey

_MEANING = {
    "active": "makes new keys",
    "accepted": "tokens and manifests made with it still count",
    "archived": "checks old audit records only",
}


def _configure(parser: argparse.ArgumentParser) -> None:
    action = actions(parser)
    action("show", "key ids, states and dates")
    action("rotate", "make a new root secret; the one before it stays accepted")
    retire = action("retire", "end an earlier key: its tokens and manifests count no longer")
    retire.add_argument("key_id", metavar="ID")
    action("pin", "read an API key from standard input and print its pin for `credentials.pins:`")


def _run(args: argparse.Namespace) -> int:
    return {"show": _show, "rotate": _rotate, "retire": _retire, "pin": _pin}[args.action](args)


def _print(args: argparse.Namespace, root: RootKey, headline: str = "") -> int:
    rows = [{"id": g.id, "state": g.state, "created_s": g.created_s} for g in root.generations]
    cells = [(g.id, g.state, day(g.created_s) if g.created_s else "-", _MEANING[g.state]) for g in root.generations]
    text = table(("ID", "STATE", "CREATED", "MEANING"), cells)
    show(args, rows, f"{headline}\n{text}" if headline else text)
    return 0


def _show(args: argparse.Namespace) -> int:
    return _print(args, load_root(args.paths))


class _Exclusive:
    """Two rotations at once would lose one of the secrets."""

    def __init__(self, args: argparse.Namespace) -> None:
        if args.paths.mounted_root_key is not None:
            raise CliError(
                "the root key is mounted, and is changed only where it is kept",
                str(args.paths.root_key),
                "run this verb on a copy of `root.key` and `ca/` with EGRESS_ROOT_KEY unset, then replace both",
            )
        self._path = args.paths.root_key.parent

    def __enter__(self) -> None:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _rotate(args: argparse.Namespace) -> int:
    load_root(args.paths)
    with _Exclusive(args):
        root = load_root(args.paths).rotated(time.time())
        ca = load_ca(args.paths) if args.paths.ca_dir.exists() else None
        # The file first: a crash in between leaves CA keys that the accepted generation still opens.
        root.save(args.paths.root_key)
        if ca is not None:
            ca.reencrypt(root)
    return _print(args, root, f"the root key is now {root.id}; restart the proxy, on every machine of the installation")


def _retire(args: argparse.Namespace) -> int:
    load_root(args.paths)
    with _Exclusive(args):
        try:
            root = load_root(args.paths).retired(args.key_id)
        except ValueError as error:
            raise CliError(str(error), "ID", "`egress keys show` lists the ids") from None
        root.save(args.paths.root_key)
    return _print(args, root, f"{args.key_id} is archived; restart the proxy")


def _pin(args: argparse.Namespace) -> int:
    """The pin is a keyed digest: it may stand in a policy file, and tells nobody the key."""
    from proxy.cli._digest import credential_digest

    digest = credential_digest(args.paths)
    key = getpass.getpass("API key (not shown): ") if sys.stdin.isatty() else sys.stdin.readline()
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise CliError(
            "there is no API key on standard input", "stdin", "`egress keys pin < FILE` with the key on the first line"
        )
    pin = digest(key.encode())
    show(args, {"pin": pin, "root_key_id": load_root(args.paths).id}, pin)
    return 0


VERB = Verb("keys", "show and rotate the root secret, pin API keys", _configure, _run)
