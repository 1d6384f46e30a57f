"""The shape of a provider module: one LLM API's requests, answers and stream events, without I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import orjson

from proxy.errors import Denied
from proxy.model import RequestHead
from proxy.providers._call import (
    NOTHING,
    Call,
    CallFacts,
    Delta,
    Reading,
    Tally,
    cache_directives,
    estimate_input_tokens,
    read_flag,
)
from proxy.providers._json import load_object, set_member

# Rulings and prices are remembered by model: a name that fills a body would be kept with them. ARNs have 200 or so.
MAX_MODEL_CHARS: Final = 512


@dataclass(frozen=True)
class Provider:
    """One LLM API. A module of this package subclasses it and exports one instance as PROVIDER.

    `name` is who serves it, as OpenTelemetry's gen_ai.provider.name: decided per host by `hosts` (exact, or `*.` and a
    suffix), `compatible` for a host that merely speaks the API. `paths` matches canonical paths. `image_tokens`: the
    most that one image is billed. `deciding`: request members that policy, caps or money depend on.
    `opaque_keys`: members whose text is signed or encrypted and must come back unchanged.
    """

    name: str = ""

    dialect: ClassVar[str]
    operation: ClassVar[str] = "chat"
    compatible: ClassVar[str]
    paths: ClassVar[re.Pattern[str]]
    hosts: ClassVar[Mapping[str, str]] = {}
    credential_headers: ClassVar[frozenset[str]] = frozenset({"authorization"})
    deciding: ClassVar[frozenset[str]] = frozenset({"model", "stream"})
    opaque_keys: ClassVar[frozenset[str]] = frozenset()
    image_tokens: ClassVar[int] = 0
    natural_ends: ClassVar[frozenset[str]] = frozenset({"stop"})

    def serving(self, host: str) -> "Provider":
        """The same API as served by a host (canonical)."""
        return replace(self, name=self.vendor(host) or self.compatible)

    def vendor(self, host: str) -> str | None:
        """Who serves this API on a well-known host, or None."""
        for pattern, vendor in self.hosts.items():
            if host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:])):
                return vendor
        return None

    def parse_call(self, head: RequestHead, body: bytes) -> Call:
        """The call that a request makes. Denied: malformed, when it cannot be read or names no model."""
        fields = load_object(body, self.deciding)
        directives = cache_directives(head)
        stateful = self.is_stateful(fields)
        facts: CallFacts = {
            "stream": read_flag(fields, "stream"),
            "output_cap": None,
            "deterministic": _is_zero(fields.get("temperature")),
            "wants_usage": False,
        }
        facts.update(self.call_facts(head, fields))
        model = self.model_of(head, fields)
        if len(model) > MAX_MODEL_CHARS:
            raise Denied("malformed", f"The request names a model in more than {MAX_MODEL_CHARS} characters")
        return Call(
            provider=self,
            model=model,
            input_tokens=estimate_input_tokens(body, fields, self.image_tokens),
            no_store=stateful or "no-store" in directives,
            no_cache=stateful or not directives.isdisjoint({"no-cache", "no-store"}),
            **facts,
        )

    def model_of(self, head: RequestHead, fields: Mapping[str, Any]) -> str:
        """The model that the request names."""
        model = fields.get("model")
        if not isinstance(model, str) or not model:
            raise Denied(
                "malformed",
                f"The request to {head.path} names no model",
                remedy='Set "model" to the name of a model that the app may use.',
            )
        return model

    def is_stateful(self, fields: Mapping[str, Any]) -> bool:  # noqa: ARG002 - most APIs keep nothing
        """Whether the answer depends on a conversation that the provider keeps."""
        return False

    def call_facts(self, head: RequestHead, fields: Mapping[str, Any]) -> CallFacts:
        """The API's own members of a call: caps, choices, usage wishes."""
        raise NotImplementedError

    def prepare(self, call: Call, body: bytes, *, output_cap: int | None) -> bytes:
        """The body to send: with the policy's output cap when the request has none, and asking for a stream's usage.

        Every byte that need not change stays.
        """
        cap = output_cap if call.output_cap is None and call.cap_field else None
        asks_usage = call.stream and call.can_ask_usage and not call.wants_usage
        if cap is None and not asks_usage:
            return body
        fields = orjson.loads(body)
        if cap is not None:
            body = set_member(body, fields, call.cap_field, b"%d" % cap)
            fields[call.cap_field] = cap
        return self.ask_usage(body, fields) if asks_usage else body

    def ask_usage(self, body: bytes, fields: Mapping[str, Any]) -> bytes:  # noqa: ARG002 - only some APIs must be asked
        """The body, changed so that a streamed answer tells its usage."""
        return body

    def error_body(self, problem: Mapping[str, Any]) -> bytes:
        """RFC 9457 members within the provider's own error envelope, so that its SDK shows the message."""
        raise NotImplementedError

    def nested_keys(self, call: Call) -> frozenset[str]:  # noqa: ARG002 - depends on the API
        """Members of a plain answer whose string value is itself JSON text."""
        return frozenset()

    def read_answer(self, answer: Mapping[str, Any], call: Call, tally: Tally) -> None:
        """Takes usage, model and endings from a plain answer."""
        raise NotImplementedError

    def read_usage(self, usage: Mapping[str, Any], tally: Tally) -> None:
        """Takes the counts of a usage object."""
        raise NotImplementedError

    def read_event(self, event: Mapping[str, Any], call: Call, tally: Tally) -> Reading:  # noqa: ARG002 - see above
        """Takes usage, model and endings from one stream event; tells which text in it continues which channel."""
        return NOTHING

    def is_usage_only(self, event: Mapping[str, Any]) -> bool:  # noqa: ARG002 - only some APIs send one
        """Whether an event exists only because usage was asked for."""
        return False

    def delta_event(self, event: Mapping[str, Any], delta: Delta, text: str) -> dict[str, Any]:
        """An event like `event` that carries nothing but `text` in the channel of `delta`."""
        raise NotImplementedError


def _is_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0
