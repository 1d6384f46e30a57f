"""Dispatch of the command line: parses, imports one verb, turns every refusal into three lines and an exit code."""

import argparse
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from proxy.paths import NotPrivate, Paths

if TYPE_CHECKING:
    from proxy.config.errors import ConfigErrors

PACKAGE: Final = "proxy.cli"
EXIT_CLEAN: Final = 0
EXIT_FINDINGS: Final = 1
EXIT_USAGE: Final = 2


@dataclass(frozen=True, slots=True)
class Verb:
    """One `egress NAME`. `configure` adds arguments; `run` gets them and returns the exit code.

    `args.json` (bool) and `args.paths` (proxy.paths.Paths) are always set; `args.state` is the directory (Path).
    """

    name: str
    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class CliError(Exception):
    """A refusal to go on: `what` happened, `where` (file:line:col, option or command), and what to do (`fix`)."""

    def __init__(self, what: str, where: str, fix: str, *, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix
        self.exit_code = exit_code


class _Parser(argparse.ArgumentParser):
    """Raises CliError instead of printing usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise CliError(message, self.prog, f"see `{self.prog} --help`")


def verb_names() -> list[str]:
    """All verbs, by listing the package."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name.replace("_", "-") for name in found if not name.startswith("_"))


def load_verb(name: str) -> Verb:
    """Imports one verb's module."""
    verb = importlib.import_module(f"{PACKAGE}.{name.replace('-', '_')}").VERB
    if not isinstance(verb, Verb):
        raise TypeError(f"proxy.cli.{name}: VERB must be a proxy.cli.Verb")
    return verb


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `egress`: parses, runs one verb, and turns every refusal into three lines and an exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in own
    try:
        return _run(arguments)
    except CliError as error:
        return _report(error, as_json=as_json)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has gone (`egress list | head`); a second failure at interpreter exit would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CLEAN
    except Exception as error:
        if os.environ.get("EGRESS_DEBUG"):
            raise
        if type(error).__name__ == "ConfigErrors":
            return _report_policy(cast("ConfigErrors", error), as_json=as_json)
        return _report(_explain(error), as_json=as_json)


def _run(arguments: list[str]) -> int:
    common = _common_options()
    parser = _Parser(
        prog="egress",
        description="Egress proxy for micro-apps.",
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", nargs="?", metavar="VERB", help="what to do; `egress VERB --help` tells more")
    position = next((i for i, text in enumerate(arguments) if _is_verb(arguments, i)), None)
    if position is None:
        parser.epilog = _verb_list() if "-h" in arguments or "--help" in arguments or not arguments else None
        parser.parse_args(arguments)
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    name = arguments[position]
    if name not in verb_names():
        raise CliError(f"there is no verb {name!r}", "egress", _closest(name))
    verb = load_verb(name)
    sub = _Parser(
        prog=f"egress {verb.name}",
        description=verb.help,
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.configure(sub)
    args = sub.parse_args(arguments[:position] + arguments[position + 1 :])
    args.json = getattr(args, "json", False)
    args.paths = Paths.of(getattr(args, "state", None))
    args.state = args.paths.state_dir
    code = verb.run(args)
    sys.stdout.flush()
    return code


def _common_options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON instead of text")
    common.add_argument(
        "--state",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="state directory (default: $EGRESS_STATE_DIR, else ./state)",
    )
    return common


def _is_verb(arguments: list[str], index: int) -> bool:
    return not arguments[index].startswith("-") and (index == 0 or arguments[index - 1] != "--state")


def _verb_list() -> str:
    verbs = [load_verb(name) for name in verb_names()]
    width = max((len(verb.name) for verb in verbs), default=0)
    return "verbs:\n" + "\n".join(f"  {verb.name:<{width}}  {verb.help}" for verb in verbs)


def _closest(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, verb_names(), n=1)
    return f"did you mean `egress {near[0]}`?" if near else "`egress --help` lists the verbs"


def _explain(error: Exception) -> CliError:
    """Errors that any verb may meet. Messages of unknown exceptions may hold data, so only their type is shown."""
    from proxy.stores.ports import StoreUnavailable

    if isinstance(error, StoreUnavailable):
        return CliError(
            f"the store does not answer: {error}",
            "store",
            "start the proxy (`make run`) or give the right `--store URL`",
        )
    if all(isinstance(getattr(error, part, None), str) for part in ("what", "where", "fix")):
        parts = {part: str(getattr(error, part)) for part in ("what", "where", "fix")}
        return CliError(parts["what"], parts["where"], parts["fix"])
    if isinstance(error, NotPrivate):
        return CliError(str(error), "state directory", "remove it, or `chmod 700` it when it is yours")
    if isinstance(error, OSError) and error.strerror:
        return CliError(
            f"{error.strerror.lower()}",
            str(error.filename or type(error).__name__),
            "check that the path exists and that this user may use it",
        )
    return CliError(
        f"unexpected {type(error).__name__}",
        _last_frame(error),
        "run again with EGRESS_DEBUG=1 for the traceback, and report it",
    )


def _last_frame(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "egress"


def _report_policy(errors: "ConfigErrors", *, as_json: bool) -> int:
    """Every mistake in its three lines, as `egress check` shows them."""
    if as_json:
        print(json.dumps({"errors": [asdict(one) for one in errors.errors]}), file=sys.stderr)
    else:
        count = len(errors.errors)
        print(f"{errors}\n{count} mistake{'s' if count != 1 else ''} in the policy files", file=sys.stderr)
    return EXIT_USAGE


def _report(error: CliError, *, as_json: bool) -> int:
    if as_json:
        facts: dict[str, Any] = {"what": error.what, "where": error.where, "fix": error.fix}
        print(json.dumps({"error": facts}), file=sys.stderr)
    else:
        print(f"error: {error.what}\n  at:  {error.where}\n  fix: {error.fix}", file=sys.stderr)
    return error.exit_code
