"""DNS over HTTPS, by media type, path and query; ordinary requests that look a little like it."""

import base64

import pytest

from tests.net.dns_kit import query
from tests.policy.kit import ask, head, outcome, policy

ANY = "allow: [{id: x, host: a.com}]\n"
GLOB = "allow: [{id: x, host: a.com, paths: ['/**']}]\n"
NAMED = "allow: [{id: x, host: a.com, paths: [/dns-query, /v1/resolve]}]\n"
DENIED = "deny proto_denied dns_over_https"
B64 = base64.urlsafe_b64encode(query("evil.test", query_id=0x1234)).decode().rstrip("=")

CASES = {
    "by content type": (ANY, "/upload", {"Content-Type": "application/dns-message"}, DENIED),
    "whatever its case": (ANY, "/upload", {"content-TYPE": "Application/DNS-Message; x=1"}, DENIED),
    "oblivious": (ANY, "/upload", {"Content-Type": "application/oblivious-dns-message"}, DENIED),
    "by what is accepted": (ANY, "/", {"Accept": "text/html, application/dns-message"}, DENIED),
    "json form": (ANY, "/", {"Accept": "application/dns-json"}, DENIED),
    "well-known path": (ANY, "/dns-query?dns=AAAB", {}, DENIED),
    "path of another case": (ANY, "/DNS-Query", {}, DENIED),
    "path of a tenant": (ANY, "/abc123/dns-query", {}, DENIED),
    "path of a profile": (ANY, "/dns-query/abc123", {}, DENIED),
    "google's json": (ANY, "/resolve?name=evil.test&type=TXT", {}, DENIED),
    "a query in any path": (ANY, f"/x?dns={B64}", {}, DENIED),
    "a pattern was not meant for it": (GLOB, "/dns-query", {}, DENIED),
    "named": (NAMED, "/dns-query", {"Content-Type": "application/dns-message"}, "allow x"),
    "named elsewhere": (NAMED, "/v1/resolve", {"Accept": "application/dns-json"}, "allow x"),
    "an ordinary resolve": (ANY, "/resolve?id=4", {}, "allow x"),
    "an ordinary dns field": (ANY, "/x?dns=8.8.8.8", {}, "allow x"),
    "a dns field in base64 that is no query": (ANY, "/x?dns=aGVsbG8gd29ybGQhIGhlbGxv", {}, "allow x"),
    "a page about it": (ANY, "/blog/dns-query-explained", {}, "allow x"),
    "ordinary json": (ANY, "/", {"Content-Type": "application/json"}, "allow x"),
}


@pytest.mark.parametrize(("text", "target", "headers", "expected"), CASES.values(), ids=CASES)
def test_dns_over_https(text: str, target: str, headers: dict[str, str], expected: str) -> None:
    assert outcome(ask(policy(text), head(f"https://a.com{target}", headers=headers))) == expected


@pytest.mark.parametrize("port", [853, 5053])
def test_dns_over_tls_is_a_port_that_nobody_listed(port: int) -> None:
    assert outcome(ask(policy(ANY), head(f"https://a.com:{port}/"), "connect")) == "deny port_denied port"
