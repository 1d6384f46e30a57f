"""A host check and a DLP check as many people write them: `mitmdump -s naive.py`. It is here to be beaten.

It trusts what mitmproxy says (`pretty_host`, `.text`), judges in `request` only, and lets errors pass.
"""

from typing import Any

from mitmproxy import http

ALLOWED = {
    "allowed.test", "internal.test", "cdn.test", "redact.test", "path.test", "llm.test", "pinned.test", "self.test",
}  # fmt: skip
SUFFIXES = (".allowed.test", ".pub.test", ".bad.test")
SSN = "123-45-6789"


class Naive:
    """Host by `pretty_host`, body by `.text`."""

    def request(self, flow: http.HTTPFlow) -> None:
        host = flow.request.pretty_host
        if host not in ALLOWED and not host.endswith(SUFFIXES):
            flow.response = http.Response.make(403, b"host not allowed")
            return
        if SSN in (flow.request.text or ""):
            flow.response = http.Response.make(403, b"personal data")

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        message: Any = flow.websocket.messages[-1] if flow.websocket else None
        if message is not None and message.from_client and SSN in message.content.decode("utf-8", "replace"):
            flow.kill()  # type: ignore[no-untyped-call]  # mitmproxy leaves it without types


addons = [Naive()]
