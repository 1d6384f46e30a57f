"""Multipart: parts and their spans, strictly."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bodies.layers import ByteLayer, Edit, apply, splice_bytes
from proxy.bodies.limits import DEFAULT_LIMITS, Limits
from proxy.bodies.multipart import TransferLayer, continued, media_type, split
from proxy.errors import Denied

BODY = (
    b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\nfirst\r\n'
    b"--B\r\nContent-Type: application/json\r\nContent-Transfer-Encoding: Base64\r\n\r\ne30=\r\n--B--\r\n"
)


def test_parts_and_spans() -> None:
    parts, extra = split(BODY, "B", DEFAULT_LIMITS)
    assert [BODY[slice(*part.body)] for part in parts] == [b"first", b"e30="]
    assert BODY[slice(*parts[0].head)] == b'Content-Disposition: form-data; name="a"'
    assert [(part.content_type, part.transfer_coding) for part in parts] == [
        ("text/plain", ""),
        ("application/json", "base64"),
    ]
    assert extra == []


def test_preamble_and_epilogue_are_shown() -> None:
    body = b"hello\r\n" + BODY + b"bye"
    _, extra = split(body, "B", DEFAULT_LIMITS)
    assert [body[slice(*span)].strip() for span in extra] == [b"hello", b"bye"]


@pytest.mark.parametrize(
    ("body", "boundary"),
    [
        (BODY, None),
        (BODY, ""),
        (BODY, "other"),
        (BODY, "B" * 71),
        (BODY, "B\x00"),
        (BODY[:-8], "B"),
        (b"", "B"),
        (b"--B\r\nno end of header\r\n--B--", "B"),
        (b"--B\r\nnocolon\r\n\r\nx\r\n--B--", "B"),
        (b"--B\r\nA: 1\r\na: 2\r\n\r\nx\r\n--B--", "B"),
        (b"--B\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\nx\r\n--B--", "B"),
        (b"--B\r\nContent-Encoding: gzip\r\n\r\nx\r\n--B--", "B"),
    ],
)
def test_what_does_not_parse_is_refused(body: bytes, boundary: str | None) -> None:
    with pytest.raises(Denied, match="encoding"):
        split(body, boundary, DEFAULT_LIMITS)


def test_caps() -> None:
    with pytest.raises(Denied, match="too_large"):
        split(b"--B\r\n\r\n\r\n" * 20 + b"--B--", "B", Limits(max_parts=10))
    with pytest.raises(Denied, match="too_large"):
        split(b"--B\r\nA: " + b"x" * 100 + b"\r\n\r\n\r\n--B--", "B", Limits(max_part_header_bytes=50))


@given(st.lists(st.binary(max_size=30).filter(lambda data: b"--B" not in data), min_size=1, max_size=4))
def test_contents_come_out_as_they_went_in(contents: list[bytes]) -> None:
    body = b"".join(b"--B\r\nX: y\r\n\r\n" + content + b"\r\n" for content in contents) + b"--B--"
    parts, _ = split(body, "B", DEFAULT_LIMITS)
    assert [body[slice(*part.body)] for part in parts] == contents


@given(st.binary(max_size=200))
def test_noise_never_raises_anything_but_denied(data: bytes) -> None:
    with pytest.raises(Denied):
        split(data.replace(b"--B--", b""), "B", DEFAULT_LIMITS)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("multipart/form-data; boundary=BB", ("multipart/form-data", {"boundary": "BB"})),
        ('Multipart/Mixed; BOUNDARY="a b"', ("multipart/mixed", {"boundary": "a b"})),
        ("application/json;charset=utf-8", ("application/json", {"charset": "utf-8"})),
        ("", ("", {})),
    ],
)
def test_media_types(value: str, expected: tuple[str, dict[str, str]]) -> None:
    assert media_type(value) == expected


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(Denied, match="encoding"):
        media_type("multipart/form-data; boundary=a; Boundary=b")


@pytest.mark.parametrize("coding", ["base64", "quoted-printable"])
def test_an_edit_of_a_coded_part_codes_it_anew(coding: str) -> None:
    raw = base64.encodebytes(b"ssn 123-45-6789 ok").strip() if coding == "base64" else b"ssn =\r\n123-45-6789=20ok"
    root = ByteLayer(b"head " + raw + b" tail")
    layer = TransferLayer(root, raw, 5, coding)
    assert layer.data == b"ssn 123-45-6789 ok"
    changed = splice_bytes(root.data, apply({layer: [Edit(4, 15, "<US_SSN>")]})[root])  # type: ignore[dict-item]
    assert changed.startswith(b"head ")
    assert changed.endswith(b" tail")
    again = TransferLayer(ByteLayer(changed), changed[5:-5], 5, coding)
    assert again.data == b"ssn <US_SSN> ok"


def test_a_part_that_is_no_base64_is_refused() -> None:
    with pytest.raises(Denied, match="encoding"):
        TransferLayer(ByteLayer(b"123-45-6789"), b"123-45-6789", 0, "base64")


@pytest.mark.parametrize(
    ("head", "values"),
    [
        ('form-data; filename*0="123-45"; filename*1="-6789"', ["123-45-6789"]),
        ('form-data; filename*1="-6789"; FILENAME*0="123-45"', ["123-45-6789"]),
        ("form-data; filename*0*=UTF-8''123%2D45; filename*1=-6789", ["UTF-8''123-45-6789"]),
        ('form-data; name="a"; filename="b"', []),
        ("form-data; filename*=UTF-8''a.txt", []),
    ],
)
def test_values_in_pieces_are_put_together(head: str, values: list[str]) -> None:
    assert continued(f"Content-Disposition: {head}") == values
