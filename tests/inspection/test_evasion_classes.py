"""Every way of hiding a value x every kind of value x where it stands: it is found, and once it is redacted a second
look finds nothing."""

import base64
import bz2
import codecs
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inspection.kit import CARD, MAIL, SSN, RegexDetector, policy, run

IBAN = "GB82 WEST 1234 5698 7654 32"
VALUES = {"US_SSN": SSN, "CREDIT_CARD": CARD, "EMAIL_ADDRESS": MAIL, "IBAN_CODE": IBAN}


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def cyrillic(text: str) -> str:
    return text.translate(str.maketrans("aeopcxTHBEM", "аеорсхТНВЕМ"))


def grouped(text: str, size: int, gap: str) -> str:
    return gap.join(text[at : at + size] for at in range(0, len(text), size))


DISGUISES: dict[str, Callable[[str], str]] = {
    "base64": b64,
    "base64 behind other letters": lambda t: "key" + b64(f"my number: {t}"),
    "base64 two letters off": lambda t: "id" + b64(f"my number: {t}"),
    "base64 in groups of four": lambda t: grouped(b64(f"my number: {t}, thanks"), 4, " "),
    "base64 in lines of 16": lambda t: grouped(b64(f"my number: {t}, thanks"), 16, "\n"),
    "base64 in lines of 10": lambda t: grouped(b64(f"my number: {t}, and thanks for it"), 10, "\r\n"),
    "base64 with written line ends": lambda t: grouped(b64(f"my number: {t}, thanks"), 20, "\\n"),
    "base64 of UTF-16": lambda t: base64.b64encode(f"my number: {t}".encode("utf-16-le")).decode(),
    "base64 three times": lambda t: b64(b64(b64(t))),
    "data URL": lambda t: f"data:text/plain;base64,{b64(f'my number: {t}')}",
    "base32": lambda t: base64.b32encode(t.encode()).decode(),
    "base32 lower case, off by one": lambda t: "a" + base64.b32encode(f"number {t}".encode()).decode().lower(),
    "hex": lambda t: t.encode().hex(),
    "hex off by one": lambda t: "0" + f"my number: {t}".encode().hex(),
    "hex in pairs": lambda t: t.encode().hex(" "),
    "hex with commas": lambda t: ", ".join(hex(c) for c in t.encode()),
    "backslash x": lambda t: "".join(f"\\x{c:02x}" for c in t.encode()),
    "entities": lambda t: "".join(f"&#{ord(c)};" for c in t),
    "percent thrice": lambda t: "".join(f"%252525{ord(c):02x}".replace("%252525", "%252525") for c in t),
    "quoted-printable": lambda t: "".join(f"={ord(c):02X}" for c in t),
    "encoded word": lambda t: f"=?utf-8?B?{b64(t)}?=",
    "encoded word, Q": lambda t: f"=?utf-8?Q?{''.join(f'={ord(c):02X}' for c in t)}?=",
    "zero width": lambda t: "\u200b".join(t),
    "tag characters": lambda t: "".join(chr(0xE0000 + ord(c)) for c in t),
    "variation selectors": lambda t: "".join(chr(0xFE00 + b) if b < 16 else chr(0xE0100 + b - 16) for b in t.encode()),
    "full width": lambda t: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
    "reversed by override": lambda t: f"\u202e{t[::-1]}\u202c",
    "HTML tags": lambda t: "<b>" + t[:3] + "</b><i class='x'>" + t[3:8] + "</i>" + t[8:],
    "string concatenation": lambda t: f'x = "{t[:6]}" + "{t[6:]}"',
}


@pytest.mark.parametrize("entity", VALUES)
@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_disguised_value_is_found_and_redacted(disguise: str, entity: str) -> None:
    hidden = DISGUISES[disguise](VALUES[entity])
    body = json.dumps({"messages": [{"role": "user", "content": f"see this: {hidden} (end)"}]}).encode()
    assert entity in {finding.entity for finding in run(body).findings}
    redacted = run(body, dlp=policy(otherwise="redact"))
    assert redacted.action == "transform"
    assert redacted.body is not None
    content = json.loads(redacted.body)["messages"][0]["content"]
    assert content.startswith("see this: ")
    assert content.endswith(" (end)")
    assert not run(redacted.body, detector=RegexDetector()).findings


