"""The one table of reason codes, and the exception that carries a denial.

Every refusal anywhere in the product is a `Denied` with one of these codes. The table decides the HTTP status, the
RFC 9209 proxy error type, the title and the default remedy; docs, metrics labels and the CLI are generated from it.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ReasonCode:
    """One way to be refused.

    `status`: HTTP status of the answer. `proxy_error`: RFC 9209 section 2.3 error type. `title`: what happened, in
    words for the app's maker. `remedy`: what to do next. `who`: whose move it is (`maker`, `admin` or `operator`).
    """

    id: str
    status: int
    proxy_error: str
    title: str
    remedy: str
    who: str


_ROWS = (
    ReasonCode(
        "identity_unknown",
        407,
        "http_request_denied",
        "The proxy does not know which app is calling",
        "Use a fresh proxy token: `egress token issue --app APP`, or `egress connect --app APP` for a "
        "process that lives longer than the token.",
        "maker",
    ),
    ReasonCode(
        "host_denied",
        403,
        "http_request_denied",
        "This host is not on the app's allowlist",
        "Ask the app's admin to add the host under `allow:` in the app's file, or call a host that is listed.",
        "admin",
    ),
    ReasonCode(
        "port_denied",
        403,
        "http_request_denied",
        "This port is not allowed for the host",
        "Use a port that the entry lists, or ask the admin to add it to `ports:`.",
        "admin",
    ),
    ReasonCode(
        "method_denied",
        403,
        "http_request_denied",
        "This HTTP method is not allowed here",
        "Use a method that the entry lists, or ask the admin to add it to `methods:`.",
        "admin",
    ),
    ReasonCode(
        "path_denied",
        403,
        "http_request_denied",
        "This path is not allowed on the host",
        "Use a path that the entry lists, or ask the admin to add it to `paths:`.",
        "admin",
    ),
    ReasonCode(
        "proto_denied",
        403,
        "http_protocol_error",
        "This protocol is not allowed here",
        "Use plain HTTPS requests, or ask the admin to add the protocol to `protocols:` of the entry.",
        "admin",
    ),
    ReasonCode(
        "model_denied",
        403,
        "http_request_denied",
        "This model is not allowed for the app",
        "Use a model that the entry lists, or ask the admin to add it to `models:`.",
        "admin",
    ),
    ReasonCode(
        "credential_denied",
        403,
        "http_request_denied",
        "This credential may not be used here",
        "Send the API key that the entry pins; another account's key never leaves.",
        "admin",
    ),
    ReasonCode(
        "target_mismatch",
        403,
        "http_request_denied",
        "The request names two different hosts",
        "Send the same host in CONNECT, TLS SNI, Host and the request line.",
        "maker",
    ),
    ReasonCode(
        "ip_denied",
        403,
        "destination_ip_prohibited",
        "The host's address is not one the proxy may dial",
        "Public names must resolve to public addresses; for an internal service ask the admin to set "
        "`addresses:` on the entry.",
        "admin",
    ),
    ReasonCode(
        "self_connection",
        403,
        "destination_ip_prohibited",
        "The target is the proxy itself",
        "Call the service directly by its own name, not through the proxy's address.",
        "maker",
    ),
    ReasonCode(
        "expired",
        403,
        "http_request_denied",
        "The permission has expired",
        "Ask the admin to renew `expires:`.",
        "admin",
    ),
    ReasonCode(
        "app_inactive",
        403,
        "http_request_denied",
        "The app is not in a stage that may send traffic",
        "Ask the admin to set `stage: production` (or `sandbox`).",
        "admin",
    ),
    ReasonCode(
        "killed",
        403,
        "http_request_denied",
        "The app has been stopped by an operator",
        "Ask the security team; they lift it with `egress unkill APP`.",
        "operator",
    ),
    ReasonCode(
        "pii",
        403,
        "http_request_denied",
        "The request carries data that must not leave",
        "Remove the named data from the request, or ask the admin for a rule that tokenizes or redacts it.",
        "maker",
    ),
    ReasonCode(
        "malformed",
        400,
        "http_protocol_error",
        "The request is not valid HTTP",
        "Send well-formed HTTP/1.1 (RFC 9112) with an ordinary client library.",
        "maker",
    ),
    ReasonCode(
        "encoding",
        415,
        "http_request_error",
        "The body's coding cannot be inspected",
        "Send the body uncompressed, or with one of gzip, br, zstd, deflate and a correct label.",
        "maker",
    ),
    ReasonCode(
        "uninspectable",
        403,
        "http_request_denied",
        "The body is of a kind that cannot be inspected",
        "Send text instead, or ask the admin to allow the kind under `dlp.uninspectable`.",
        "admin",
    ),
    ReasonCode(
        "too_large",
        413,
        "http_request_error",
        "The request is larger than the limit",
        "Send less at a time, or ask the admin to raise `limits.max_body`.",
        "maker",
    ),
    ReasonCode(
        "header_too_large",
        431,
        "http_request_error",
        "The request head is larger than the limit",
        "Send fewer and smaller header fields and a shorter URL.",
        "maker",
    ),
    ReasonCode(
        "timeout",
        408,
        "http_request_error",
        "The request did not arrive in time",
        "Send the whole request without long pauses.",
        "maker",
    ),
    ReasonCode(
        "rate_limited",
        429,
        "http_request_denied",
        "The app sends too many requests",
        "Wait for the seconds in Retry-After, or ask the admin to raise `limits.requests_per_minute`.",
        "maker",
    ),
    ReasonCode(
        "budget_exceeded",
        429,
        "http_request_denied",
        "The app's budget is used up",
        "Wait until the period ends (Retry-After), or ask the app's owner to raise `budget:`.",
        "admin",
    ),
    ReasonCode(
        "unpriced",
        403,
        "http_request_denied",
        "The model has no known price",
        "Ask the admin to add the model to `prices:` in platform.yaml, or to set `budget.unpriced: allow`.",
        "admin",
    ),
    ReasonCode(
        "budget_unavailable",
        503,
        "proxy_internal_error",
        "The budget cannot be checked just now",
        "Try again in a few seconds; tell the operator if it lasts.",
        "operator",
    ),
    ReasonCode(
        "inspector_unavailable",
        503,
        "proxy_internal_error",
        "The inspection did not finish",
        "Try again in a few seconds; tell the operator if it lasts.",
        "operator",
    ),
    ReasonCode(
        "policy_unavailable",
        503,
        "proxy_configuration_error",
        "The proxy has no valid policy",
        "Tell the operator: `egress status` shows why.",
        "operator",
    ),
    ReasonCode(
        "audit_unavailable",
        503,
        "proxy_internal_error",
        "The audit trail cannot be written",
        "Tell the operator: `egress status` shows why; traffic resumes by itself.",
        "operator",
    ),
    ReasonCode(
        "overloaded",
        503,
        "proxy_internal_error",
        "The proxy is at its limit",
        "Try again in a few seconds.",
        "operator",
    ),
    ReasonCode(
        "internal",
        503,
        "proxy_internal_error",
        "The proxy failed while deciding, so nothing was sent",
        "Try again; tell the operator the decision id if it happens again.",
        "operator",
    ),
    ReasonCode(
        "upstream_tls",
        502,
        "tls_certificate_error",
        "The upstream's certificate could not be verified",
        "Tell the upstream's owner, or ask the admin to set `upstream_ca:` for a private root.",
        "admin",
    ),
    ReasonCode(
        "upstream_dns",
        502,
        "dns_error",
        "The host's name could not be resolved",
        "Check the name; tell the operator if it should exist.",
        "operator",
    ),
    ReasonCode(
        "upstream_unreachable",
        502,
        "connection_refused",
        "The upstream did not accept the connection",
        "Try again; check that the service is up.",
        "maker",
    ),
    ReasonCode(
        "upstream_timeout",
        504,
        "connection_timeout",
        "The upstream did not answer in time",
        "Try again; check that the service is up.",
        "maker",
    ),
    ReasonCode(
        "upstream_malformed",
        502,
        "http_response_incomplete",
        "The upstream's answer is not valid HTTP",
        "Tell the upstream's owner.",
        "maker",
    ),
    ReasonCode(
        "response_blocked",
        502,
        "http_response_status",
        "The answer carries data that must not come back",
        "Ask the admin to review `dlp.response` for this app.",
        "admin",
    ),
)

REASONS: Final[dict[str, ReasonCode]] = {row.id: row for row in _ROWS}


class Denied(Exception):
    """A refusal: which code, what exactly, where the rule stands, and the next step.

    `detail` never holds prompt text, secrets or header values; it may hold names that the caller sent and that are
    not sensitive (host, method, model, entity type). `where` is `file:line:col` of the rule that decided, or "".
    `status` overrides the code's HTTP status (403 instead of 407 when a credential was given but is not good). `sent`:
    the request had left for the upstream by then, which may bill it.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        where: str = "",
        rule_id: str = "",
        remedy: str = "",
        retry_after_s: int | None = None,
        status: int | None = None,
        sent: bool = False,
    ) -> None:
        super().__init__(code, detail)
        self.reason = REASONS[code]
        self.code = code
        self.detail = detail or self.reason.title
        self.where = where
        self.rule_id = rule_id
        self.remedy = remedy or self.reason.remedy
        self.retry_after_s = retry_after_s
        self.status = status or self.reason.status
        self.sent = sent
