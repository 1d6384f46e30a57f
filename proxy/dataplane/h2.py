"""HTTP/2 for entries with `protocols: [h2]`: the lane hands a connection over once its ClientHello has been allowed."""

import ssl
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proxy.config.snapshot import Entry
from proxy.dataplane.channel import Channel
from proxy.keys.leaf import Leaf, server_context
from proxy.model import Authority, Listener, Principal

if TYPE_CHECKING:
    from proxy.dataplane.lane_server import LaneServer

_HANDSHAKE_DEADLINE_S: Final = 10.0
_MAX_CONTEXTS: Final = 256
_contexts: OrderedDict[str, tuple[Leaf, ssl.SSLContext]] = OrderedDict()


async def serve_h2(
    server: "LaneServer",
    channel: Channel,
    identify: Callable[[], Principal],
    listener: Listener,
    entry: Entry,
    authority: Authority,
) -> None:
    """Answers the ClientHello that stands in `channel.buffer` and serves all streams until the client leaves.

    `identify`: who calls, now. Raises Denied (nobody known any more, no leaf); ssl.SSLError, Aborted, TimeoutError when
    the handshake fails; nothing is dialled then.
    """
    from proxy.dataplane.h2_connection import H2Connection
    from proxy.dataplane.master import current_master

    context = _client_context(server.services.leaf_store.leaf(authority.host, identify().app), authority.host)
    channel.deadline_s = channel.loop.time() + _HANDSHAKE_DEADLINE_S
    await channel.start_tls(context, server_side=True)
    channel.deadline_s = None
    if channel.tls is None or channel.tls.selected_alpn_protocol() != "h2":
        channel.abort()
        return
    await H2Connection(server, current_master(), channel, identify, listener, entry, authority).serve()


def _client_context(leaf: Leaf, host: str) -> ssl.SSLContext:
    """The leaf's context with ALPN h2 only, kept per host so that session tickets work."""
    known = _contexts.get(host)
    if known is None or known[0] is not leaf:
        context = server_context(leaf.pem)
        context.set_alpn_protocols(["h2"])
        known = _contexts[host] = (leaf, context)
        while len(_contexts) > _MAX_CONTEXTS:
            _contexts.popitem(last=False)
    _contexts.move_to_end(host)
    return known[1]
