"""Content codings: every form that decoders accept is read whole, everything else is refused."""

import contextlib
import gzip
import tracemalloc
import zlib

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from proxy.bodies.codings import content_codings, decode, sniff_coding
from proxy.bodies.limits import Limits
from proxy.errors import Denied

TEXT = b'{"messages":[{"content":"hello"}]}' * 3


def raw_deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-15)
    return engine.compress(data) + engine.flush()


def zstd(data: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def streamed_zstd(data: bytes) -> bytes:
    engine = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return engine.compress(data) + engine.flush()


ENCODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd,
}


@pytest.mark.parametrize("coding", ENCODERS)
def test_each_coding_is_undone(coding: str) -> None:
    assert decode(ENCODERS[coding](TEXT), [coding]).data == TEXT


@pytest.mark.parametrize(
    "encode", [raw_deflate, lambda data: zlib.compress(data, 0), lambda data: zlib.compress(data, 9)]
)
def test_deflate_with_and_without_zlib_header(encode) -> None:
    assert decode(encode(TEXT), ["deflate"]).data == TEXT


@pytest.mark.parametrize(
    "encode", [streamed_zstd, lambda d: zstd(d, write_checksum=True), lambda d: zstd(d) + zstd(b"")]
)
def test_zstd_frames_of_each_shape(encode) -> None:
    assert decode(encode(TEXT), ["zstd"]).data == TEXT


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.sampled_from(["gzip", "zstd"]))
def test_all_members_are_read(chunks: list[bytes], coding: str) -> None:
    body = b"".join(ENCODERS[coding](chunk) for chunk in chunks)
    assert decode(body, [coding]).data == b"".join(chunks)


@given(st.binary(max_size=2000), st.lists(st.sampled_from(sorted(ENCODERS)), max_size=4))
def test_stacked_codings_come_off_in_reverse(data: bytes, order: list[str]) -> None:
    body = data
    for coding in order:
        body = ENCODERS[coding](body)
    assert decode(body, order).data == data


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("tail", [b"x", b"123-45-6789", b"\0"])
def test_bytes_behind_the_stream_are_refused(coding: str, tail: bytes) -> None:
    with pytest.raises(Denied, match="encoding"):
        decode(ENCODERS[coding](TEXT) + tail, [coding])


@pytest.mark.parametrize("coding", ENCODERS)
def test_every_truncation_is_refused(coding: str) -> None:
    body = ENCODERS[coding](TEXT)
    for length in range(len(body)):
        with pytest.raises(Denied, match="encoding"):
            decode(body[:length], [coding])


def test_every_truncation_of_a_zstd_frame_with_checksum_is_refused() -> None:
    body = streamed_zstd(TEXT)
    for length in range(len(body)):
        with pytest.raises(Denied, match="encoding"):
            decode(body[:length], ["zstd"])


@pytest.mark.parametrize("coding", ENCODERS)
def test_a_label_on_plain_text_is_refused(coding: str) -> None:
    with pytest.raises(Denied, match="encoding"):
        decode(TEXT, [coding])


@pytest.mark.parametrize("coding", ENCODERS)
@given(data=st.binary(max_size=60))
def test_noise_is_refused_or_decoded_and_never_raises_anything_else(coding: str, data: bytes) -> None:
    with contextlib.suppress(Denied):
        decode(data, [coding])


def test_what_no_decoder_shows_is_refused() -> None:
    hidden = b"123-45-6789"
    skippable = b"\x50\x2a\x4d\x18" + len(hidden).to_bytes(4, "little") + hidden
    preset = zlib.compressobj(zdict=b"dictionary")
    needs_dictionary = preset.compress(TEXT) + preset.flush()
    for body, coding in (
        (skippable + zstd(TEXT), "zstd"),
        (zstd(TEXT) + skippable, "zstd"),
        (needs_dictionary, "deflate"),
    ):
        with pytest.raises(Denied, match="encoding"):
            decode(body, [coding])


def test_gzip_header_fields_are_shown() -> None:
    plain = gzip.compress(TEXT, mtime=0)
    flags = bytes([4 | 8 | 16])
    fields = b"\x05\x00extra" + b"name.txt\0" + b"a comment\0"
    body = plain[:3] + flags + plain[4:10] + fields + plain[10:]
    decoded = decode(body, ["gzip"])
    assert decoded.data == TEXT
    assert decoded.notes == ("extra", "name.txt", "a comment")


