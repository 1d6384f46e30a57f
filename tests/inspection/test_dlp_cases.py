"""The transport-level evasion cases (DLP-01 to DLP-17, as far as they concern one message), and the encoded bodies."""

import base64
import gzip
import json
import zlib
from pathlib import Path
from urllib.parse import quote

import brotli
import pytest
import zstandard

from tests import shared_data
from tests.inspection.kit import SSN, RegexDetector, policy, run

BODY = json.dumps({"messages": [{"role": "user", "content": f"my ssn is {SSN}"}]}).encode()
SUITE = "security/jsontestsuite/test_parsing"
ENCODED = "dlp/evasion_cases.json"
EVASION = json.loads((shared_data.ROOT / ENCODED).read_text()) if (shared_data.ROOT / ENCODED).exists() else {}

zstd = zstandard.ZstdCompressor().compress
escaped = ('{"a":"' + "".join(f"\\u{ord(c):04x}" for c in SSN) + '"}').encode()
nested_part = (
    b'--BB\r\nContent-Disposition: form-data; name="f"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    + base64.b64encode(b"my ssn is 123-45-6789")
    + b"\r\n--BB--\r\n"
)
named_part = b'--BB\r\nContent-Disposition: form-data; name="f"; filename="123-45-6789"\r\n\r\nx\r\n--BB--\r\n'
header_part = b"--BB\r\nX-Note: 123-45-6789\r\n\r\nx\r\n--BB--\r\n"

BODY_CASES = [
    ("DLP-01 gzip", gzip.compress(BODY), "application/json", "gzip", "pii"),
    ("DLP-01 br", brotli.compress(BODY), "application/json", "br", "pii"),
    ("DLP-01 zstd", zstd(BODY), "application/json", "zstd", "pii"),
    ("DLP-01 deflate", zlib.compress(BODY), "application/json", "deflate", "pii"),
    (
        "DLP-02 second gzip member",
        gzip.compress(b'{"a":"hello"}') + gzip.compress(BODY),
        "application/json",
        "gzip",
        "pii",
    ),
    ("DLP-02 second zstd frame", zstd(b'{"a":"hello"}') + zstd(BODY), "application/json", "zstd", "pii"),
    ("DLP-03 bytes behind gzip", gzip.compress(b"{}") + BODY, "application/json", "gzip", "encoding"),
    ("DLP-03 bytes behind deflate", zlib.compress(b"{}") + BODY, "application/json", "deflate", "encoding"),
    ("DLP-03 bytes behind br", brotli.compress(b"{}") + BODY, "application/json", "br", "encoding"),
    ("DLP-03 bytes behind zstd", zstd(b"{}") + BODY, "application/json", "zstd", "encoding"),
    ("DLP-04 stacked", gzip.compress(gzip.compress(BODY)), "application/json", "gzip, gzip", "pii"),
    ("DLP-04 unknown", BODY, "application/json", "x-foo", "encoding"),
    ("DLP-05 lying", BODY, "application/json", "gzip", "encoding"),
    ("DLP-07 escapes", escaped, "application/json", "", "pii"),
    ("DLP-08 first duplicate", f'{{"m":"{SSN}","m":"clean"}}'.encode(), "application/json", "", "pii"),
    ("DLP-08 last duplicate", f'{{"m":"clean","m":"{SSN}"}}'.encode(), "application/json", "", "pii"),
    ("DLP-09 utf-16le, labelled", BODY.decode().encode("utf-16-le"), "application/json; charset=utf-16le", "", "pii"),
    ("DLP-09 utf-16le", BODY.decode().encode("utf-16-le"), "application/json", "", "pii"),
    ("DLP-09 utf-16 with mark", BODY.decode().encode("utf-16"), "application/json", "", "pii"),
    ("DLP-09 utf-32be", BODY.decode().encode("utf-32-be"), "application/json", "", "pii"),
    ("DLP-09 utf-7", BODY, "application/json; charset=utf-7", "", "encoding"),
    ("DLP-09 ascii under a utf-16 label", BODY, "application/json; charset=utf-16", "", "encoding"),
    ("DLP-09 ascii under a utf-16 mark", b"\xff\xfe" + BODY + b" " * (len(BODY) % 2), "application/json", "", "pii"),
    ("DLP-11 base64 part", nested_part, "multipart/form-data; boundary=BB", "", "pii"),
    ("DLP-11 file name", named_part, "multipart/form-data; boundary=BB", "", "pii"),
    ("DLP-11 part header", header_part, "multipart/form-data; boundary=BB", "", "pii"),
    ("DLP-11 no boundary", named_part, "multipart/form-data", "", "encoding"),
    ("DLP-11 wrong boundary", named_part, "multipart/form-data; boundary=other", "", "encoding"),
]


