"""Request heads that arrive again and again on new connections: clients that connect for each call send the very same
bytes, and what they mean was decided the first time."""

from typing import Final

from proxy.dataplane import h1
from proxy.model import Authority, RequestHead

# SDKs send 1 to 2 KB; every idle connection keeps its own.
REMEMBERED_BYTES: Final = 4 << 10
MAX_HEADS: Final = 256


class ReadHead:
    """A head as sent and as read, and what follows from it alone: `connect`, the authority of a CONNECT; `request`, the
    authority that it was last sent to, with framing and meaning of the request there."""

    __slots__ = ("connect", "data", "raw", "request", "small")

    def __init__(self, data: bytes, raw: h1.RawHead) -> None:
        self.data = data
        self.raw = raw
        self.small = len(data) <= REMEMBERED_BYTES
        self.connect: Authority | None = None
        self.request: tuple[Authority, h1.Framing, RequestHead] | None = None


class Heads:
    """Those of the last moment, of all connections. Heads carry credentials: `forget` is called twice a second."""

    def __init__(self) -> None:
        self._known: dict[bytes, ReadHead] = {}

    def read(self, data: bytes) -> ReadHead:
        """`data` ends with the blank line. Denied, and not remembered, as `h1.parse_request_head`."""
        known = self._known.get(data)
        if known is None:
            known = ReadHead(data, h1.parse_request_head(data))
            if known.small and len(self._known) < MAX_HEADS:
                self._known[data] = known
        return known

    def forget(self) -> None:
        """Only open connections keep theirs."""
        self._known.clear()
