"""Whole corpora against the real parsers: every gadget of Transfer-Encoding in each place of a head, and the files of
JSONTestSuite that parsers read in several ways (all others: tests/inspection). `make attack` sends them live, too."""

import base64
from pathlib import Path

import pytest

from proxy.bodies.json_spans import replace, scan
from proxy.dataplane import h1
from proxy.errors import Denied
from tests import shared_data
from tests.inspection.kit import policy, run

_ROWS = shared_data.rows("security/smuggler/te_gadgets.jsonl")
GADGETS = {row["name"]: base64.b64decode(row["header_line_b64"]) for row in _ROWS}
PLACES = {
    "with a length": b"Content-Length: 6\r\n%s\r\n",
    "alone": b"%s\r\n",
    "before the true field": b"%s\r\nTransfer-Encoding: chunked\r\n",
    "behind the true field": b"Transfer-Encoding: chunked\r\n%s\r\n",
    "as the last field": b"Content-Length: 6\r\nX-A: b\r\n%s\r\n",
}
TRANSFORMS = sorted((shared_data.ROOT / "security/jsontestsuite/test_transform").glob("*.json"))


@shared_data.needs("security/smuggler/te_gadgets.jsonl")
def test_the_gadgets_are_whole() -> None:
    assert len(_ROWS) == 668


def framed(fields: bytes) -> tuple[h1.RawHead, h1.Framing]:
    raw = b"POST / HTTP/1.1\r\nHost: a.test\r\n" + fields + b"\r\n0\r\n\r\nG"
    end = h1.find_head_end(bytearray(raw))
    assert end > 0, "no head"
    head = h1.parse_request_head(raw[:end])
    return head, h1.request_framing(head)


def test_the_true_fields_are_taken() -> None:
    assert framed(b"Transfer-Encoding: chunked\r\n")[1] == h1.Framing(None, chunked=True)
    assert framed(b"Content-Length: 6\r\n")[1] == h1.Framing(6)


@shared_data.needs("security/smuggler/te_gadgets.jsonl")
@pytest.mark.parametrize("name", GADGETS)
def test_gadget(name: str) -> None:
    """Refused, or framed in the one way that its true fields say, without a field that another parser could misread."""
    for place, fields in PLACES.items():
        try:
            parsed, framing = framed(fields % GADGETS[name])
        except Denied as denied:
            assert denied.code == "malformed", place
            continue
        squeezed = [bytes(c for c in field.lower() if chr(c).isalnum()) for field, _ in parsed.headers]
        lengths, codings = squeezed.count(b"contentlength"), squeezed.count(b"transferencoding")
        assert lengths + codings <= 1, place
        assert framing == (h1.Framing(None, chunked=True) if codings else h1.Framing(6 if lengths else 0)), place
        assert not any(set(value) & set(b"\r\n\0") for _, value in parsed.headers), place


@shared_data.needs("security/jsontestsuite/test_transform")
@pytest.mark.parametrize("path", TRANSFORMS, ids=lambda path: path.stem)
def test_transform(path: Path) -> None:
    """Files that parsers read differently leave as they came, or not at all."""
    body = path.read_bytes()
    scan(body)
    assert replace(body, []) == body
    verdict = run(body, dlp=policy(otherwise="allow"))
    assert verdict.body is None
    assert verdict.action == "allow" or verdict.code in {"encoding", "too_large", "uninspectable"}
