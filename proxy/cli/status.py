"""`egress status`: is it ready, on which policy, and does the directory say something else?"""

import argparse
import time
from pathlib import Path
from typing import Any

from proxy.cli import EXIT_CLEAN, EXIT_FINDINGS, Verb
from proxy.cli._admin import ask
from proxy.cli._out import show, table


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", metavar="DIR", default="allowlists", help="policy files to compare with")


def _run(args: argparse.Namespace) -> int:
    facts = ask(args.paths, "status")
    facts["drift"] = _drift(Path(args.directory), args.paths.state_dir, facts["policy"])
    show(args, facts, _text(facts))
    return EXIT_CLEAN if facts["ready"] else EXIT_FINDINGS


def _drift(directory: Path, state_dir: Path, policy: dict[str, Any]) -> dict[str, Any]:
    """Whether the directory holds what is active. `state`: same, differs, invalid or none."""
    if not directory.is_dir():
        return {"directory": str(directory), "state": "none"}
    from proxy.config.compile import load_content
    from proxy.config.errors import ConfigErrors

    try:
        content = load_content(directory, state_dir)
    except ConfigErrors as errors:
        return {"directory": str(directory), "state": "invalid", "errors": len(errors.errors)}
    same = content.revision == policy["revision"]
    return {"directory": str(directory), "state": "same" if same else "differs", "revision": content.revision}


_DRIFT_TEXT = {
    "same": "the directory holds the active policy",
    "differs": "the directory differs (`egress diff` shows how, `egress push` publishes it)",
    "invalid": "the directory has errors (`egress check` lists them)",
    "none": "no directory to compare with",
}


def _text(facts: dict[str, Any]) -> str:
    policy, store, drift = facts["policy"], facts["store"], facts["drift"]
    refused = policy["refused"]
    rows = [
        ("state", "ready" if facts["ready"] else "NOT READY: " + "; ".join(facts["why_not"])),
        ("listening", "  ".join(f"{name} {address}" for name, address in facts["listen"].items())),
        ("policy", f"seq {policy['seq']}, revision {policy['revision'][:12]}, loaded {_ago(policy['loaded_at_s'])}"),
        ("", f"REFUSED seq {refused['seq']} ({refused['why']}): {refused['detail']}" if refused else ""),
        ("directory", f"{drift['directory']}: {_DRIFT_TEXT[drift['state']]}"),
        ("store", f"{store['kind']} {store['url']}" + (f", AWAY: {store['fault']}" if store["fault"] else "")),
        ("CA", f"expires {time.strftime('%Y-%m-%d', time.gmtime(facts['ca']['expires_at_s']))}"),
        ("audit", facts["audit"]["directory"] + ("" if facts["audit"]["ready"] else ", CANNOT BE WRITTEN")),
        ("killed", ", ".join(sorted(facts["kills"])) or "none"),
        ("up", f"{facts['uptime_s']:.0f} s, pid {facts['pid']}"),
    ]
    head = "\n".join(f"{name:<10} {value}" for name, value in rows if value)
    workers = table(("worker", "pid", "state", "seq", "connections", "restarts"), _worker_rows(facts["workers"]))
    inspectors = table(
        ("inspector", "pid", "restarts", "lacks"),
        [(row["name"], row["pid"] or "-", row["restarts"], row["fault"]) for row in facts["inspectors"]],
    )
    return f"{head}\n\n{workers}\n\n{inspectors}"


def _worker_rows(workers: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    return [
        (row["id"], row["pid"], row["state"], row.get("seq", "-"), row.get("connections", "-"), row["restarts"])
        for row in workers
    ]


def _ago(at_s: float) -> str:
    return f"{max(0, time.time() - at_s):.0f} s ago" if at_s else "never"


VERB = Verb("status", "readiness, policy, workers, store, CA, audit", _configure, _run)
