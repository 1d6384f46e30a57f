"""Turns a `Denied` into the answer its reader can act on.

Inside a tunnel: RFC 9457 problem details within the provider's own error envelope, plus Proxy-Status (RFC 9209), so
that an SDK's exception shows what, where and the next step. For CONNECT: the same in the reason phrase, since clients
throw the body of a failed CONNECT away.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from proxy.errors import Denied
from proxy.model import Headers, Response, ResponseHead

if TYPE_CHECKING:
    from proxy.providers import Provider

# Long enough for code, detail and remedy; short enough for every client's status-line buffer.
_MAX_PHRASE_CHARS = 400
# Asking again soon may give another answer; every other code stands until somebody changes something.
_WORTH_RETRYING = frozenset(
    {
        "rate_limited",
        "overloaded",
        "inspector_unavailable",
        "budget_unavailable",
        "audit_unavailable",
        "internal",
        "policy_unavailable",
        "timeout",
        "upstream_unreachable",
        "upstream_timeout",
        "upstream_dns",
    }
)
# One name for the proxy in Proxy-Status; the machine's host name is nobody's business.
_PROXY_NAME = "egress"


def problem(denied: Denied, *, decision_id: str, revision: str) -> dict[str, Any]:
    """RFC 9457 members and our extensions. Holds no prompt text, secrets or header values."""
    members: dict[str, Any] = {
        "type": f"urn:egress:reason:{denied.code}",
        "title": denied.reason.title,
        "status": denied.status,
        "detail": denied.detail,
        "code": denied.code,
        "remedy": denied.remedy,
        "decision_id": decision_id,
    }
    if denied.where:
        members["where"] = denied.where
    if denied.rule_id:
        members["rule_id"] = denied.rule_id
    if denied.retry_after_s is not None:
        members["retry_after_s"] = denied.retry_after_s
    if revision:
        members["revision"] = revision[:12]
    return members


def sentence(denied: Denied, decision_id: str = "") -> str:
    """One paragraph for a person: what, where, next step, and the id to quote."""
    where = f" (rule: {denied.where})" if denied.where else ""
    number = f" [{denied.code}, decision {decision_id}]" if decision_id else f" [{denied.code}]"
    what = _full_stop(denied.reason.title)
    if denied.detail != denied.reason.title:
        what = f"{what} {_full_stop(denied.detail)}"
    return f"Egress proxy: {what}{where} {denied.remedy}{number}"


def render(denied: Denied, *, decision_id: str, revision: str, provider: "Provider | None" = None) -> Response:
    """The whole answer. Never an empty body."""
    members = problem(denied, decision_id=decision_id, revision=revision)
    message = sentence(denied, decision_id)
    body = provider.error_body({**members, "message": message}) if provider else _plain_body(members, message)
    headers: list[tuple[bytes, bytes]] = [
        (b"Content-Type", b"application/problem+json"),
        (b"Proxy-Status", proxy_status(denied).encode()),
        (b"Cache-Control", b"no-store"),
        (b"X-Egress-Decision", decision_id.encode()),
        (b"X-Egress-Code", denied.code.encode()),
        *_retry_fields(denied),
    ]
    if denied.status == 407:
        headers.append((b"Proxy-Authenticate", b'Basic realm="egress", charset="UTF-8"'))
    return Response(ResponseHead(denied.status, _phrase(denied.reason.title), tuple(headers)), body)


def render_connect(denied: Denied, *, decision_id: str, revision: str) -> Response:
    """The answer to a refused CONNECT: code, detail and remedy stand in the reason phrase too."""
    response = render(denied, decision_id=decision_id, revision=revision)
    phrase = _phrase(f"Egress denied ({denied.code}): {_full_stop(denied.detail)} {denied.remedy}")
    return Response(ResponseHead(response.head.status, phrase, response.head.headers), response.body)


def proxy_status(denied: Denied) -> str:
    """Proxy-Status member (RFC 9209 section 2): error type and our code as details."""
    return f'{_PROXY_NAME}; error={denied.reason.proxy_error}; details="{denied.code}"'


def _plain_body(members: Mapping[str, Any], message: str) -> bytes:
    return orjson.dumps({**members, "message": message, "error": {"message": message, "code": members["code"]}})


def _retry_fields(denied: Denied) -> Headers:
    """Retry-After where waiting helps; elsewhere the field by which the openai and anthropic SDKs stop retrying."""
    if denied.retry_after_s is not None:
        fields: Headers = ((b"Retry-After", str(max(1, denied.retry_after_s)).encode()),)
    elif denied.status in {408, 429, 503}:
        fields = ((b"Retry-After", b"1"),)
    else:
        fields = ()
    return fields if denied.code in _WORTH_RETRYING else (*fields, (b"x-should-retry", b"false"))


def _full_stop(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def _phrase(text: str) -> str:
    """Reason phrase within RFC 9112 section 4: visible ASCII and spaces only."""
    visible = "".join(char if " " <= char <= "~" else "?" for char in text)
    return visible if len(visible) <= _MAX_PHRASE_CHARS else visible[: _MAX_PHRASE_CHARS - 3] + "..."
