"""Request heads that arrive again and again on new connections: clients that connect for each call send the very same
bytes, and what they mean was decided the first time."""

import re
from typing import Final

from proxy.dataplane import h1
from proxy.head_memo import HeadMemo
from proxy.model import Authority, RequestHead

# SDKs send 1 to 2 KB; every idle connection keeps its own.
REMEMBERED_BYTES: Final = 4 << 10
MAX_HEADS: Final = 256
_LENGTH: Final = b"content-length"
_LENGTH_FIELD: Final = re.compile(rb"\r\n%b:[ \t]*([0-9]+)[ \t]*\r\n" % _LENGTH, re.IGNORECASE)


class ReadHead:
    """A head as sent and as read, and what follows from it alone: `connect`, the authority of a CONNECT; `request`, the
    authority that it was last sent to, with framing and meaning of the request there. `memo`: of the exchanges."""

    __slots__ = ("_around", "connect", "data", "memo", "raw", "request", "small")

    def __init__(self, data: bytes, raw: h1.RawHead) -> None:
        self.data = data
        self.raw = raw
        self.small = len(data) <= REMEMBERED_BYTES
        self.connect: Authority | None = None
        self.request: tuple[Authority, h1.Framing, RequestHead] | None = None
        self.memo = HeadMemo()
        self._around: tuple[bytes, bytes] | None = None

    def settle(self, authority: Authority, framing: h1.Framing, head: RequestHead) -> None:
        """What the request means at this authority. The same bytes may go elsewhere on another connection: nothing
        that was found for one authority is used for another."""
        if self.request is not None and self.request[0] != authority:
            self.memo = HeadMemo()
        self.request = (authority, framing, head)

    def again(self, data: bytes) -> "ReadHead | None":
        """The head of these bytes, when only the number in Content-Length is another; else None."""
        request = self.request
        if request is None or not self.small or not request[1].length:
            return None
        before, after = self._around or self._split()
        digits = data[len(before) : len(data) - len(after)]
        if not (data.startswith(before) and data.endswith(after)) or h1.LENGTH.fullmatch(digits) is None:
            return None
        return self._with_length(data, digits, request)

    def _split(self) -> tuple[bytes, bytes]:
        # A length that was accepted stands once and in plain digits, so that this is the one.
        found = _LENGTH_FIELD.search(self.data)
        self._around = (self.data[: found.start(1)], self.data[found.end(1) :]) if found else (self.data, self.data)
        return self._around

    def _with_length(
        self, data: bytes, digits: bytes, request: tuple[Authority, h1.Framing, RequestHead]
    ) -> "ReadHead":
        authority, _, head = request
        fields = tuple([(name, digits) if name.lower() == _LENGTH else (name, value) for name, value in head.headers])
        again = ReadHead(data, h1.RawHead(self.raw.method, self.raw.target, self.raw.version, fields))
        again.request = (
            authority,
            h1.Framing(int(digits)),
            RequestHead(head.method, head.target, authority, fields, head.protocol, head.http_version),
        )
        again.memo, again._around = self.memo, self._around
        return again


def start_of(head: RequestHead, memo: HeadMemo | None) -> bytes:
    """Request line and fields as they go out; those of the request before when these are its very own."""
    if memo is not None and memo.start is not None:
        headers, target, start = memo.start
        if headers is head.headers and target == head.target:
            return start
    start = h1.encode_start(head.method, head.target, head.headers)
    if memo is not None:
        memo.start = (head.headers, head.target, start)
    return start


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
