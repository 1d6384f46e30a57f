"""Audit records for verbs: where they are, the keys that check them, and one line of text for each."""

import argparse
import heapq
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from proxy.audit import for_terminal
from proxy.audit_chain import Problem
from proxy.cli import CliError
from proxy.cli._keys import load_root
from proxy.keys.root import AUDIT_CHAIN
from proxy.sinks._reader import newest_first, oldest_first
from proxy.sinks.file import UnsafeAuditFile, open_directory, writers


def chain_keys(args: argparse.Namespace) -> dict[str, bytes]:
    """Root key id -> chain key, of every generation."""
    return {each.id: each.derive(AUDIT_CHAIN) for each in load_root(args.paths).generations}


def audit_directory(args: argparse.Namespace) -> Path:
    """The trail to look at. Raises CliError when there is none, or when others could have changed it."""
    directory: Path = getattr(args, "dir", None) or args.paths.audit_dir
    try:
        os.close(open_directory(directory, create=False))
    except FileNotFoundError:
        raise CliError(
            "there is no audit trail here",
            str(directory),
            "name the state directory with --state, or the trail by --dir",
        ) from None
    except UnsafeAuditFile as error:
        raise CliError("the audit directory is not private", str(directory), str(error)) from None
    return directory


def records(args: argparse.Namespace, *, since_s: float = 0.0, having: bytes = b"") -> Iterator[Mapping[str, Any]]:
    """Fields of genuine records of all writers, newest first within each."""
    directory, keys = audit_directory(args), chain_keys(args)
    for writer in writers(directory):
        for record in newest_first(directory, writer, keys, since_s=since_s, having=having):
            yield record.fields


def exchanges_in_order(
    args: argparse.Namespace, damaged: Callable[[Problem], None], *, since_s: float = 0.0
) -> Iterator[Mapping[str, Any]]:
    """Fields of the genuine terminal records of all writers: each chain in its order, the chains merged by time.
    `damaged` is told of each place where records were tampered with."""
    directory, keys = audit_directory(args), chain_keys(args)

    def terminals(writer: str) -> Iterator[Mapping[str, Any]]:
        records = oldest_first(directory, writer, keys, damaged, since_s=since_s)
        return (record.fields for record in records if record.fields.get("kind") == "terminal")

    chains = (terminals(writer) for writer in writers(directory))
    return heapq.merge(*chains, key=lambda fields: str(fields.get("time")))


def time_of(fields: Mapping[str, Any]) -> float:
    """Unix seconds of a record's `time`; 0 when it is not a time."""
    try:
        return datetime.fromisoformat(str(fields.get("time"))).timestamp()
    except ValueError:
        return 0.0


def target(fields: Mapping[str, Any]) -> str:
    """`POST https://api.openai.com/v1/chat/completions`, as far as the record tells."""
    host, port = str(fields.get("host", "")), fields.get("port")
    if fields.get("method") == "CONNECT":
        return for_terminal(f"CONNECT {host}:{port}")
    shown = host + (f":{port}" if port not in (None, 443) else "")
    url = f"{fields.get('scheme', 'https')}://{shown}{fields.get('path', '')}" if host else ""
    return for_terminal(" ".join(part for part in (str(fields.get("method", "")), url) if part))


def line(fields: Mapping[str, Any]) -> str:
    """One record as one line for people."""
    if fields.get("kind") == "event":
        facts = [f"{name}={fields[name]}" for name in ("subject", "subject_seq", "count", "step_ms") if name in fields]
        return for_terminal(f"{fields.get('time')}  {fields.get('writer')}  {fields.get('event')}  {' '.join(facts)}")
    code = f" ({fields['code']})" if "code" in fields else ""
    outcome = f"{fields.get('outcome', '?')}{code}"
    status = fields.get("status", "-")
    return for_terminal(
        f"{fields.get('time')}  {fields.get('app', '-')}  {outcome}  {status}  {target(fields)}  [{fields.get('id')}]"
    )