@pytest.mark.parametrize("coding", ENCODERS)
def test_a_bomb_never_allocates_more_than_the_cap(coding: str) -> None:
    bomb = ENCODERS[coding](bytes(64 << 20))
    limits = Limits(max_decoded_bytes=1 << 20, ratio_floor_bytes=1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(Denied, match="too_large"):
            decode(bomb, [coding], limits)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_growth_is_capped_by_ratio_too() -> None:
    limits = Limits(ratio_floor_bytes=10_000, max_ratio=10)
    assert decode(gzip.compress(bytes(9_000)), ["gzip"], limits).data == bytes(9_000)
    with pytest.raises(Denied, match="too_large"):
        decode(gzip.compress(bytes(100_000)), ["gzip"], limits)


def test_many_tiny_members_are_refused_quickly() -> None:
    with pytest.raises(Denied, match="encoding"):
        decode(gzip.compress(b"") * 20_000, ["gzip"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ()),
        ([b"identity"], ()),
        ([b"GZIP"], ("gzip",)),
        ([b"gzip, br"], ("gzip", "br")),
        ([b"gzip", b"br"], ("gzip", "br")),
        ([b" identity ,gzip , "], ("gzip",)),
        ([b"x-gzip"], ("x-gzip",)),
    ],
)
def test_the_header_is_read_as_a_list(values: list[bytes], expected: tuple[str, ...]) -> None:
    assert content_codings(values) == expected


@pytest.mark.parametrize(
    "value", [b"x-foo", b"aws-chunked", b"compress", b"gzip;q=1", b"gzip gzip", b"\xff", b"gzip," * 5]
)
def test_other_codings_are_refused(value: bytes) -> None:
    with pytest.raises(Denied, match="encoding"):
        content_codings([value])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (gzip.compress(b"a"), "gzip"),
        (zlib.compress(b"a"), "deflate"),
        (zstd(b"a"), "zstd"),
        (b"x^2 + y^2", "deflate"),  # starts like zlib; decoding tells
        (b"xylophone", None),
        (b"{}", None),
        (b"", None),
    ],
)
def test_sniffing(data: bytes, expected: str | None) -> None:
    assert sniff_coding(data) == expected


def test_text_in_a_brotli_metadata_block_is_shown() -> None:
    # WBITS 16 (bit 0), ISLAST 0, MNIBBLES 3, reserved 0, MSKIPBYTES 1, skip length - 1, padding (RFC 7932 section 9.2)
    text = b"ssn is 123-45-6789"
    bits = 0 | 0 << 1 | 0b11 << 2 | 0 << 4 | 1 << 5 | (len(text) - 1) << 7
    head = bits.to_bytes(2, "little")
    coded = head + text + b"\x03"
    decoded = decode(coded, ("br",))
    assert decoded.data == b""
    assert "123-45-6789" in "".join(decoded.notes)
    assert decode(brotli.compress(b"my ssn is 123-45-6789"), ("br",)).notes == ()


@pytest.mark.parametrize("coding", ENCODERS)
def test_a_bomb_is_counted_and_never_held(coding: str) -> None:
    inner = ENCODERS[coding](bytes(48 << 20))
    limits = Limits(max_ratio=10_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(Denied, match="too_large"):
            decode(inner, [coding], limits)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("coding", ENCODERS)
@pytest.mark.parametrize("size", [(4 << 20) - 1, 4 << 20, (4 << 20) + 1, 9 << 20])
def test_an_honest_body_that_shrinks_a_lot_comes_whole(coding: str, size: int) -> None:
    """Beyond the usual ratio, so that it is counted first and decoded again."""
    limits = Limits(max_ratio=10_000_000)
    text = (b"the same line again\n" * (size // 20 + 1))[:size]
    assert decode(ENCODERS[coding](text), [coding], limits).data == text


def test_what_rides_along_is_told_once_of_a_body_that_is_decoded_twice() -> None:
    engine = zlib.compressobj(wbits=31)
    plain = engine.compress(bytes(9 << 20)) + engine.flush()
    named = plain[:3] + b"\x08" + plain[4:10] + b"jane.txt\0" + plain[10:]
    assert decode(named, ["gzip"], Limits(max_ratio=10_000_000)).notes == ("jane.txt",)