@pytest.mark.parametrize(("name", "body", "label", "coding", "code"), BODY_CASES, ids=[case[0] for case in BODY_CASES])
def test_bodies(name: str, body: bytes, label: str, coding: str, code: str) -> None:
    verdict = run(body, label, headers=[("Content-Encoding", coding)] if coding else [])
    assert (verdict.action, verdict.code) == ("block", code)
    assert SSN not in repr(verdict)


PLACES = {
    "header": {"headers": [("X-Note", SSN)]},
    "cookie": {"headers": [("Cookie", f"session={SSN}")]},
    "second field of a name": {"headers": [("X-Note", "a"), ("X-Note", SSN)]},
    "percent-encoded cookie": {"headers": [("Cookie", "session=" + "".join(f"%{ord(c):02x}" for c in SSN))]},
    "query": {"target": f"/x?q={SSN}"},
    "path": {"target": f"/x/{SSN}"},
    "double percent-encoding": {"target": "/x?q=" + quote("".join(f"%{ord(c):02X}" for c in SSN))},
    "Basic user": {"headers": [("Authorization", "Basic " + base64.b64encode(SSN.encode() + b":x").decode())]},
    "JSON in a header": {"headers": [("X-Meta", json.dumps({"a": SSN}))]},
    "split over two fields": {"headers": [("X-A", "123-45-"), ("X-B", "6789")]},
    "trailer": {"trailers": ((b"X-Note", SSN.encode()),)},
}


@pytest.mark.parametrize("place", PLACES)
def test_dlp_10_outside_the_body(place: str) -> None:
    verdict = run(b"", None, method="GET", **PLACES[place])
    assert (verdict.action, verdict.code) == ("block", "pii")
    assert SSN not in repr(verdict)


def test_dlp_12_a_body_on_get() -> None:
    assert run(BODY, method="GET", headers=[("Expect", "100-continue")]).code == "pii"


@shared_data.needs(SUITE)
@pytest.mark.parametrize("file", shared_data.files(SUITE, "*.json"), ids=lambda file: file.name)
def test_dlp_14_json_test_suite(file: Path) -> None:
    """y_ passes unchanged; the rest gets a coded verdict, too. Nothing raises."""
    verdict = run(file.read_bytes(), dlp=policy(otherwise="redact"))
    assert verdict.body is None
    if file.name.startswith("y_"):
        assert (verdict.action, verdict.inspected) == ("allow", "full")
    if verdict.action == "block":
        assert verdict.code in ("encoding", "too_large", "uninspectable")


def evasion_body(case: dict[str, str]) -> bytes:
    if case["body_b64"] is not None:
        return base64.b64decode(case["body_b64"])
    text = "lorem ipsum dolor " * 60_000 + EVASION["sentence"]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()


@shared_data.needs(ENCODED)
@pytest.mark.parametrize("case", EVASION.get("cases", ()), ids=lambda case: str(case["name"]))
def test_encoded_bodies_are_refused(case: dict[str, str]) -> None:
    detector = RegexDetector()
    coded = [("Content-Encoding", case["content_encoding"])] if case["content_encoding"] else []
    verdict = run(evasion_body(case), case["content_type"], headers=coded, detector=detector)
    assert verdict.action == "block"
