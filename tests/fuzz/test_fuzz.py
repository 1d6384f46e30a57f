"""Every parser that meets bytes from outside: it answers or refuses in its own words, and splits change nothing.

`make fuzz` runs these for longer (`FUZZ_SECONDS`, and the deep profile of Hypothesis).
"""

import gzip
import json
import tempfile
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from proxy.bodies import codings, json_spans, multipart
from proxy.bodies.limits import Limits
from proxy.config.errors import ConfigErrors
from proxy.dataplane import client_hello, h1
from proxy.dataplane.websocket import Endpoint, Violation
from proxy.errors import Denied
from proxy.net import dns_message, names
from tests.config.kit import HEAD, PLATFORM, mistakes, write
from tests.dataplane.test_websocket import frame
from tests.fuzz.mutate import Budget, near, outcome
from tests.inspection.kit import RegexDetector, run
from tests.net.dns_kit import query
from tests.tls.test_tls import hello_with

SMALL = Limits(max_decoded_bytes=1 << 20, ratio_floor_bytes=1 << 16)
HEADS = [
    b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    b"POST /v1/x?y=z HTTP/1.1\r\nHost: a.test:443\r\nContent-Length: 5\r\nX-A: b c\r\n\r\n",
    b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
    b"POST http://a.test/ HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nConnection: close, X\r\n\r\n",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b'HTTP/1.0 304\r\nETag: "x"\r\n\r\n',
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\n\r\n",
]
CHUNKS = [
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n",
    b"0\r\n\r\n",
    b"1\r\na\r\n" * 20 + b"0\r\n\r\n",
]
HELLOS = [hello_with(0xFAFA, b"", "api.lab.test"), hello_with(0xFE0D, b"\0" * 40, "a.test")]
FRAMES = [
    frame(1, b"hello"),
    frame(2, bytes(200)) + frame(9, b"ping"),
    frame(1, b"hel", fin=False) + frame(10, b"") + frame(0, b"lo"),
    frame(8, b"\x03\xe8bye"),
]
PLAIN = b"hello world, hello world, hello world"
BODIES = [
    json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "Ünï \u2028 \\u0031"}], "n": [1, -0.5e3, None]}
    ).encode(),
    b'{"a": "123-45-6789", "a": "{\\"b\\": [\\"x\\"]}"}',
    b"a=b&c=%31%32&%zz=+&d",
    b'--B\r\nContent-Disposition: form-data; name="f"; filename="x.txt"\r\n\r\nhi\r\n--B--\r\n',
    gzip.compress(PLAIN),
    b"PK\x03\x04" + bytes(40),
    b"%PDF-1.4\n1 0 obj\n",
    "häßlich".encode("utf-16"),
]
CODED = {
    "gzip": [gzip.compress(PLAIN), gzip.compress(PLAIN) + gzip.compress(b"x"), gzip.compress(bytes(5000))],
    "deflate": [zlib.compress(PLAIN), zlib.compress(PLAIN)[2:-4]],
    "br": [brotli.compress(PLAIN), brotli.compress(bytes(5000))],
    "zstd": [zstandard.compress(PLAIN), zstandard.compress(PLAIN) * 2],
}


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    run(b"{}")  # imports, once


HEAD_TIME, ANSWER_TIME, CHUNK_TIME, HELLO_TIME, FRAME_TIME, DNS_TIME = (Budget() for _ in range(6))
INSPECT_TIME, JSON_TIME, PART_TIME, NAME_TIME, POLICY_TIME = (Budget() for _ in range(5))
CODING_TIMES = {name: Budget() for name in CODED}


@given(near(HEADS))
def test_request_head(data: bytes) -> None:
    """What is taken survives being written and read again: one reading only."""
    if not HEAD_TIME.left():
        return
    end = outcome(lambda: h1.find_head_end(bytearray(data)), Denied)
    outcome(lambda: h1.check_request_start(bytearray(data)), Denied)
    if not isinstance(end, int) or end < 0:
        return
    head = outcome(lambda: h1.parse_request_head(data[:end]), Denied)
    if not isinstance(head, h1.RawHead):
        return
    outcome(lambda: h1.request_framing(head), Denied)
    lines = [f"{head.method} {head.target} HTTP/{head.version}\r\n".encode()]
    again = b"".join([*lines, *(b"%b: %b\r\n" % field for field in head.headers), b"\r\n"])
    assert h1.parse_request_head(again) == head
    assert again.count(b"\r\n") == len(head.headers) + 2
    assert b"\0" not in again
    assert b"\n" not in again.replace(b"\r\n", b"")


@given(near(ANSWERS))
def test_response_head(data: bytes) -> None:
    if not ANSWER_TIME.left():
        return
    end = outcome(lambda: h1.find_head_end(bytearray(data)), Denied)
    if isinstance(end, int) and end >= 0:
        head = outcome(lambda: h1.parse_response_head(data[:end]), Denied)
        if not isinstance(head, type):
            outcome(lambda: h1.response_framing(head, "GET"), Denied)
            again = h1.encode_response_head(head)
            assert again.count(b"\n") == again.count(b"\r\n") == len(head.headers) + 2


def chunked(data: bytes, size: int) -> object:
    reader, buffer, body = h1.ChunkedReader(), bytearray(), bytearray()
    for at in range(0, len(data), size):
        buffer += data[at : at + size]
        body += reader.feed(buffer)
        while reader.busy:
            body += reader.feed(buffer)
    return bytes(body), reader.done, reader.trailers


