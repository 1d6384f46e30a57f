"""The `egress` command. One file per verb in this package, found by listing it; only the named verb is imported.

A verb module is named like its verb and exports one constant, `VERB`. Modules that start with `_` are helpers.
Exit codes: 0 clean, 1 findings, 2 usage or bad configuration. Errors go to stderr in three lines: what, where, fix.
"""

# Nothing else may stand here: a verb's module becomes an attribute of this package, and `list.py` would shadow the
# built-in for all code in this file.
from proxy.cli._main import (
    EXIT_CLEAN,
    EXIT_FINDINGS,
    EXIT_USAGE,
    CliError,
    Verb,
    _common_options,
    load_verb,
    main,
    verb_names,
)

__all__ = [
    "EXIT_CLEAN",
    "EXIT_FINDINGS",
    "EXIT_USAGE",
    "CliError",
    "Verb",
    "_common_options",
    "load_verb",
    "main",
    "verb_names",
]
