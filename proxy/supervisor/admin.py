"""The admin socket: a unix socket (0600) in the state directory; one JSON line asks, one JSON line answers.

Whoever can open it may stop apps: the directory is private, and the peer's user is checked as well.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from proxy.paths import private_dir

LINE_LIMIT_BYTES: Final = 64 << 10
DEADLINE_S: Final = 30.0

type Request = Mapping[str, Any]
type Handler = Callable[[Request], Awaitable[dict[str, Any]]]


class Refused(Exception):
    """An admin request that cannot be done: what, where, fix."""

    def __init__(self, what: str, where: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix


def text_of(request: Request, name: str) -> str:
    """A required text field of a request."""
    value = request.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(f"the request needs `{name}`", "admin socket", f'send {{"{name}": "..."}}')
    return value


async def serve(path: Path, handlers: Mapping[str, Handler]) -> asyncio.Server:
    """Listens on `path`, replacing a dead predecessor's socket (the caller holds the state directory's lock)."""
    listener = _bind(path)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError, ValueError):
                async with asyncio.timeout(DEADLINE_S):
                    line = await reader.readline()
                    if line and _is_ours(writer):
                        writer.write(json.dumps(await answer(line, handlers)).encode() + b"\n")
                        await writer.drain()
        finally:
            writer.close()  # also when the supervisor stops in the middle of an answer

    return await asyncio.start_unix_server(handle, sock=listener, limit=LINE_LIMIT_BYTES)


def _bind(path: Path) -> socket.socket:
    private_dir(path.parent)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old_mask)
    return listener


async def answer(line: bytes, handlers: Mapping[str, Handler]) -> dict[str, Any]:
    """One request line to one answer; failures become `{"ok": false, what, where, fix}`."""
    try:
        request = json.loads(line)
        verb = request["verb"]
        handler = handlers[verb]
    except (ValueError, TypeError, KeyError):
        return _refusal(Refused("not an admin request", "admin socket", f"verbs: {', '.join(sorted(handlers))}"))
    try:
        return {"ok": True, **await handler(request)}
    except Refused as refused:
        return _refusal(refused)
    except Exception as error:  # noqa: BLE001 - an operator must get an answer, and the supervisor must live on
        return _refusal(Refused(f"{verb} failed: {type(error).__name__}", "supervisor", "look at its log"))


def _refusal(refused: Refused) -> dict[str, Any]:
    return {"ok": False, "what": refused.what, "where": refused.where, "fix": refused.fix}


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    peer = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid in {0, os.getuid()}
