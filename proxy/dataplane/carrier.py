"""The two ends of one exchange, as the runtime sees them: the client that asked and the upstream that answers.

The lane and the HTTP/2 addon each implement it; the exchange and the runtime know nothing else of the wire.
"""

from typing import TYPE_CHECKING, Protocol

from proxy.effects import Forward, Tunnel, Upgrade
from proxy.model import Headers, Response, ResponseHead, Traffic

if TYPE_CHECKING:
    from proxy.answer import AnswerTap


class Carrier(Protocol):
    """Methods raise `Denied` (nothing more may leave) or `Aborted` (one side is gone)."""

    async def read_body(self, max_bytes: int) -> tuple[bytes, Headers]:
        """Whole request body without transfer coding, and its trailers; sends `100 Continue` first where asked."""

    async def forward(self, effect: Forward) -> ResponseHead:
        """Dials a vetted address (or takes a pooled connection of the same app), sends the request, reads the final
        response head; interim answers are passed on."""

    async def relay(self, head: ResponseHead, tap: "AnswerTap") -> None:
        """Sends `head` and the body through `tap` to the client, with back-pressure, until the body's own end."""

    async def collect(self, max_bytes: int) -> bytes:
        """The whole response body instead of relaying it."""

    async def upgrade(self, effect: Upgrade) -> Traffic:
        """Runs the WebSocket until both sides are closed."""

    async def tunnel(self, effect: Tunnel) -> Traffic:
        """Connects and copies bytes both ways, unseen."""

    async def reply(self, response: Response) -> None:
        """Sends a whole answer of ours; closes the connection when the request was not read to its end."""

    @property
    def upstream_ip(self) -> str:
        """The address that was dialled, "" before that."""

    @property
    def sent(self) -> bool:
        """False only while no byte of the request can have reached an upstream: it costs nothing then."""

    @property
    def started(self) -> bool:
        """True once bytes of an answer have reached the client: a denial can then only cut the connection."""
