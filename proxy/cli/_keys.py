"""What the verbs about keys and records share: loading keys with errors a person can act on, actions, durations."""

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.cli import CliError, _common_options
from proxy.keys.files import KeyProblem
from proxy.keys.root import RootKey
from proxy.paths import Paths

if TYPE_CHECKING:
    from proxy.keys.ca import CertificateAuthority


def actions(parser: argparse.ArgumentParser) -> Callable[[str, str], argparse.ArgumentParser]:
    """Gives a verb actions (`egress ca show`); the common options may stand before or after the action's name."""
    found = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    common = _common_options()
    return lambda name, text: found.add_parser(name, help=text, description=text, parents=[common])


def as_cli_error(problem: KeyProblem) -> CliError:
    return CliError(problem.what, problem.where, problem.fix)


def load_root(paths: Paths) -> RootKey:
    """The root key of an installation that has been started once. Raises CliError."""
    try:
        return RootKey.load(paths.root_key)
    except FileNotFoundError:
        raise CliError(
            "there is no root key in this state directory",
            str(paths.root_key),
            "start the proxy once (`make run`), or name its state directory with --state",
        ) from None
    except KeyProblem as problem:
        raise as_cli_error(problem) from None


def load_ca(paths: Paths) -> "CertificateAuthority":
    """The CA of an installation that has been started once. Raises CliError."""
    from proxy.keys.ca import CertificateAuthority

    root = load_root(paths)
    try:
        return CertificateAuthority.load(paths.ca_dir, root)
    except KeyProblem as problem:
        raise as_cli_error(problem) from None


def parse_duration(text: str) -> int:
    """`90s`, `15m`, `1h`, `7d` or plain seconds, as seconds. Raises CliError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    number, unit = (text[:-1], units[text[-1]]) if text and text[-1] in units else (text, 1)
    if not (number.isascii() and number.isdigit()) or len(number) > 9 or int(number) == 0:
        raise CliError(f"{text!r} is not a duration", "duration option", "write it like 90s, 15m, 1h or 7d")
    return int(number) * unit


def ago(time_s: float, now_s: float | None = None) -> str:
    """How long ago, for people: `3 min ago`."""
    seconds = max(0, int((time.time() if now_s is None else now_s) - time_s))
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {name} ago"
    return f"{seconds} s ago"


def day(time_s: float) -> str:
    """UTC date and time to the minute."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))
