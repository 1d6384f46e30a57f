"""What the full-stack tests share: one product with two workers, an app per capability, upstreams that keep books."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
from websockets.sync.server import ServerConnection, serve

from proxy.audit import instant
from proxy.demo import anthropic as anthropic_demo
from proxy.demo import openai as openai_demo
from proxy.demo.http1 import Answer as DemoAnswer
from tests.lab.fixtures import Lab, build_lab
from tests.lab.product import eventually
from tests.lab.upstream import Answer, Piece, Received, chunked, reply

CARD = "4111 1111 1111 1111"
EMAIL = "jane.doe@example.com"
WORKERS = 2
OPENAI_KEY = "sk-proj-" + "Ab1" * 14
TOKENIZE = {
    "rules": [
        {"entities": ["CREDIT_CARD", "SECRET"], "action": "block"},
        {"entities": ["EMAIL_ADDRESS"], "action": "tokenize"},
    ],
    "otherwise": "allow",
}
OPEN_DLP = {"otherwise": "allow"}
OWN_DATA = {
    "dictionaries": [{"entity": "CODE_NAME", "values": ["Bluebird"]}],
    "patterns": [{"entity": "TICKET", "regex": "ACME-[0-9]{6}"}],
    "rules": [
        {"entities": ["CODE_NAME"], "action": "hash"},
        {"entities": ["TICKET"], "action": "tokenize", "tiers": ["trusted"]},
        {"entities": ["CREDIT_CARD"], "action": "encrypt"},
        {"entities": ["EMAIL_ADDRESS"], "action": "synthesize"},
    ],
    "otherwise": "allow",
}


@dataclass
class Llm:
    """A provider look-alike on the recording upstream. `bill`: usage of every answer it began to give."""

    bill: list[dict[str, Any]] = field(default_factory=list)
    before_part: Callable[[], object] | None = None

    def __call__(self, received: Received) -> Iterable[Piece]:
        fields = received.json()
        is_openai = received.target.startswith("/v1/chat")
        plain = (openai_demo.chat if is_openai else anthropic_demo.messages)({**fields, "stream": False})
        usage = json.loads(plain.body)["usage"]
        self.bill.append({"model": fields["model"], **usage})
        if not fields.get("stream"):
            return _answered(plain)(received)
        return _answered((openai_demo.chat if is_openai else anthropic_demo.messages)(fields), self.before_part)(
            received
        )


def _answered(answer: DemoAnswer, before_part: Callable[[], object] | None = None) -> Answer:
    headers = [("Content-Type", answer.media_type)]
    if answer.parts is None:
        return reply(answer.body, status=answer.status, headers=headers)
    pieces: list[Piece] = []
    for part in answer.parts:
        if before_part is not None and len(pieces) > 2:
            pieces.append(before_part)
        pieces.append(part)
    return chunked(pieces, headers=headers)


@dataclass
class Talk:
    """A WebSocket upstream: echoes every message and keeps it."""

    port: int = 0
    host: str = "127.0.0.1"
    names: tuple[str, ...] = ("ws.lab.test",)
    tls: bool = True
    heard: list[str | bytes] = field(default_factory=list)
    shaken: list[Any] = field(default_factory=list)

    def serve(self, stack: ExitStack, context: ssl.SSLContext) -> None:
        server = stack.enter_context(serve(self._talk, self.host, 0, ssl=context))
        self.port = server.socket.getsockname()[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def _talk(self, connection: ServerConnection) -> None:
        self.shaken.append(connection.request)
        for message in connection:
            self.heard.append(message)
            connection.send(message)


@dataclass
class House:
    """The product and its world. `fresh` begins a count of audit records; `new` waits for those that come after it."""

    lab: Lab
    llm: Llm
    talk: Talk
    _since: str = ""

    @property
    def product(self) -> Any:
        return self.lab.product

    def fresh(self) -> None:
        """Upstreams answer `200 ok` and have seen nothing."""
        for upstream in (self.lab.api, self.lab.plain):
            upstream.forget()
            upstream.answer = reply()
        self.llm.bill.clear()
        self.llm.before_part = None
        self.talk.heard.clear()
        self.talk.shaken.clear()
        # Records carry milliseconds: those of the test before must not share one with this test's.
        last = instant(time.time())
        while (now := instant(time.time())) == last:
            pass
        self._since = now

    def new(self, count: int = 1, **wanted: object) -> list[dict[str, Any]]:
        """The terminal records since `fresh`; blocks until there are `count`, and fails when there are more."""

        def look() -> list[dict[str, Any]] | None:
            records = self.product.records(kind="terminal", **wanted)
            found = [record for record in records if record["time"] >= self._since]
            return found if len(found) >= count else None

        found = eventually(look, f"{count} record(s) {wanted}")
        if len(found) != count:
            rows = [(row.get("outcome"), row.get("code"), row.get("host"), row.get("path")) for row in found]
            raise AssertionError(f"{len(found)} records instead of {count}: {rows[:8]}")
        return found

    def one(self, **wanted: object) -> dict[str, Any]:
        """The one terminal record since `fresh`."""
        return self.new(1, **wanted)[0]

    def url(self, host: str = "api.lab.test") -> str:
        return f"https://{host}:{self.lab.api.port}"

    def openai(self, app: str, **options: Any) -> openai.OpenAI:
        """The SDK as an app would use it, with the proxy's address and CA."""
        self.lab.api.answer = self.llm
        client = openai.DefaultHttpxClient(proxy=self.product.proxy_url(app), verify=self.product.trust)
        return openai.OpenAI(
            api_key=OPENAI_KEY,
            base_url=self.url("openai.lab.test") + "/v1",
            http_client=client,
            max_retries=0,
            **options,
        )

    def anthropic(self, app: str) -> anthropic.Anthropic:
        """As `openai`."""
        self.lab.api.answer = self.llm
        client = anthropic.DefaultHttpxClient(proxy=self.product.proxy_url(app), verify=self.product.trust)
        return anthropic.Anthropic(
            api_key="sk-ant-api03-" + "Ab1" * 31 + "-AAA", base_url=self.url("anthropic.lab.test"),
            http_client=client, max_retries=0,
        )  # fmt: skip


