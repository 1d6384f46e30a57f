"""Runs an exchange without a wire: a script answers each effect, and the transcript tells what was asked for."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy import effects
from proxy.config.compile import compile_snapshot, load_content
from proxy.config.snapshot import Snapshot
from proxy.context import Context
from proxy.effects import Effect
from proxy.model import (
    Authority,
    CachedAnswer,
    Cost,
    Headers,
    Inspection,
    Principal,
    RequestHead,
    Reservation,
    Response,
    ResponseHead,
    Traffic,
    Usage,
)

CHAT_BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
CHAT_ANSWER = (
    b'{"model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"hello <PERSON_aaaaaaaa>"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}'
)
PLATFORM = "version: 1\nmodels: {gpt-4o-mini: {provider: openai, tier: trusted}}\n"
APP = """
version: 1
app: shop
owner: a@example.com
cost_center: CC-1
stage: production
identify: {token: true}
allow:
  - id: openai
    host: api.openai.com
    methods: [POST]
    paths: [/v1/chat/completions]
    models: [gpt-4o-mini]
    credentials: {headers: [authorization]}
    reason: test
  - id: files
    host: files.example.com
    protocols: [http1, websocket]
    methods: [GET, PUT]
    reason: test
dlp: {profile: balanced, otherwise: redact}
cache: {ttl: 10m}
budget: {daily_usd: 20, unpriced: deny}
limits: {max_body: 1KiB, max_output_tokens: 100}
"""


def snapshot(tmp_path: Path, app: str = APP) -> Snapshot:
    """A compiled policy of one app."""
    (tmp_path / "apps").mkdir(exist_ok=True)
    (tmp_path / "platform.yaml").write_text(PLATFORM)
    (tmp_path / "apps" / "shop.yaml").write_text(app)
    return compile_snapshot(load_content(tmp_path).canonical, seq=7)


class Prices:
    """One known model: a nano-dollar per token."""

    def worst_case(self, _provider: str, model: str, input_tokens: int, output_cap: int) -> Cost:
        return Cost(input_tokens + output_cap, priced=model.startswith("gpt-4o-mini"), source="test")

    def dearest(self, _provider: str, input_tokens: int, output_tokens: int) -> Cost:
        return Cost(1000 * (input_tokens + output_tokens), priced=False, source="")

    def cost(self, usage: Usage, _at_s: float) -> Cost:
        return Cost(usage.input_tokens + usage.output_tokens, priced=True, source="test")


def context(policy: Snapshot) -> Context:
    """Facts of one exchange of app `shop`."""
    return Context(
        id="x-1",
        snapshot=policy,
        principal=Principal("shop", "token", "10.0.0.9", "t1"),
        listener="explicit",
        sni=None,
        started_s=1_795_000_000.0,
        kills={},
        placeholder_key=lambda _app: bytes(32),
        cache_mac_key=lambda _app: bytes(32),
        credential_digest=lambda _value: "hmac-sha256:00",
        prices=Prices(),  # type: ignore[arg-type]  # the methods that an exchange asks
    )


def head(
    method: str = "POST",
    target: str = "/v1/chat/completions",
    host: str = "api.openai.com",
    extra: Headers = (),
    protocol: Any = "http1",
) -> RequestHead:
    """A request head as the lane builds it."""
    fields = ((b"Host", host.encode()), (b"Content-Type", b"application/json"), (b"Authorization", b"Bearer sk-x"))
    return RequestHead(method, target, Authority("https", host, 443), (*fields, *extra), protocol)


@dataclass
class Script:
    """Answers by effect type; a callable answer is given the effect. `fail_at` throws `error` at that step."""

    answers: dict[type, Any] = field(default_factory=dict)
    fail_at: int | None = None
    error: Callable[[], BaseException] = RuntimeError
    seen: list[Effect[Any]] = field(default_factory=list)
    relayed: bytes = b""

    def run(self, line: Coroutine[Any, Any, None]) -> "Script":
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                effect = line.throw(error) if error is not None else line.send(value)
            except StopIteration:
                return self
            self.seen.append(effect)
            value, error = None, None
            if self.fail_at == len(self.seen) - 1:
                error = self.error()
                continue
            value = self._answer(effect)

    def _answer(self, effect: Effect[Any]) -> Any:
        answer = (DEFAULTS | self.answers)[type(effect)]
        if isinstance(effect, effects.Relay):
            self.relayed += effect.tap.feed(answer) + effect.tap.finish()
            return None
        return answer(effect) if callable(answer) else answer

    def of[T: Effect[Any]](self, kind: type[T]) -> list[T]:
        """All effects of one kind, in order."""
        return [effect for effect in self.seen if isinstance(effect, kind)]

    @property
    def names(self) -> list[str]:
        """The transcript."""
        return [type(effect).__name__ for effect in self.seen]

    @property
    def record(self) -> dict[str, Any]:
        """The one terminal audit record."""
        records = [emit.record for emit in self.of(effects.Emit) if emit.record.kind == "terminal"]
        assert len(records) == 1, [record.fields for record in records]
        return dict(records[0].fields)

    @property
    def reply(self) -> Response:
        """The one answer of ours."""
        (reply,) = self.of(effects.Reply)
        return reply.response


DEFAULTS: dict[type, Any] = {
    effects.ReadBody: (CHAT_BODY, ()),
    effects.Inspect: Inspection("allow"),
    effects.CacheGet: None,
    effects.CachePut: None,
    effects.Reserve: lambda effect: Reservation("r1", effect.app.app, effect.usd_nanos, "2026-11-24", "2026-11"),
    effects.Settle: None,
    effects.Meter: None,
    effects.Forward: ResponseHead(200, "OK", ((b"Content-Type", b"application/json"),)),
    effects.Relay: CHAT_ANSWER,
    effects.Collect: CHAT_ANSWER,
    effects.Upgrade: Traffic(10, 20, 2),
    effects.Reply: None,
    effects.Emit: None,
}


def cached() -> CachedAnswer:
    """A stored answer."""
    return CachedAnswer(
        200, ((b"Content-Type", b"application/json"),), CHAT_ANSWER, 1_794_999_990.0, "gpt-4o-mini", 3, 5, 8
    )
