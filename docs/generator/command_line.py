"""The page of the command line: every verb, action and option, from the parsers themselves."""

import argparse
from typing import Any, Final

from docs.generator.markdown import code, section, table

_COMMON: Final = frozenset({"--json", "--state"})


def command_line() -> str:
    """proxy/cli"""
    from proxy import cli
    from proxy.cli import _common_options

    intro = (
        "`egress VERB --help` says the same. Exit codes: "
        f"{cli.EXIT_CLEAN} clean, {cli.EXIT_FINDINGS} findings (a failed test, a difference, a bad record), "
        f"{cli.EXIT_USAGE} wrong use or bad configuration. Errors go to standard error in three lines: what, where, "
        'and what to do; with `--json` as one JSON object `{"error": {what, where, fix}}`.\n\n'
        "Every verb takes:\n\n" + _options(_common_options(), hidden=frozenset())
    )
    verbs = [cli.load_verb(name) for name in cli.verb_names()]
    toc = table(
        ("verb", "what it does"), [(f"[`egress {verb.name}`](#egress-{verb.name})", verb.help) for verb in verbs]
    )
    return intro + "\n" + toc + "\n" + "\n".join(_verb(verb) for verb in verbs)


def _verb(verb: Any) -> str:
    parser = argparse.ArgumentParser(prog=f"egress {verb.name}", add_help=False)
    verb.configure(parser)
    return section(f"egress {verb.name}", verb.help[0].upper() + verb.help[1:] + ".\n\n" + _parser(parser))


def _parser(parser: argparse.ArgumentParser) -> str:
    text = f"```text\n{_usage(parser)}\n```\n\n" + _options(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, sub in action.choices.items():
                lead = helps.get(name, "")
                text += "\n" + section(sub.prog, lead[:1].upper() + lead[1:] + ".\n\n" + _parser(sub), 3)
    return text


def _usage(parser: argparse.ArgumentParser) -> str:
    """In one order and without a terminal's width, so that every Python version prints the same."""
    words = [parser.prog]
    for action in sorted(parser._actions, key=lambda one: not one.option_strings):
        if isinstance(action, argparse._HelpAction) or _COMMON.intersection(action.option_strings):
            continue
        if action.option_strings:
            text = " ".join([action.option_strings[0], *_value(action)])
            words.append(text if action.required else f"[{text}]")
        else:
            (text,) = _value(action)
            words.append(f"[{text}]" if action.nargs in ("?", "*", argparse.REMAINDER) else text)
    return " ".join(words)


def _value(action: argparse.Action) -> list[str]:
    if action.option_strings and action.nargs == 0:
        return []
    if isinstance(action.metavar, str):
        return [action.metavar]
    if isinstance(action, argparse._SubParsersAction):
        return ["ACTION"]
    if action.choices is not None:
        return ["{" + ",".join(map(str, action.choices)) + "}"]
    return [action.dest.upper()]


def _options(parser: argparse.ArgumentParser, hidden: frozenset[str] = _COMMON) -> str:
    rows = []
    for action in parser._actions:
        told_elsewhere = hidden.intersection(action.option_strings)
        if told_elsewhere or isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        name = ", ".join(action.option_strings)
        said = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
        required = "required" if action.required and action.option_strings else ""
        rows.append((code(" ".join([name, *_value(action)]).strip()), "; ".join(filter(None, (said, required)))))
    return table(("argument", "meaning"), rows) if rows else ""