@pytest.mark.parametrize("text", [MAIL, IBAN])
def test_rot13_of_what_has_letters(text: str) -> None:
    assert run(json.dumps({"a": f"vs {codecs.encode(text, 'rot13')} ok"}).encode()).action == "block"


@pytest.mark.parametrize("text", [MAIL, "jane.roe@example.com"])
def test_look_alikes(text: str) -> None:
    assert run(json.dumps({"a": f"mail {cyrillic(text)} ok"}, ensure_ascii=False).encode()).action == "block"


APART = [
    "4111•1111•1111•1111", "4111(1111)1111(1111)", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "4=1=1=1=1=1=1=1=1=1=1=1=1=1=1=1",
    "[4111] [1111] [1111] [1111]", "4111<br>1111<br/>1111<br>1111", "j a n e . r o e @ e x a m p l e . c o m",
    "jane.roe @ example.com", "jane dot roe at example dot com", "jane.roe@\nexample.com", "jane.roe@exam\nple.com",
    "four one one one one one one one one one one one one one one one",
]  # fmt: skip


@pytest.mark.parametrize("text", APART)
def test_what_was_pulled_apart_is_found_and_goes_whole(text: str) -> None:
    body = json.dumps({"a": f"see: {text} ; end"}).encode()
    assert run(body).action == "block"
    redacted = run(body, dlp=policy(otherwise="redact")).body
    assert redacted is not None
    left = json.loads(redacted)["a"]
    assert left.startswith("see: ")
    assert left.endswith(" ; end")
    assert not any(char.isdigit() for char in left)
    assert "jane" not in left
    assert "e x a m" not in left


