"""Whether a client that has ended its side of a plain connection has left, or only has nothing more to say.

Both look alike on the wire (FIN). Most proxies take either for a leave; a client may half-close all the same, and one
that left must not keep an upstream busy until its answer comes.
"""

import contextlib
from typing import Final

from proxy.dataplane import h1
from proxy.dataplane.channel import Channel
from proxy.effects import Aborted
from proxy.errors import Denied

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def ended(client: Channel, version: str, *, answering: bool) -> None:
    """Called at the client's end while its request is under way. `version` of the request; `answering`: bytes of the
    answer have left.

    Before the answer, an interim one finds out (RFC 9110 section 15.2: a client that did not ask for it ignores it):
    where nobody reads any more, a reset comes back, which the sweeper sees. HTTP/1.0 knows no interim answers, and an
    end always ends the request there (RFC 1945 section 1.3). Who half-closes does so right after asking, so an end
    amid the answer is a leave; unless another whole head waits, which nobody sends who leaves.
    """
    if not answering and version == "1.1":
        with contextlib.suppress(Aborted):
            client.write(CONTINUE)
    elif not _head_waits(client):
        client.abort()


def _head_waits(client: Channel) -> bool:
    try:
        return h1.find_head_end(client.buffer) >= 0
    except Denied:
        return False
