"""Kinds of data, by their own first bytes."""

import base64
import hashlib
import os
import time
import timeit
import zlib

import pytest

from proxy.bodies.kinds import file_of_string, files_in_text, sniff

PNG = b"\x89PNG\r\n\x1a\n" + bytes(60)
WAV = b"RIFF\x24\0\0\0WAVEfmt " + bytes(60)
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image"),
        (b"\xff\xd8\xff\xe0" + bytes(9), "image"),
        (GIF, "image"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image"),
        (b"\0\0\0\x1cftypavif", "image"),
        (WAV, "audio"),
        (b"ID3\x04", "audio"),
        (b"OggS", "audio"),
        (b"\0\0\0\x1cftypM4A ", "audio"),
        (b"\0\0\0\x1cftypisom", "unknown"),
        (b"%PDF-1.7\n", "pdf"),
        (b"%PDF-1.7\ntrailer <</Encrypt 5 0 R>>", "encrypted"),
        (b"PK\x03\x04\x14\0\0\0", "zip"),
        (b"PK\x03\x04\x14\0\x01\0", "encrypted"),
        (b"-----BEGIN PGP MESSAGE-----\n", "encrypted"),
        (b"Salted__abcdefgh", "encrypted"),
        (b"hello", "text"),
        (b"", "text"),
        (b"a\tb\r\n", "text"),
        ("Grüße".encode(), "text"),
        ("Grüße".encode("latin-1"), "text"),
        ("hello".encode("utf-16"), "text"),
        ("hello".encode("utf-16-le"), "text"),
        ("hello 😀".encode("utf-32"), "text"),
        (b"a" * 99 + b"\0", "text"),
        (b"\x80\x04\x95abc\0\x01", "unknown"),
        (zlib.compress(os.urandom(99)), "unknown"),
        (bytes(range(256)), "unknown"),
        (b"BM, the car maker", "text"),
        ("Привет, 你好, hello".encode("utf-16"), "text"),
        (b"\xff\xfe" + hashlib.shake_256(b"noise").digest(2000), "unknown"),
    ],
)
def test_sniffing(data: bytes, kind: str) -> None:
    assert sniff(data) == kind


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b64(PNG), "image"),
        (f"data:image/png;base64,{b64(PNG)}", "image"),
        (f"DATA:image/png;charset=x;BASE64,{b64(GIF)}", "image"),
        (f"data:application/octet-stream;base64,{b64(WAV)}", "audio"),
        (base64.encodebytes(PNG).decode(), "image"),
        (base64.urlsafe_b64encode(PNG).decode().rstrip("="), "image"),
        (PNG.hex(), "image"),
        (b64(bytes(range(256)) * 2), "unknown"),
        (f"data:image/png;base64,{b64(bytes(range(64)))}", "unknown"),
        # text in base64 is text, whatever it says it is
        (f"data:image/png;base64,{b64(b'my ssn is 123-45-6789 and my card ...')}", None),
        (b64(b"my ssn is 123-45-6789 and more of the same"), None),
        # ids, digests and signatures are no files
        (bytes(range(64)).hex(), None),
        (b64(bytes(range(128, 192))), None),
        ("A sentence that is long enough, but holds no file", None),
        ("", None),
    ],
)
def test_files_in_strings(text: str, kind: str | None) -> None:
    found = file_of_string(text)
    assert (found and found[0]) == kind


NOISE = hashlib.shake_256(b"noise").digest(600)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"see ![logo](data:image/png;base64,{b64(PNG * 4)}) here", ["image"]),
        (f"here: {b64(NOISE)} ok", ["unknown"]),
        (f"here:\n{base64.encodebytes(NOISE).decode()}\nok", ["unknown"]),
        (f"{b64(WAV * 4)} {b64(PNG * 4)}", ["audio", "image"]),
        ("-" * 500, []),
        ("A" * 500 + " " + "ab/" * 100, []),
        (f"digest {NOISE[:64].hex()} and {b64(NOISE[:96])}", []),
        (f"text {b64(b'my ssn is 123-45-6789, keep it ' * 20)}", []),
        ("word " * 200, []),
    ],
)
def test_files_within_a_text(text: str, expected: list[str]) -> None:
    assert [kind for kind, _ in files_in_text(text)] == expected


@pytest.mark.parametrize(
    "text", ["A" * 500_000, ("A" * 70 + "\n") * 10_000, "data:;base64," * 50_000, "A" * 59 + " A" * 99_999]
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    assert (
        timeit.timeit(lambda: (list(files_in_text(text)), file_of_string(text)), number=1, timer=time.process_time)
        < 1.0
    )
