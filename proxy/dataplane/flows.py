"""mitmproxy addons beside ours on lane traffic: a flow is built, and a hook fired, only for those that listen.

They see a request before it is inspected, so whatever they change is inspected too; they cannot change where it goes.
They see an answer's head and end; its body has been streamed by then and is not theirs to change. One that raises,
or answers in the upstream's place, ends the request with a denial: mitmproxy itself would forward it.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from mitmproxy import flow as mitmproxy_flow
from mitmproxy import http
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.proxy import mode_specs

from proxy.dataplane import h1
from proxy.errors import Denied
from proxy.model import Headers, RequestHead, ResponseHead

_HOOKS: Final = ("requestheaders", "request", "responseheaders", "response", "error")


class FlowHooks:
    """`ours`: addons that drive the exchange themselves. `wanted` is False, and costs nothing, when nobody listens."""

    def __init__(self, master: Any, ours: Iterable[object]) -> None:
        mine = {id(addon) for addon in ours}
        foreign = [addon for addon in _flatten(master.addons.chain) if id(addon) not in mine]
        self._listeners: dict[str, list[Callable[[http.HTTPFlow], Any]]] = {}
        for name in _HOOKS:
            found = [getattr(addon, name) for addon in foreign if callable(getattr(addon, name, None))]
            if found:
                self._listeners[name] = found

    @property
    def wanted(self) -> bool:
        """True when some foreign addon listens to HTTP hooks."""
        return bool(self._listeners)

    async def request(self, head: RequestHead, body: bytes, client_ip: str) -> tuple[http.HTTPFlow, RequestHead, bytes]:
        """The flow, and the request as foreign addons left it: inspect this one. Raises Denied internal or
        target_mismatch."""
        flow = _new_flow(head, body, client_ip)
        before = _destination(flow)
        for name in ("requestheaders", "request"):
            await self._fire(name, flow)
        if flow.response is not None or flow.error is not None:
            raise Denied("internal", "An addon answered or killed the request")
        if _destination(flow) != before:
            raise Denied("target_mismatch", "An addon tried to send the request elsewhere")
        data = flow.request.data
        fields = tuple((bytes(name), bytes(value)) for name, value in data.headers.fields)
        _check_wire_form(data.method, data.path, fields)
        changed = RequestHead(
            data.method.decode("ascii"), data.path.decode("ascii"), head.authority, fields, head.protocol,
            head.http_version,
        )  # fmt: skip
        return flow, changed, data.content or b""

    async def responded(self, flow: http.HTTPFlow, head: ResponseHead) -> None:
        """Tells foreign addons of an answer; what they do to it has no effect. Never raises."""
        flow.response = http.Response(
            b"HTTP/1.1",
            head.status,
            head.reason.encode("latin-1", "replace"),
            http.Headers(head.headers),
            None,
            None,
            0,
            0,
        )
        for name in ("responseheaders", "response"):
            await self._observe(name, flow)

    async def failed(self, flow: http.HTTPFlow, code: str) -> None:
        """Tells foreign addons that a request ended without an answer. Never raises."""
        flow.error = mitmproxy_flow.Error(code)
        await self._observe("error", flow)

    async def _fire(self, name: str, flow: http.HTTPFlow) -> None:
        for listener in self._listeners.get(name, ()):
            try:
                result = listener(flow)
                if result is not None:
                    await result
            except Exception:  # noqa: BLE001 - an addon's fault is a denial, never a pass
                raise Denied("internal", "An addon failed") from None

    async def _observe(self, name: str, flow: http.HTTPFlow) -> None:
        try:
            await self._fire(name, flow)
        except Denied:
            return


def _flatten(chain: Iterable[Any]) -> Iterable[object]:
    for addon in chain:
        yield addon
        yield from _flatten(getattr(addon, "addons", ()))


def _destination(flow: http.HTTPFlow) -> tuple[object, ...]:
    data = flow.request.data
    return data.scheme, data.host, data.port, data.authority, flow.request.headers.get_all("host")


def _check_wire_form(method: bytes, path: bytes, fields: Headers) -> None:
    """What an addon made is held to the grammar that the app's own bytes were: a CRLF in a value is another request."""
    raw = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, path, b"".join(b"%b: %b\r\n" % field for field in fields))
    parsed = h1.parse_request_head(raw)
    if (parsed.method.encode(), parsed.target.encode(), parsed.headers) != (method, path, fields):
        raise Denied("malformed", "An addon made a request that cannot be written")


def _new_flow(head: RequestHead, body: bytes, client_ip: str) -> http.HTTPFlow:
    client = Client(
        peername=(client_ip, 0),
        sockname=("", 0),
        timestamp_start=0,
        state=ConnectionState.OPEN,
        proxy_mode=mode_specs.ProxyMode.parse("regular"),
    )
    flow = http.HTTPFlow(client, Server(address=(head.authority.host, head.authority.port)), live=True)
    flow.request = http.Request(
        head.authority.host,
        head.authority.port,
        head.method.encode(),
        head.authority.scheme.encode(),
        b"",
        head.target.encode(),
        f"HTTP/{head.http_version}".encode(),
        http.Headers(head.headers),
        body,
        None,
        0,
        0,
    )
    return flow
