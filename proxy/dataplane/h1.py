"""HTTP/1.1 messages, strictly (RFC 9110, RFC 9112): heads, framing, chunks. Sans-io and pure.

A proxy that repairs what it reads lets two readers see two messages. Whatever the grammar does not allow is refused:
bare LF, obs-fold, white space before a colon, control bytes, a second length, any transfer coding but one `chunked`.
"""

import re
from dataclasses import field
from functools import lru_cache
from typing import Final

from proxy import fields
from proxy.errors import Denied
from proxy.model import Headers, HeadFields, Response, ResponseHead
from proxy.values import dataclass

# Peers: nginx 8 KB per line and 32 KB in all, Apache 8 KB and 100 fields, node 16 KB in all. An LLM client sends 2 KB.
MAX_HEAD_BYTES: Final = 64 << 10
MAX_FIELDS: Final = 200
MAX_TARGET_BYTES: Final = 8 << 10
MAX_CHUNK_LINE_BYTES: Final = 256
MAX_CHUNK_STEPS: Final = 3 * 4096  # three steps a chunk, a microsecond each

_TCHAR: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE: Final = re.compile(rb"(" + _TCHAR + rb"{1,32}) ([\x21-\x7e]+) (HTTP/\d\.\d)")
_METHOD_START: Final = re.compile(_TCHAR + rb"{1,32}(?: |\Z)")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: ([\t \x21-\x7e\x80-\xff]*))?")
_NAME: Final = re.compile(_TCHAR + rb"+")
# What may stand in a field line (RFC 9110 section 5.5): visible bytes, blank and tab; never NUL, bare CR or bare LF.
_IN_A_LINE: Final = bytes([*b"\t ", *range(0x21, 0x7F), *range(0x80, 0x100)])
LENGTH: Final = re.compile(rb"0|[1-9]\d{0,15}")
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,15}")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Names that another parser could take for a framing or authority field once it has squeezed out odd characters.
_FRAMING: Final = {b"transferencoding": b"transfer-encoding", b"contentlength": b"content-length", b"host": b"host"}
_CODING: Final = b"transfer-encoding"
_LENGTH: Final = b"content-length"
_NOT_ALNUM: Final = re.compile(rb"[^0-9a-z]")
_NOT_A_FIELD: Final = "A header line is not `name: value` in plain characters"


@dataclass(frozen=True, slots=True)
class RawHead(HeadFields):
    """A request head as sent: `target` in any of the four forms of RFC 9112 section 3.2. `keep_alive`: the client lets
    the connection live after this exchange (section 9.3)."""

    method: str
    target: str
    version: str
    headers: Headers
    names: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    keep_alive: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        HeadFields.__post_init__(self)
        tokens = fields.nominated([*self.all(b"connection"), *self.all(b"proxy-connection")])
        lives = b"close" not in tokens if self.version == "1.1" else b"keep-alive" in tokens
        object.__setattr__(self, "keep_alive", lives)

    def only(self, name: bytes) -> bytes | None:
        """As `first`. Denied malformed when there are two: nobody may choose which of them counts."""
        values = self.all(name)
        if len(values) > 1:
            raise Denied("malformed", f"The field {name.decode()} stands twice")
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Framing:
    """How long a body is: `length` bytes, or `chunked`, or (responses only) up to the end of the connection."""

    length: int | None
    chunked: bool = False

    @property
    def empty(self) -> bool:
        """True when there is no body at all."""
        return self.length == 0


def find_head_end(buffer: bytearray) -> int:
    """Index behind the blank line, or -1. Denied `header_too_large` past the limits, `malformed` at a bare LF."""
    end = buffer.find(b"\r\n\r\n")
    if end >= 0:
        if end > MAX_HEAD_BYTES:
            raise Denied("header_too_large", f"The request head is larger than {MAX_HEAD_BYTES} bytes")
        return end + 4
    if len(buffer) > MAX_HEAD_BYTES:
        raise Denied("header_too_large", f"The request head is larger than {MAX_HEAD_BYTES} bytes")
    if b"\n\n" in buffer or (b"\n\r\n" in buffer and b"\r\n\r\n" not in buffer):
        raise Denied("malformed", "A line ends in a bare line feed")
    return -1


def check_request_start(buffer: bytearray) -> None:
    """Denied malformed as soon as what has arrived cannot become a request: nobody waits for the rest of it."""
    line, end, _ = bytes(buffer[: MAX_TARGET_BYTES + 64]).partition(b"\r\n")
    if end and _REQUEST_LINE.fullmatch(line) is None:
        raise Denied("malformed", "The request line is not `METHOD target HTTP/1.1`")
    if line and _METHOD_START.match(line) is None:
        raise Denied("malformed", "The bytes are neither TLS nor HTTP")


