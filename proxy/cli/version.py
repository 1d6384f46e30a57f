"""`egress version`: what runs here, and under which licences its parts come."""

import argparse

from proxy.cli import Verb
from proxy.cli._out import show, table


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--licenses", action="store_true", help="also list every dependency and its licence")


def _run(args: argparse.Namespace) -> int:
    import platform
    import sys
    from importlib.metadata import PackageNotFoundError, version

    from proxy.supervisor.environment import OURS

    try:
        own = version(OURS)
    except PackageNotFoundError:
        own = "not installed"
    facts: dict[str, object] = {
        "version": own,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "license": "Apache-2.0",
        "detection model": "Rampart, by National Design Studio, CC BY 4.0, converted to 8-bit integers",
    }
    text = "\n".join(f"{name}: {value}" for name, value in facts.items())
    if args.licenses:
        rows = _dependencies()
        facts["dependencies"] = [dict(zip(("name", "version", "license"), row, strict=True)) for row in rows]
        text += "\n\n" + table(("package", "version", "license"), rows)
    show(args, facts, text)
    return 0


def _dependencies() -> list[tuple[str, str, str]]:
    """(name, version, licence) of every distribution in this environment, as its own metadata says."""
    from importlib.metadata import distributions

    rows = {}
    for distribution in distributions():
        facts = distribution.metadata
        license_ = facts.get("License-Expression") or _classifier(facts.get_all("Classifier") or []) or ""
        license_ = license_ or (facts.get("License") or "see the package").strip().partition("\n")[0][:60]
        rows[str(facts["Name"])] = (str(facts["Name"]), distribution.version, license_)
    return sorted(rows.values(), key=lambda row: row[0].lower())


def _classifier(classifiers: list[str]) -> str:
    prefix = "License :: "
    return "; ".join(text.rpartition(" :: ")[2] for text in classifiers if text.startswith(prefix))


VERB = Verb("version", "versions and licences", _configure, _run)