@given(near(CHUNKS), st.integers(1, 9))
def test_chunks(data: bytes, size: int) -> None:
    """Where segments end changes nothing, except that a refusal may come before later bytes are looked at."""
    if CHUNK_TIME.left():
        whole = outcome(lambda: chunked(data, len(data) or 1), Denied)
        assert outcome(lambda: chunked(data, size), Denied) == whole


def hello(data: bytes, size: int) -> object:
    reader = client_hello.HelloReader()
    for at in range(size, len(data) + size, size):
        found = reader.read(bytearray(data[:at]))
        if found is not None:
            return found
    return None


@given(near(HELLOS), st.integers(1, 50))
def test_client_hello(data: bytes, size: int) -> None:
    if HELLO_TIME.left():
        client_hello.looks_like_tls(data)
        whole = outcome(lambda: client_hello.parse(data), ValueError)
        found = outcome(lambda: hello(data, size), ValueError)
        assert (found is whole) or (found == whole) or isinstance(whole, type)


def frames(data: bytes, size: int) -> object:
    end = Endpoint("client", 1000)
    return [event for at in range(0, len(data), size) for event in end.receive(data[at : at + size])]


@given(near(FRAMES), st.integers(1, 9))
def test_websocket_frames(data: bytes, size: int) -> None:
    if FRAME_TIME.left():
        whole = outcome(lambda: frames(data, len(data) or 1), Violation)
        assert outcome(lambda: frames(data, size), Violation) == whole
        if isinstance(whole, list):
            assert all(len(getattr(event, "payload", b"")) <= 1000 for event in whole)


@given(near([query("a.test"), query("api.example.com", 65, edns=True)]))
def test_dns_question(data: bytes) -> None:
    if DNS_TIME.left():
        found = outcome(lambda: dns_message.parse_query(data), dns_message.NotAQuery, dns_message.BadQuery)
        if isinstance(found, dns_message.Query):
            assert len(dns_message.encode_answer(found, 3, ttl_s=1)) < 512
            outcome(lambda: names.canonical_host(found.name), ValueError)


@pytest.mark.parametrize("coding", CODED)
@given(data=st.data())
def test_codings(coding: str, data: st.DataObject) -> None:
    """No more than the limit comes out, and what comes out is all there was."""
    raw = data.draw(near(CODED[coding]))  # before the clock is asked: what is drawn must not depend on it
    if not CODING_TIMES[coding].left():
        return
    found = outcome(lambda: codings.decode(raw, [coding], SMALL), Denied)
    if isinstance(found, codings.Decoded):
        assert len(found.data) <= SMALL.max_decoded_bytes
        if coding == "gzip" and not found.notes:
            assert found.data == gzip.decompress(raw)


TYPES = ["application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=B",
         "application/octet-stream", "application/json; charset=utf-16", "application/x-ndjson", None]  # fmt: skip


@given(near(BODIES), st.sampled_from(TYPES), st.sampled_from(["", "gzip", "br", "deflate, gzip", "x"]))
def test_inspection_of_any_body(data: bytes, kind: str | None, coding: str) -> None:
    """A verdict, always; and what it lets pass unchanged holds no number that it would have found as text."""
    if not INSPECT_TIME.left():
        return
    verdict = outcome(
        lambda: run(data, kind, headers=[("Content-Encoding", coding)] if coding else (), detector=RegexDetector()),
        Denied,
    )
    if not isinstance(verdict, type) and verdict.action == "allow" and verdict.body is None and not coding:
        assert b"123-45-6789" not in data


@given(near(BODIES))
def test_json_spans(data: bytes) -> None:
    """Each leaf is where it says, and JSON that Python reads is read whole."""
    if not JSON_TIME.left():
        return
    leaves = outcome(lambda: json_spans.scan(data, SMALL), Denied, UnicodeDecodeError)
    if isinstance(leaves, list):
        assert all(0 <= leaf.start <= leaf.end <= len(data) for leaf in leaves)
        assert json_spans.replace(data, []) == data


@given(near(BODIES), st.sampled_from(["B", "", "x" * 80, None, "a b"]))
def test_multipart(data: bytes, boundary: str | None) -> None:
    if PART_TIME.left():
        outcome(lambda: multipart.split(data, boundary, SMALL), Denied)
        outcome(lambda: multipart.media_type(data.decode("latin-1")), Denied)


@given(
    near([b"a.test", b"[fd00::66]", b"a.test:443", b"203.0.113.5", b"xn--bcher-kva.test", b"/a/../b%2e", b"/v1/x;y"])
)
def test_names_and_paths(data: bytes) -> None:
    """A canonical name is its own canonical form: nobody can be sent round it twice."""
    if not NAME_TIME.left():
        return
    text = data.decode("latin-1")
    for canonical in (names.canonical_host, names.canonical_path):
        found = outcome(lambda canonical=canonical: canonical(text), ValueError)  # type: ignore[misc]
        if isinstance(found, str):
            assert canonical(found) == found


POLICIES = [
    (HEAD + "allow: [{id: x, host: a.com, paths: [/v1/*], methods: [POST]}]\n").encode(),
    (HEAD + "dlp: {profile: strict, otherwise: redact}\nlimits: {max_body: 4MiB}\nbudget: {daily_usd: 20}\n").encode(),
]


@given(near(POLICIES))
def test_policy_files(data: bytes) -> None:
    """Mistakes with a place and a way out, or a policy: never a crash, never half of it."""
    if not POLICY_TIME.left():
        return
    with tempfile.TemporaryDirectory() as folder:
        directory = write(Path(folder), HEAD, platform=PLATFORM)
        (directory / "apps" / "a.yaml").write_bytes(data)
        for mistake in outcome(lambda: mistakes(directory), ConfigErrors):  # type: ignore[union-attr]
            assert mistake.message
            assert mistake.fix
            assert mistake.file
