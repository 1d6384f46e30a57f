"""The demo server: routes requests to the look-alikes and remembers the last one for `GET /_seen`."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from proxy.demo import anthropic, certificates, echo, openai
from proxy.demo.http1 import Answer, Listener, Request

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 9443
_ECHO_LIMIT_BYTES = 64 << 10

type Api = tuple[Callable[[Mapping[str, Any]], Answer], Callable[[str, int], Answer]]

_APIS: Final[Mapping[str, Api]] = {
    "/v1/chat/completions": (openai.chat, openai.error),
    "/v1/embeddings": (openai.embeddings, openai.error),
    "/v1/messages": (anthropic.messages, anthropic.error),
}


class Demo:
    """The request handler. `seen` is the last request as received, head and body, but for those to `/_seen`."""

    def __init__(self) -> None:
        self.seen = b""

    def __call__(self, request: Request) -> Answer:
        """One request to one answer."""
        if request.path == "/_seen":
            return Answer(self.seen, "text/plain; charset=utf-8", fields={"Cache-Control": "no-store"})
        self.seen = request.raw + request.body
        if request.path == "/v1/models":
            return openai.models()
        if request.path in _APIS:
            return _ask(request)
        return _files(request)


def _ask(request: Request) -> Answer:
    answer, error = _APIS[request.path]
    if request.method != "POST":
        return error(f"{request.path} takes POST", 405)
    try:
        fields = json.loads(request.body)
        if not isinstance(fields, dict):
            raise echo.Refused("the body must be a JSON object")
        return answer(fields)
    except echo.Refused as refused:
        return error(str(refused), refused.status)
    except (ValueError, RecursionError):
        return error("We could not parse the JSON body of your request.", 400)


def _files(request: Request) -> Answer:
    """Everything else, as a file service would answer: what arrived, and the text of it."""
    body = {
        "ok": True,
        "method": request.method,
        "path": request.path,
        "content_type": request.fields.get("content-type"),
        "received_bytes": len(request.body),
        "text": request.body[:_ECHO_LIMIT_BYTES].decode("utf-8", "replace"),
    }
    return Answer(json.dumps(body).encode())


@dataclass(frozen=True, slots=True)
class Running:
    """A listening demo. `demo.seen` is what `GET /_seen` shows; `ca` the file that clients must trust."""

    listener: Listener
    demo: Demo
    port: int
    ca: Path

    async def aclose(self) -> None:
        """Stops listening and ends open connections."""
        await self.listener.aclose()


async def start(state_dir: Path, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT) -> Running:
    """Makes the certificates that are missing and listens."""
    demo = Demo()
    listener = Listener(demo)
    bound = await listener.start(host, port, certificates.server_context(state_dir))
    return Running(listener, demo, bound, certificates.ca_path(state_dir))


async def run(state_dir: Path, host: str, port: int, announce: Callable[[Running], None]) -> None:
    """Serves until cancelled; `announce` is called once it listens."""
    running = await start(state_dir, host, port)
    announce(running)
    try:
        await asyncio.Event().wait()
    finally:
        await running.aclose()
