"""What the OpenAI-style APIs share: hosts, error envelope, usage object."""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.model import RequestHead
from proxy.providers._call import Tally, count, member
from proxy.providers._json import member_span, set_member

# Host -> OpenTelemetry gen_ai.provider.name. The demo's hosts stand for the vendors that they imitate.
HOSTS: Final[Mapping[str, str]] = {
    "api.openai.com": "openai",
    "*.api.openai.com": "openai",
    "openai.demo.test": "openai",
    "*.openai.azure.com": "azure.ai.openai",
    "*.cognitiveservices.azure.com": "azure.ai.openai",
    "*.services.ai.azure.com": "azure.ai.openai",
    "api.mistral.ai": "mistral_ai",
    "api.groq.com": "groq",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "x_ai",
    "api.perplexity.ai": "perplexity",
    "api.together.xyz": "together",
    "api.fireworks.ai": "fireworks",
    "api.cerebras.ai": "cerebras",
    "openrouter.ai": "openrouter",
    "generativelanguage.googleapis.com": "gcp.gemini",
}
COMPATIBLE: Final = "openai_compatible"
CREDENTIALS: Final = frozenset({"authorization", "api-key"})
# gpt-4o-mini bills 2833 tokens per image and 5667 for each of at most eight 512-pixel tiles; others bill less.
IMAGE_TOKENS: Final = 48_169

_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)/")
# The first Azure API versions that know `max_completion_tokens` and `stream_options`.
_AZURE_MODERN = "2024-09-01"
_AZURE_VERSION = re.compile(r"[?&]api-version=(\d{4}-\d{2}-\d{2})")
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


def deployment(path: str) -> str | None:
    """The deployment in an Azure path, or None."""
    found = _DEPLOYMENT.search(path)
    return found[1] if found else None


def is_old_azure(head: RequestHead) -> bool:
    """Whether the request names an Azure API version from before the newer members."""
    found = _AZURE_VERSION.search(head.target)
    return found is not None and found[1] < _AZURE_MODERN


def error_body(problem: Mapping[str, Any]) -> bytes:
    """Problem members beside the `error` object that the openai SDK shows."""
    status = problem.get("status")
    error = {
        "message": problem.get("message") or problem.get("detail") or problem.get("title"),
        "type": _ERROR_TYPES.get(status if isinstance(status, int) else 0, "server_error"),
        "param": None,
        "code": problem.get("code"),
    }
    return orjson.dumps({**problem, "error": error})


def read_usage(usage: Mapping[str, Any], tally: Tally) -> None:
    """The usage object of chat, embeddings (`prompt_tokens`) and responses (`input_tokens`). Cached tokens and
    reasoning are within the totals already."""
    names = ("prompt", "completion") if "prompt_tokens" in usage else ("input", "output")
    taken = count(usage.get(f"{names[0]}_tokens"))
    given = count(usage.get(f"{names[1]}_tokens"))
    tally.input_tokens = tally.input_tokens if taken is None else taken
    tally.output_tokens = tally.output_tokens if given is None else given
    details = member(usage, f"{names[0]}_tokens_details")
    # DeepSeek tells the cached part beside the total.
    cached = count(details.get("cached_tokens")) or count(usage.get("prompt_cache_hit_tokens")) or 0
    written = count(details.get("cache_write_tokens")) or 0
    tally.cache_read_input_tokens, tally.cache_creation_input_tokens = cached, written
    tally.reasoning_tokens = count(member(usage, f"{names[1]}_tokens_details").get("reasoning_tokens")) or 0


def ask_usage(body: bytes, fields: Mapping[str, Any]) -> bytes:
    """Sets `stream_options.include_usage`, leaving other stream options as they are."""
    options = fields.get("stream_options")
    if not isinstance(options, dict):
        return set_member(body, fields, "stream_options", b'{"include_usage":true}')
    start, end = member_span(body, "stream_options")
    return body[:start] + set_member(body[start:end], options, "include_usage", b"true") + body[end:]
