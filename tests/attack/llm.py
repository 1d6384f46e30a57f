"""What the procedures about inference calls share: calls of the look-alike, what it saw, and what was booked."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any, Final

import redis

from proxy.stores.usage_rows import COUNTERS
from tests.attack.client import Answer, attack
from tests.attack.procedures import Bench
from tests.attack.upstreams import Accepted, Script, chat
from tests.attack.wire import Run
from tests.attack.world import wait_until

KEY: Final = "sk-proj-" + "Ab1" * 14
OTHER_KEY: Final = "sk-proj-" + "Zz9" * 14
CALLER, OTHER_CALLER = "5", "6"
_RECORD_WAIT_S = 8.0


class Model:
    """The upstream's script: writes down whole requests and answers by `answer`."""

    def __init__(self, bench: Bench, answer: Script | None = None) -> None:
        self.requests: list[bytes] = []
        self.answer = answer or chat()
        bench.world.upstreams.script = self

    def __call__(self, accepted: Accepted, request: bytes, stream: socket.socket) -> None:
        self.requests.append(request)
        self.answer(accepted, request, stream)


class Books:
    """The audit records and usage rows since it was made."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.lines: list[tuple[dict[str, Any], str]] = []
        if bench.world.trail:
            bench.world.trail.more()
        self._before = _at_rest(bench)

    def records(self, count: int) -> list[dict[str, Any]]:
        """The terminal records of model calls, at least `count` of them unless that takes too long."""
        trail = self._bench.world.trail

        def found() -> list[dict[str, Any]]:
            return [one for one, _ in self.lines if one["kind"] == "terminal" and one.get("host") == "llm.test"]

        def enough() -> bool:
            self.lines += trail.more() if trail else []
            return len(found()) >= count

        wait_until(enough, _RECORD_WAIT_S)
        return found()

    def booked(self, requests: int) -> dict[str, int]:
        """What the usage figures grew by, once they grew by that many calls (or will not)."""
        grown: dict[str, int] = {}

        def enough() -> bool:
            now = usage(self._bench)
            grown.update({name: now[name] - self._before[name] for name in now})
            return grown["requests"] >= requests

        wait_until(enough, _RECORD_WAIT_S)
        return grown


def _at_rest(bench: Bench) -> dict[str, int]:
    """The sums once what was called before is in them: a worker ships its counts four times a second."""
    before = usage(bench)
    for _ in range(10):
        time.sleep(0.7)
        now = usage(bench)
        if now == before:
            break
        before = now
    return before


def usage(bench: Bench) -> dict[str, int]:
    """The sums of `egress usage` over all apps."""
    rows = json.loads(bench.world.cli("usage", "--format", "json").stdout)["rows"]
    return {name: sum(row[name] for row in rows) for name in COUNTERS}


def call_text(
    text: str, *, key: str = KEY, fields: str = "", target: str = "/v1/chat/completions", host: str = "llm.test",
    method: str = "POST", **body: Any,
) -> str:  # fmt: skip
    """A call as bytes. `fields`: more header lines, each with its line end."""
    message = {"role": "user", "content": text}
    content = json.dumps({"model": "gpt-4o-mini", "temperature": 0, "messages": [message], **body})
    return (
        f"{method} http://llm.test{target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n{fields}"
        f"Content-Type: application/json\r\nContent-Length: {len(content.encode())}\r\nConnection: close\r\n\r\n"
        f"{content}"
    )


def send(bench: Bench, text: str, *, source: str = CALLER, within_s: float = 5.0) -> Answer:
    """The first answer to these bytes; status 0 when there was none."""
    run = Run("procedure", "", "explicit", {"send": text, "from": source, "want": {"within_s": within_s}}, {})
    observed = attack(run, bench.world.gate(run), lambda _: None)
    return observed.answers[0] if observed.answers else Answer(0)


def ask(bench: Bench, text: str, *, source: str = CALLER, **call: Any) -> Answer:
    """One call and its answer."""
    return send(bench, call_text(text, **call), source=source)


def is_hit(answer: Answer) -> bool:
    """The cache answered."""
    return b"\r\nx-cache: hit" in answer.head.lower()


def until_hit(bench: Bench, text: str, *, source: str = CALLER, **call: Any) -> bool:
    """Whether the answer is served from the cache soon: it is stored a moment after it was delivered."""
    return wait_until(lambda: is_hit(ask(bench, text, source=source, **call)), 5)


def store(bench: Bench) -> Any:
    """The embedded store, as one who has its socket sees it (the client's types do not know that it answers bytes)."""
    product = bench.world.product
    if product is None:
        raise RuntimeError("no product")
    return redis.Redis(unix_socket_path=str(product.paths.store_socket))


def contents(bench: Bench) -> Iterator[bytes]:
    """Every key of the store and what it holds, strings within it unchanged."""
    client = store(bench)
    for key in client.scan_iter():
        yield key
        match client.type(key):
            case b"string":
                yield client.get(key) or b""
            case b"hash":
                yield from (part for pair in client.hgetall(key).items() for part in pair)
            case b"list":
                yield from client.lrange(key, 0, -1)
            case b"set":
                yield from client.smembers(key)
            case b"zset":
                yield from client.zrange(key, 0, -1)
            case kind:
                raise ValueError(f"no reader for a {kind!r}")