def say(text: str, **fields: Any) -> Any:
    """Arguments of `chat.completions.create`."""
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **fields}


def read_to_end(stream: ssl.SSLSocket | socket.socket) -> bytes:
    stream.settimeout(20)
    received = bytearray()
    try:
        while chunk := stream.recv(1 << 16):
            received += chunk
    except (OSError, ssl.SSLError):
        pass
    return bytes(received)


def _without(entry: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != name}


def build_house(stack: ExitStack, **options: Any) -> House:
    """Not started yet."""
    talk = Talk()

    def setup(lab: Lab) -> None:
        talk.serve(stack, lab.ca.server_context("ws.lab.test"))
        policy = lab.policy
        api, plain = lab.api, lab.plain
        base = [policy.entry("api", api), policy.entry("plain", plain)]
        ws = policy.entry("talk", talk, protocols=["websocket", "http1"])  # type: ignore[arg-type]
        llm = [
            policy.entry("openai", api, host="openai.lab.test", credentials={"headers": ["authorization"]}),
            policy.entry(
                "anthropic", api, host="anthropic.lab.test", credentials={"headers": ["x-api-key", "authorization"]}
            ),
        ]
        policy.platform["models"] = {
            name: {"provider": "openai", "tier": "trusted"} for name in ("gpt-4o-mini", "house-1")
        }
        policy.platform["prices"] = [
            {"provider": "openai", "model": "house-1", "input_usd_per_mtok": 1000, "output_usd_per_mtok": 1000,
             "source": "test", "from": "2020-01-01"},
        ]  # fmt: skip
        policy.app("open", *base, ws, *llm, dlp=OPEN_DLP)
        policy.app("strict", *base, ws, *llm, dlp=TOKENIZE)
        policy.app("own-data", *base, ws, *llm, dlp=OWN_DATA)
        policy.app("bynet", *base, identify={"networks": ["127.0.1.0/24"]}, dlp=OPEN_DLP)
        policy.app("both", *base, identify={"networks": ["127.0.2.0/24"], "token": True}, dlp=OPEN_DLP)
        policy.app(
            "narrow",
            policy.entry("read", api, methods=["GET"], paths=["/v1/files/*"]),
            policy.entry("chat", api, host="openai.lab.test", methods=["POST"], paths=["/v1/chat/completions"],
                         models=["gpt-4o-mini"], limits={"max_output_tokens": 100}),
            _without(policy.entry("raw", api, host="a.wild.lab.test", tls="passthrough"), "upstream_ca"),
            policy.entry("cut", api, host="b.wild.lab.test", addresses="public"),
            _without(policy.entry("trust", api, host="c.wild.lab.test"), "upstream_ca"),
            dlp=OPEN_DLP,
        )  # fmt: skip
        policy.app("trial", policy.entry("read", api, paths=["/v1/files/*"]), mode="report",
                   report_until="2099-01-01", dlp=TOKENIZE)  # fmt: skip
        for name in ("cached", "cached-too"):
            policy.app(name, *llm, cache={"ttl": "10m"}, dlp=TOKENIZE)
        policy.app("priced", *llm, budget={"daily_usd": 1000, "unpriced": "deny"}, dlp=OPEN_DLP)
        policy.app("lenient", *llm, budget={"daily_usd": 1000, "unpriced": "allow"}, dlp=OPEN_DLP)
        # One call of `house-1` with a cap of 60 tokens reserves some 0.08 USD: this pays for ten of them.
        policy.app("poor", *llm, budget={"daily_usd": 1}, limits={"max_output_tokens": 60}, dlp=OPEN_DLP)
        policy.app("gone", *base, expires="2021-01-01", dlp=OPEN_DLP)

    lab = build_lab(stack, setup, **{"workers": WORKERS, **options})
    return House(lab, Llm(), talk)
