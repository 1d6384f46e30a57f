"""Whether a client that has ended its side of a plain connection has left, or only has nothing more to say.

Both look alike on the wire (FIN). Most proxies take either for a leave; a client may half-close all the same, and one
that left must not keep an upstream busy until its answer comes.
"""

import contextlib
from typing import Final

from proxy.dataplane.channel import Channel
from proxy.effects import Aborted

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def ended(client: Channel, version: str, *, answering: bool) -> None:
    """Called at the client's end while its request is under way. `version` of the request; `answering`: bytes of the
    answer have left.

    Before the answer, an interim one finds out (RFC 9110 section 15.2: a client that did not ask for it ignores it):
    where nobody reads any more, a reset comes back, which the sweeper sees. HTTP/1.0 knows no interim answers, and an
    end always ends the request there (RFC 1945 section 1.3). Who half-closes does so right after asking, so an end
    amid the answer is a leave; unless more requests wait, which nobody sends who leaves.
    """
    if client.buffer:
        return
    if answering or version != "1.1":
        client.abort()
        return
    with contextlib.suppress(Aborted):
        client.write(CONTINUE)
