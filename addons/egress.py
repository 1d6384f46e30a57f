"""Drives the exchange for requests that mitmproxy's own layers carry (HTTP/2).

mitmproxy forwards a request whose addon raised. Here the flow's response is a denial before any hook runs, and only
the exchange's own `Forward` takes it away, so a hook that fails leaves the denial standing.
"""

from mitmproxy import http

from proxy import denials
from proxy.context import Context
from proxy.dataplane.h2_carrier import H2Carrier, carrier_of, standing_denial
from proxy.dataplane.h2_messages import request_head
from proxy.effects import Aborted
from proxy.errors import Denied


class EgressExchange:
    """One exchange per stream, in step with mitmproxy's hooks. Its name must not collide with a built-in addon's."""

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Identify and policy; returns when the exchange wants the body or has refused."""
        carrier = carrier_of(flow)
        if carrier is not None:
            await carrier.begin(_run(carrier))

    async def request(self, flow: http.HTTPFlow) -> None:
        """Inspection, cache, budget; returns when the request may go, or has been answered."""
        carrier = carrier_of(flow)
        if carrier is not None:
            trailers = flow.request.trailers.fields if flow.request.trailers else ()
            await carrier.deliver((flow.request.raw_content or b"", tuple(trailers)))

    async def responseheaders(self, flow: http.HTTPFlow) -> None:
        """The answer's head; returns when the exchange has chosen to relay, collect or refuse it."""
        carrier = carrier_of(flow)
        if carrier is not None:
            await carrier.deliver(flow.response)

    async def response(self, flow: http.HTTPFlow) -> None:
        """The answer's end; returns when the books are closed."""
        carrier = carrier_of(flow)
        if carrier is not None:
            content = flow.response.raw_content if flow.response is not None and not flow.response.stream else b""
            if not carrier.started:
                flow.response = standing_denial()  # an answer that policy wants to see whole is not sent before
            await carrier.deliver(content or b"")

    async def error(self, flow: http.HTTPFlow) -> None:
        """Either side has failed; returns when the exchange knows and has closed its books."""
        carrier = carrier_of(flow)
        if carrier is not None:
            await carrier.fail(carrier.failure or Aborted("client", "closed the stream", sent=carrier.sent))


ADDON = EgressExchange


async def _run(carrier: H2Carrier) -> None:
    connection = carrier.connection
    server = connection.server
    context: Context | None = None
    try:
        context = server.runtime.context(connection.principal, connection.listener, connection.sni)
        context.trail.target(connection.authority)
        if carrier.flow.error is not None:
            raise Denied("malformed", "The stream's head is not valid HTTP/2 (RFC 9113 section 8)")
        head = request_head(carrier.flow.request, connection.authority)
        if connection.identify().app != connection.principal.app:
            raise Denied("identity_unknown", "The connection was opened by another app", status=403)
        server.services.limiter.admit_request(context.app, context.started_s)
    except Denied as denied:
        await _refuse(carrier, denied, context)
    except Exception:  # noqa: BLE001 - whatever it is, the answer is a denial and a record
        await _refuse(carrier, Denied("internal"), context)
    else:
        await server.runtime.run(context, head, carrier)


async def _refuse(carrier: H2Carrier, denied: Denied, context: Context | None) -> None:
    connection = carrier.connection
    runtime = connection.server.runtime
    if context is not None:
        runtime.refused(context, denied)
        decision_id, revision = context.id, context.snapshot.revision
    else:
        decision_id = runtime.refuse(
            denied,
            listener=connection.listener,
            client_ip=connection.principal.client_ip,
            authority=connection.authority,
            app=connection.principal.app,
        )
        revision = ""
    await carrier.reply(denials.render(denied, decision_id=decision_id, revision=revision))
