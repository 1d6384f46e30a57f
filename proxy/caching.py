"""The cache of inference answers: what identifies one, how it is kept, and how it is replayed."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

import orjson

from proxy.answer import AnswerTap
from proxy.model import CachedAnswer, Headers, Response, ResponseHead
from proxy.providers import Call

_FORMAT: Final = b"egc1"
_MAC_BYTES: Final = 32
_LENGTH_BYTES: Final = 4
# Only these are true of the replay too; request ids, rate limits and timings speak of another exchange.
_KEPT_FIELDS = frozenset({b"content-type", b"openai-version", b"anthropic-version", b"openai-model"})


def cache_key(
    key: bytes, *, app: str, provider: str, endpoint: str, credential: bytes, body: bytes, app_digest: str
) -> bytes:
    """32 bytes that identify one answer: HMAC-SHA256 over all that it depends on, each part with its length.

    `body` is the whole redacted body as sent upstream, the stream flag within it. `credential`: the fields that may
    choose the answer, credentials among them; they go in as a digest.
    """
    texts = [text.encode("utf-8", "surrogatepass") for text in (app, provider, endpoint, app_digest)]
    parts = [*texts, hashlib.sha256(credential).digest(), body]
    return hmac.digest(key, b"".join([_FORMAT, *[len(part).to_bytes(8, "big") + part for part in parts]]), "sha256")


def encode(answer: CachedAnswer, mac_key: bytes, *, bind: bytes = b"") -> bytes:
    """The answer as stored: format, MAC, header length, header (JSON), body.

    `bind`: what the entry belongs to (its cache key): an entry that was copied to another key does not decode.
    """
    header = orjson.dumps(
        {
            "status": answer.status,
            "headers": [[_text(name), _text(value)] for name, value in answer.headers],
            "stored_at_s": answer.stored_at_s,
            "model": answer.model,
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "usd_nanos": answer.usd_nanos,
        }
    )
    content = len(header).to_bytes(_LENGTH_BYTES, "big") + header + answer.body
    return _FORMAT + _mac(mac_key, bind, content) + content


def decode(value: bytes, mac_key: bytes, *, bind: bytes = b"") -> CachedAnswer | None:
    """The answer, or None for anything that this installation did not write for this key: a miss."""
    content = value[len(_FORMAT) + _MAC_BYTES :]
    mac = value[len(_FORMAT) : len(_FORMAT) + _MAC_BYTES]
    if not value.startswith(_FORMAT) or not hmac.compare_digest(mac, _mac(mac_key, bind, content)):
        return None
    size = int.from_bytes(content[:_LENGTH_BYTES], "big")
    header = orjson.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + size])
    return CachedAnswer(
        status=header["status"],
        headers=tuple((base64.b64decode(name), base64.b64decode(text)) for name, text in header["headers"]),
        body=content[_LENGTH_BYTES + size :],
        stored_at_s=header["stored_at_s"],
        model=header["model"],
        input_tokens=header["input_tokens"],
        output_tokens=header["output_tokens"],
        usd_nanos=header["usd_nanos"],
    )


def replay(answer: CachedAnswer, call: Call, restore: Mapping[str, str], now_s: float) -> Response:
    """The stored answer for this client: its own placeholders restored, and streams event by event as they came.

    `Age` counts whole seconds since it was stored (RFC 9111 section 5.1).
    """
    kept: Headers = tuple((name, value) for name, value in answer.headers if name.lower() in _KEPT_FIELDS)
    head = ResponseHead(answer.status, "OK", kept)
    tap = AnswerTap.create(call.provider, call, head, restore, capture_limit_bytes=0)
    body = tap.feed(answer.body) + tap.finish()
    age_s = max(0, int(now_s - answer.stored_at_s))
    fields = (*kept, (b"X-Cache", b"hit"), (b"Age", b"%d" % age_s))
    return Response(ResponseHead(answer.status, "OK", fields), body)


def _mac(mac_key: bytes, bind: bytes, content: bytes) -> bytes:
    mac = hmac.new(mac_key, _FORMAT + len(bind).to_bytes(8, "big") + bind, hashlib.sha256)
    mac.update(content)
    return mac.digest()


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