def parse_request_head(data: bytes) -> RawHead:
    """`data` ends with the blank line. Denied: malformed, header_too_large, method_denied."""
    line, _, rest = data[:-2].partition(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise Denied("malformed", "The request line is not `METHOD target HTTP/1.1`")
    method, target, version = match.groups()
    if version not in {b"HTTP/1.1", b"HTTP/1.0"}:
        raise Denied("malformed", "Only HTTP/1.1 and HTTP/1.0 are spoken here", status=505)
    if len(target) > MAX_TARGET_BYTES:
        raise Denied("header_too_large", f"The URL is longer than {MAX_TARGET_BYTES} bytes", status=414)
    if b"#" in target or b"\\" in target:
        raise Denied("malformed", "The request target holds a character that no URL may carry there")
    name = method.decode("ascii")
    if name not in METHODS and name != "CONNECT":
        raise Denied("method_denied", f"The method {name!r} is not spoken by this proxy", status=405)
    return RawHead(name, target.decode("ascii"), version[5:].decode("ascii"), parse_fields(rest))


def parse_fields(block: bytes) -> Headers:
    """Field lines, each ended by CRLF. Denied: malformed, header_too_large."""
    if not block:
        return ()
    lines = block.split(b"\r\n")
    if lines.pop() != b"":
        raise Denied("malformed", "A header line does not end in CRLF")
    if len(lines) > MAX_FIELDS:
        raise Denied("header_too_large", f"There are more than {MAX_FIELDS} header fields")
    # One pass in C over the whole block: what no line may hold is what is left besides the line ends.
    if block.translate(None, _IN_A_LINE) != b"\r\n" * len(lines):
        raise Denied("malformed", _NOT_A_FIELD)
    found = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise Denied("malformed", _NOT_A_FIELD)
        if complaint := _complaint(name):
            raise Denied("malformed", complaint)
        found.append((name, value.strip(b" \t")))
    return tuple(found)


@lru_cache(maxsize=1024)
def _complaint(name: bytes) -> str:
    """What is wrong with a field name, "" when nothing is. The same names come with every request."""
    if _NAME.fullmatch(name) is None:
        return _NOT_A_FIELD
    real = _FRAMING.get(_NOT_ALNUM.sub(b"", name.lower()))
    return "A header name could be mistaken for a framing field" if real is not None and real != name.lower() else ""


def request_framing(head: RawHead) -> Framing:
    """Body framing of a request (RFC 9112 section 6.3). Denied malformed on anything ambiguous."""
    framing = _framing(head.all(_CODING), head.all(_LENGTH))
    if framing is None:
        return Framing(0)
    if framing.chunked and head.version != "1.1":
        raise Denied("malformed", "Transfer-Encoding needs HTTP/1.1")
    return framing


def response_framing(head: ResponseHead, method: str) -> Framing:
    """Body framing of a response. Denied upstream_malformed on anything ambiguous."""
    if method == "HEAD" or head.status in {204, 304} or 100 <= head.status < 200:
        return Framing(0)
    try:
        framing = _framing(head.all(_CODING), head.all(_LENGTH))
    except Denied as denied:
        raise Denied("upstream_malformed", denied.detail) from None
    return framing or Framing(None)


def _framing(codings: list[bytes], lengths: list[bytes]) -> Framing | None:
    if codings:
        if lengths:
            raise Denied("malformed", "Content-Length and Transfer-Encoding together")
        if len(codings) != 1 or codings[0].lower() != b"chunked":
            raise Denied("malformed", "The only transfer coding spoken here is one `chunked`")
        return Framing(None, chunked=True)
    if not lengths:
        return None
    if len(lengths) != 1 or LENGTH.fullmatch(lengths[0]) is None:
        raise Denied("malformed", "Content-Length must stand once, in plain digits")
    return Framing(int(lengths[0]))


def parse_response_head(data: bytes) -> ResponseHead:
    """`data` ends with the blank line. Denied upstream_malformed."""
    line, _, rest = data[:-2].partition(b"\r\n")
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise Denied("upstream_malformed", "The status line is not `HTTP/1.1 code reason`")
    minor, status, reason = match.groups()
    try:
        headers = parse_fields(rest)
    except Denied as denied:
        raise Denied("upstream_malformed", denied.detail) from None
    return ResponseHead(int(status), (reason or b"").decode("latin-1"), headers, f"1.{minor.decode()}")


def response_keep_alive(head: ResponseHead) -> bool:
    """Whether the upstream lets the connection live (RFC 9112 section 9.3)."""
    tokens = fields.nominated(head.all(b"connection"))
    return b"close" not in tokens if head.http_version == "1.1" else b"keep-alive" in tokens


class ChunkedReader:
    """Takes a chunked body apart (RFC 9112 section 7.1). Chunk extensions are dropped, never passed on.

    `limit_bytes`: of the whole payload; a size line that goes past it is refused at once (None: the body is streamed,
    whatever its size). `busy`: the last `feed` stopped before it had read what there is, so that tiny chunks cannot
    hold the event loop; feed again before waiting for more.
    """

    __slots__ = ("_left", "_limit_bytes", "_state", "_total", "busy", "done", "trailers")

    def __init__(self, limit_bytes: int | None = None) -> None:
        self._left = 0
        self._limit_bytes = limit_bytes
        self._state = "size"
        self._total = 0
        self.busy = False
        self.done = False
        self.trailers: Headers = ()

    def feed(self, buffer: bytearray) -> bytes:
        """Consumes what it can from `buffer`, leaves the rest, returns payload. Denied malformed."""
        out = bytearray()
        self.busy = False
        steps = MAX_CHUNK_STEPS
        while buffer and not self.done:
            if not steps:
                self.busy = True
                break
            if not getattr(self, f"_read_{self._state}")(buffer, out):
                break
            steps -= 1
        return bytes(out)

    def _read_size(self, buffer: bytearray, _out: bytearray) -> bool:
        end = buffer.find(b"\r\n", 0, MAX_CHUNK_LINE_BYTES)
        if end < 0:
            if len(buffer) >= MAX_CHUNK_LINE_BYTES or b"\n" in buffer:
                raise Denied("malformed", "A chunk size line is too long or not ended by CRLF")
            return False
        size, _, extension = bytes(buffer[:end]).partition(b";")
        if _CHUNK_SIZE.fullmatch(size) is None or b"\n" in extension or b"\r" in extension or b"\0" in extension:
            raise Denied("malformed", "A chunk size is not plain hexadecimal")
        del buffer[: end + 2]
        self._left = int(size, 16)
        self._total += self._left
        if self._limit_bytes is not None and self._total > self._limit_bytes:
            raise Denied(
                "too_large", f"The body has more than {self._limit_bytes} bytes, which is what may be sent here"
            )
        self._state = "data" if self._left else "trailers"
        return True

    def _read_data(self, buffer: bytearray, out: bytearray) -> bool:
        part = buffer[: self._left]
        out += part
        self._left -= len(part)
        del buffer[: len(part)]
        if self._left == 0:
            self._state = "end"
        return True

    def _read_end(self, buffer: bytearray, _out: bytearray) -> bool:
        if not b"\r\n".startswith(buffer[:2]):
            raise Denied("malformed", "A chunk is longer than its size says")
        if len(buffer) < 2:
            return False
        del buffer[:2]
        self._state = "size"
        return True

    def _read_trailers(self, buffer: bytearray, _out: bytearray) -> bool:
        if buffer[:2] == b"\r\n":
            del buffer[:2]
            self.done = True
            return True
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(buffer) > MAX_HEAD_BYTES:
                raise Denied("header_too_large", "The trailers are too large")
            return False
        self.trailers = _trailers(bytes(buffer[: end + 2]))
        del buffer[: end + 4]
        self.done = True
        return True


def _trailers(block: bytes) -> Headers:
    trailers = parse_fields(block)
    fields.check_trailers(trailers)
    return trailers


def encode_request(method: str, target: str, headers: Headers, body: bytes, trailers: Headers = ()) -> bytes:
    """A whole request for an HTTP/1.1 upstream, framed by length (or chunked when there are trailers)."""
    return encode_from(encode_start(method, target, headers), method, body, trailers)


def encode_start(method: str, target: str, headers: Headers) -> bytes:
    """Request line and fields, without those of framing."""
    return b"".join([f"{method} {target} HTTP/1.1\r\n".encode("ascii"), *[b"%b: %b\r\n" % field for field in headers]])


def encode_from(start: bytes, method: str, body: bytes, trailers: Headers = ()) -> bytes:
    """A whole request, its start given."""
    lines = [start]
    if trailers:
        lines.append(b"Transfer-Encoding: chunked\r\n\r\n")
        if body:
            lines += [b"%x\r\n" % len(body), body, b"\r\n"]
        lines += [b"0\r\n", *(b"%b: %b\r\n" % field for field in trailers), b"\r\n"]
        return b"".join(lines)
    if body or method in {"POST", "PUT", "PATCH"}:
        lines.append(b"Content-Length: %d\r\n" % len(body))
    return b"".join((*lines, b"\r\n", body))


def encode_response_head(head: ResponseHead, *framing: tuple[bytes, bytes]) -> bytes:
    """Status line, fields and `framing` fields, up to the blank line."""
    lines = [f"HTTP/1.1 {head.status} {head.reason}\r\n".encode("latin-1")]
    lines += [b"%b: %b\r\n" % field for field in (*head.headers, *framing)]
    return b"".join((*lines, b"\r\n"))


def encode_whole(response: Response) -> bytes:
    """An answer of ours after which the connection ends."""
    framing = ((b"Content-Length", b"%d" % len(response.body)), (b"Connection", b"close"))
    return encode_response_head(response.head, *framing) + response.body


def encode_chunk(data: bytes) -> bytes:
    """One chunk; nothing for no data, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def encode_last_chunk(trailers: Headers = ()) -> bytes:
    """The end of a chunked body."""
    return b"".join((b"0\r\n", *(b"%b: %b\r\n" % field for field in trailers), b"\r\n"))
