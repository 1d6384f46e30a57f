"""Charsets: labels are believed only where the bytes agree, nothing is lost on the way and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bodies.charset import CharsetLayer, codec_of, narrow_readings, printable
from proxy.bodies.layers import ByteLayer, Edit, apply, splice_bytes
from proxy.errors import Denied

JSON = '{"model": "m", "content": "hello world"}'


@pytest.mark.parametrize(
    ("data", "label", "expected"),
    [
        (JSON.encode(), None, "utf-8"),
        (JSON.encode(), "UTF-8", "utf-8"),
        (JSON.encode(), '"utf8"', "utf-8"),
        (JSON.encode(), "iso-8859-1", "utf-8"),
        ("é".encode("latin-1"), "latin1", "utf-8"),
        (JSON.encode("utf-16"), "utf-16", "utf-16-le"),
        (JSON.encode("utf-16"), None, "utf-16-le"),
        (JSON.encode("utf-16-le"), None, "utf-16-le"),
        (JSON.encode("utf-16-be"), "UTF-16BE", "utf-16-be"),
        (JSON.encode("utf-16-be"), None, "utf-16-be"),
        (JSON.encode("utf-32-le"), None, "utf-32-le"),
        (JSON.encode("utf-32-be"), None, "utf-32-be"),
        (JSON.encode("utf-32"), "utf-32", "utf-32-le"),
        (b"\xef\xbb\xbf" + JSON.encode(), None, "utf-8"),
        (b"", "utf-16", "utf-8"),
    ],
)
def test_the_codec(data: bytes, label: str | None, expected: str) -> None:
    assert codec_of(data, label) == expected


@pytest.mark.parametrize(
    ("data", "label"),
    [
        (JSON.encode(), "utf-16"),
        (JSON.encode(), "utf-32"),
        (JSON.encode("utf-16-le"), "utf-16be"),
        (JSON.encode(), "utf-7"),
        (JSON.encode(), "cp037"),
        (JSON.encode(), "shift_jis"),
        (JSON.encode(), "no-such-thing"),
    ],
)
def test_labels_that_lie_or_are_not_listed_are_refused(data: bytes, label: str) -> None:
    with pytest.raises(Denied, match="encoding"):
        codec_of(data, label)


@pytest.mark.parametrize("data", [b"\xff\xfea", b"\xff\xfe\x00\x00abc"])
def test_cut_wide_text_is_refused(data: bytes) -> None:
    with pytest.raises(Denied, match="encoding"):
        CharsetLayer(ByteLayer(data), data, 0, codec_of(data, None))


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@given(
    before=st.text("abc é€😀", min_size=20), found=st.text("xyz€😀", min_size=1), after=st.text("abc é😀", min_size=20)
)
def test_an_edit_changes_only_its_bytes(codec: str, before: str, found: str, after: str) -> None:
    mark = {"utf-16": b"\xff\xfe", "utf-32": b"\xff\xfe\0\0", "utf-8-sig": b"\xef\xbb\xbf"}.get(codec, b"")
    wire = {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": "utf-8"}.get(codec, codec)
    parts = [text.encode(wire) for text in (before, found, after)]
    data = mark + b"".join(parts)
    root = ByteLayer(b"??" + data)
    layer = CharsetLayer(root, data, 2, wire)
    assert layer.text == before + found + after
    edits = apply({layer: [Edit(len(before), len(before) + len(found), "<Ä>")]})[root]
    assert splice_bytes(root.data, edits) == b"??" + mark + parts[0] + "<Ä>".encode(wire) + parts[2]


@given(st.binary(max_size=60))
def test_any_bytes_read_as_narrow_text_and_go_back_unchanged(data: bytes) -> None:
    root = ByteLayer(data)
    layer = CharsetLayer(root, data, 0, "utf-8")
    shown = printable(layer.text)
    shown.encode()
    assert len(shown) == len(layer.text)
    for at in range(len(layer.text)):
        edits = apply({layer: [Edit(at, at + 1, layer.text[at])]})[root]
        assert splice_bytes(data, edits) == data


def test_undecodable_bytes_are_shown_as_cp1252() -> None:
    data = b"J\xfcrgen \x80 \x81"
    assert printable(CharsetLayer(ByteLayer(data), data, 0, "utf-8").text) == "Jürgen € \ufffd"


def test_ascii_inside_wide_text_is_shown_too() -> None:
    data = b"\xff\xfe" + b"my ssn is 123-45-6789 ok"
    assert "123-45-6789" in narrow_readings(data, "utf-16-le")
    assert not narrow_readings(JSON.encode("utf-16"), "utf-16-le")
    assert not narrow_readings(JSON.encode(), "utf-8")
