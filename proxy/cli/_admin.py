"""Talking to the running supervisor over its admin socket: one JSON line asks, one JSON line answers."""

import json
import socket
from typing import Any, Final

from proxy.cli import CliError
from proxy.paths import Paths

ANSWER_LIMIT_BYTES: Final = 4 << 20


def ask(paths: Paths, verb: str, *, deadline_s: float = 5.0, **fields: Any) -> dict[str, Any]:
    """Sends `{"verb": verb, **fields}` and returns the answer's fields. CliError when nothing runs or it refuses."""
    try:
        answer = _exchange(str(paths.admin_socket), {"verb": verb, **fields}, deadline_s)
    except (FileNotFoundError, ConnectionRefusedError):
        raise CliError(
            "the proxy is not running",
            str(paths.state_dir),
            "start it with `make run` or `egress run`, or name its directory with --state",
        ) from None
    except TimeoutError:
        raise CliError(
            f"the supervisor did not answer within {deadline_s:g} s",
            str(paths.admin_socket),
            "look at its log; `egress doctor` checks the environment",
        ) from None
    if not answer.get("ok"):
        raise CliError(str(answer.get("what", "refused")), str(answer.get("where", verb)), str(answer.get("fix", "")))
    return answer


def running(paths: Paths) -> bool:
    """True when a supervisor accepts on the admin socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(paths.admin_socket))
        except OSError:
            return False
    return True


def _exchange(path: str, request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(deadline_s)
        client.connect(path)
        client.sendall(json.dumps(request).encode() + b"\n")
        received = bytearray()
        while not received.endswith(b"\n") and len(received) < ANSWER_LIMIT_BYTES:
            chunk = client.recv(1 << 16)
            if not chunk:
                break
            received += chunk
    if not received:
        raise ConnectionRefusedError
    answer: dict[str, Any] = json.loads(received)
    return answer
