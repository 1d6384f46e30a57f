"""What the provider, answer and cache tests share: heads, taps, and the corpus."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from proxy.answer import AnswerTap
from proxy.model import Authority, RequestHead, ResponseHead
from proxy.providers import Call, match

CORPUS = Path(__file__).parent / "corpus"
JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"


def request_head(host: str, target: str, *headers: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead("POST", target, Authority("https", host, 443), headers)


def call_of(
    body: bytes | str, host: str = "api.openai.com", target: str = "/v1/chat/completions", *headers: Any
) -> Call:
    head = request_head(host, target, *headers)
    provider = match(head.authority, head.method, head.path)
    assert provider is not None
    return provider.parse_call(head, body.encode() if isinstance(body, str) else body)


def response_head(media_type: bytes = JSON, status: int = 200, *headers: tuple[bytes, bytes]) -> ResponseHead:
    return ResponseHead(status, "OK", ((b"Content-Type", media_type), *headers))


def tap_for(
    call: Call | None,
    restore: Mapping[str, str] | None = None,
    head: ResponseHead | None = None,
    capture_limit_bytes: int = 1 << 20,
) -> AnswerTap:
    provider = call.provider if call else None
    head = head or response_head()
    return AnswerTap.create(provider, call, head, restore or {}, capture_limit_bytes=capture_limit_bytes)


def pour(tap: AnswerTap, pieces: Iterable[bytes]) -> bytes:
    out = [tap.feed(piece) for piece in pieces]
    return b"".join([*out, tap.finish()])


def corpora() -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text("utf-8")) for path in sorted(CORPUS.glob("*.yaml"))]
