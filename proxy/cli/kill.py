"""`egress kill`: stops an app (or all) within a second, also while the store is down."""

import argparse

from proxy.cli import EXIT_CLEAN, Verb, _stop
from proxy.cli._out import show


def _configure(parser: argparse.ArgumentParser) -> None:
    _stop.configure(parser)
    parser.add_argument("--reason", required=True, help="stands in `egress status` and in the audit trail")
    parser.set_defaults(verb_name="kill")


def _run(args: argparse.Namespace) -> int:
    outcome = _stop.order(args, _stop.app_of(args), args.reason)
    show(args, outcome | {"killed": True}, _stop.text(outcome, "stopped"))
    return EXIT_CLEAN


VERB = Verb("kill", "stop an app, or all, at once", _configure, _run)
