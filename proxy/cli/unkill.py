"""`egress unkill`: lifts what `egress kill` did."""

import argparse

from proxy.cli import EXIT_CLEAN, Verb, _stop
from proxy.cli._out import show


def _configure(parser: argparse.ArgumentParser) -> None:
    _stop.configure(parser)
    parser.set_defaults(verb_name="unkill")


def _run(args: argparse.Namespace) -> int:
    outcome = _stop.order(args, _stop.app_of(args), None)
    show(args, outcome | {"killed": False}, _stop.text(outcome, "released"))
    return EXIT_CLEAN


VERB = Verb("unkill", "let a stopped app go on", _configure, _run)