ORDINARY = [
    "Lists: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 and so on",
    "[100] [20] [3000] and {4111} rows, (12) of 4 - 8 * 15 / 16 = 23 + 42",
    "def f(a, b): return a @ b.T  # matrix product at the heart dot",
    'x = "hello" + "world"; y = a["b"] + c["d"]',
    "550e8400-e29b-41d4-a716-446655440000 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "IS31FL3741 MAX31856 AT24C256 and GB2312 encodings",
    "Two of three and four of five; one by one, seven or eight, nine at most",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert run(json.dumps({"a": text}).encode()).action == "allow"


def zipped(content: bytes, name: str = "a.txt") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return out.getvalue()


def tarred(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def docx(content: bytes) -> bytes:
    half = len(content) // 2
    text = b"<w:p><w:r><w:t>" + content[:half] + b"</w:t></w:r><w:r><w:t>" + content[half:] + b"</w:t></w:r></w:p>"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", b"<w:document>" + text + b"</w:document>")
    return out.getvalue()


def mail(content: bytes) -> bytes:
    message = EmailMessage()
    message["From"] = "someone"
    message["Subject"] = "hello"
    message.set_content("see the file\n")
    message.add_attachment(content, "application", "octet-stream", filename="x.bin")
    message.set_boundary("BB-mail")
    return message.as_bytes()


FILES: dict[str, Callable[[bytes], bytes]] = {
    "zip": zipped,
    "zip in zip": lambda c: zipped(zipped(c), "b.zip"),
    "gzip in zip": lambda c: zipped(gzip.compress(c), "b.gz"),
    "tar": tarred,
    "tar.gz": lambda c: gzip.compress(tarred(c)),
    "tar.xz": lambda c: lzma.compress(tarred(c)),
    "bz2": bz2.compress,
    "docx": docx,
    "docx in zip": lambda c: zipped(docx(c), "b.docx"),
    "mail": mail,
    "zip in mail": lambda c: mail(zipped(c)),
    "mail in zip": lambda c: zipped(mail(c), "a.eml"),
}
WAYS: dict[str, Callable[[bytes], tuple[bytes, str]]] = {
    "bare": lambda f: (f, "application/octet-stream"),
    "multipart": lambda f: (
        b'--BB\r\nContent-Disposition: form-data; name="f"\r\nContent-Type: application/x\r\n\r\n'
        + f
        + b"\r\n--BB--\r\n",
        "multipart/form-data; boundary=BB",
    ),
    "base64 in JSON": lambda f: (json.dumps({"file": base64.b64encode(f).decode()}).encode(), "application/json"),
    "data URL in a message": lambda f: (
        json.dumps({"content": [{"image_url": "data:application/x;base64," + base64.b64encode(f).decode()}]}).encode(),
        "application/json",
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", FILES)
def test_a_value_in_a_file_is_found_and_a_clean_file_passes(kind: str, way: str) -> None:
    body, label = WAYS[way](FILES[kind](b"my number is 123-45-6789, keep it " * 2))
    verdict = run(body, label)
    assert (verdict.action, verdict.code) == ("block", "pii")
    assert "US_SSN" in {finding.entity for finding in verdict.findings}
    assert run(body, label, dlp=policy(otherwise="redact")).action == "block"
    body, label = WAYS[way](FILES[kind](b"nothing to see in here, really " * 2))
    clean = run(body, label)
    assert (clean.action, clean.inspected) == ("allow", "full")


BOMBS = {
    "zip bomb": zipped(bytes(40 << 20)),
    "many files": b"",
    "bz2 bomb": bz2.compress(bytes(40 << 20)),
    "xz bomb": lzma.compress(bytes(40 << 20)),
}


@pytest.mark.parametrize("name", [name for name in BOMBS if BOMBS[name]])
def test_what_grows_too_much_is_refused(name: str) -> None:
    verdict = run(BOMBS[name], "application/octet-stream")
    assert (verdict.action, verdict.code) == ("block", "too_large")
    assert verdict.remedy


def test_archives_in_archives_end_somewhere() -> None:
    data = b"123-45-6789"
    for _ in range(12):
        data = zipped(data, "x.zip")
    assert run(data, "application/zip").code == "too_large"


TRICKS = {
    "bytes in front": b"123-45-6789 " + zipped(b"clean"),
    "bytes behind": zipped(b"clean") + b"123-45-6789",
    "a member that the directory does not list": zipped(b"123-45-6789")[:-22][: len(zipped(b"x")) and 60]
    + zipped(b"c"),
    "encrypted": b"PK\x03\x04\x14\x00\x01\x00" + zipped(b"clean")[8:],
    "cut": zipped(b"clean" * 100)[:-30],
    "tar with a tail": tarred(b"clean") + b"123-45-6789",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_an_archive_that_two_readers_read_differently_is_not_taken(trick: str) -> None:
    verdict = run(TRICKS[trick], "application/octet-stream")
    assert verdict.action == "block"


def packed(value: str) -> bytes:
    raw = value.encode()
    return b"\x82\xa1t\xd9" + bytes([len(raw)]) + raw + b"\xa1n\xcf" + struct.pack(">Q", 7)


def proto(value: str) -> bytes:
    inner = b"\x0a" + bytes([len(value)]) + value.encode()
    return b"\x12" + bytes([len(inner)]) + inner + b"\x18\x07"


def frame(message: bytes, *, compressed: bool) -> bytes:
    message = gzip.compress(message) if compressed else message
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


RECORDS = {
    "MessagePack": (packed(SSN), "application/msgpack"),
    "CBOR": (b"\xa1\x61t\x6b" + SSN.encode(), "application/cbor"),
    "CBOR, in pieces": (b"\x7f\x66123-45\x65-6789\xff", "application/cbor"),
    "protobuf": (proto(SSN), "application/x-protobuf"),
    "gRPC": (frame(proto("x"), compressed=False) + frame(proto(SSN), compressed=False), "application/grpc"),
    "gRPC, compressed": (frame(proto(SSN), compressed=True), "application/grpc+proto"),
    "gRPC with JSON": (frame(json.dumps({"a": SSN}).encode(), compressed=False), "application/grpc+json"),
    "a number in MessagePack": (
        b"\xa1n\xcf"[:0] + b"\x81\xa1n\xcf" + struct.pack(">Q", 4111111111111111),
        "application/msgpack",
    ),
    "a number in protobuf": (b"\x09" + struct.pack("<Q", 4111111111111111), "application/protobuf"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records(name: str) -> None:
    body, label = RECORDS[name]
    assert run(body, label).code == "pii"


@pytest.mark.parametrize(
    "label", ["application/msgpack", "application/cbor", "application/protobuf", "application/grpc"]
)
@given(data=st.binary(max_size=200))
@settings(max_examples=100)
def test_any_bytes_get_a_verdict(label: str, data: bytes) -> None:
    assert run(data, label).action in ("allow", "block")


@given(st.data())
@settings(max_examples=60)
def test_any_bytes_in_an_archive_get_a_verdict(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([zipped(b"clean"), tarred(b"clean"), docx(b"clean"), mail(b"clean")])))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    assert run(bytes(whole), "application/octet-stream").action in ("allow", "block")
