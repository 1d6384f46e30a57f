"""Views: what a text says with its disguise taken off, and where that stands in the text."""

import base64
import quopri
import time
import timeit
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bodies.views import readings, views

SSN = "123-45-6789"
SENTENCE = f"please pay card 4111 1111 1111 1111, ssn {SSN}, thanks"


def fullwidth(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


DISGUISES = {
    "zero width": lambda t: "\u200b".join(t),
    "soft hyphen": lambda t: "\u00ad".join(t),
    "nul": lambda t: "\0".join(t),
    "combining": lambda t: "\u0301".join(t),
    "full width": fullwidth,
    "circled": lambda t: t.translate({ord("0") + n: "⓪①②③④⑤⑥⑦⑧⑨"[n] for n in range(10)}),
    "arabic digits": lambda t: t.translate({ord("0") + n: chr(0x660 + n) for n in range(10)}),
    "mathematical": lambda t: t.translate({ord("0") + n: chr(0x1D7CE + n) for n in range(10)}),
    "json escapes": lambda t: "".join(f"\\u{ord(c):04x}" for c in t),
    "js escapes": lambda t: "".join(f"\\x{ord(c):02x}" for c in t),
    "braced escapes": lambda t: "".join(f"\\u{{{ord(c):x}}}" for c in t),
    "percent": lambda t: "".join(f"%{ord(c):02X}" for c in t),
    "percent twice": lambda t: quote("".join(f"%{ord(c):02X}" for c in t)),
    "percent thrice": lambda t: quote(quote("".join(f"%{ord(c):02X}" for c in t))),
    "entities": lambda t: "".join(f"&#{ord(c)};" for c in t),
    "hex entities": lambda t: "".join(f"&#x{ord(c):X};" for c in t),
    "quoted-printable": lambda t: quopri.encodestring(f"{t}é".encode(), quotetabs=True).decode()[:-4] + "=\n",
    "override": lambda t: f"\u202e{t[::-1]}\u202c",
}
ENCODINGS = {
    "base64": lambda t: base64.b64encode(t.encode()).decode(),
    "base64url": lambda t: base64.urlsafe_b64encode(t.encode()).decode().rstrip("="),
    "base64 twice": lambda t: base64.b64encode(base64.b64encode(t.encode())).decode(),
    "base64 in lines": lambda t: base64.encodebytes((t * 4).encode()).decode().strip(),
    "hex": lambda t: t.encode().hex(),
    "hex with colons": lambda t: t.encode().hex(":"),
    "hex of base64": lambda t: base64.b64encode(t.encode()).hex(),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_disguised_value_is_read_and_its_span_covers_all_of_it(disguise: str) -> None:
    hidden = DISGUISES[disguise](SSN)
    text = f"my number: {hidden} (keep it)"
    found = [r for r in readings(text) if SSN in r.text]
    assert found
    for reading in found:
        at = reading.text.index(SSN)
        start, end = reading.span(at, at + len(SSN))
        left, right = text[:start], text[end:]
        assert left.startswith("my number: ")
        assert right.endswith(" (keep it)")
        assert not any(SSN in r.text for r in readings(left + right))
        digits = [c for c in left + right if c.isdigit()]
        assert not digits


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_encoded_run_is_read_and_replaced_whole(encoding: str) -> None:
    hidden = ENCODINGS[encoding](SENTENCE)
    text = f"look: {hidden} | end"
    found = [r for r in readings(text) if SSN in r.text]
    assert found
    for reading in found:
        assert reading.whole
    spans = {r.span(0, 1) for r in found}
    assert (6, 6 + len(hidden)) in spans


@pytest.mark.parametrize(
    "text",
    [
        "",
        "An ordinary sentence, with 3 numbers: 12, 7.5 and 2026-11-24; 100% fine & dandy.",
        "def f(x):\n    return x * 2  # C:\\Users\\name",
        "https://example.com/a/b?c=d&e=f",
        "Grüße, señor — naïve café",
        "550e8400-e29b-41d4-a716-446655440000",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
)
def test_ordinary_text_has_no_other_reading(text: str) -> None:
    assert readings(text) == []


@pytest.mark.parametrize(("number", "value"), [("4.111e3", "4111"), ("4111.0", "4111"), ("-41E2", "4100")])
def test_numbers_are_written_out(number: str, value: str) -> None:
    reading = next(r for r in readings(number) if r.text == value)
    assert reading.whole
    assert reading.span(0, 2) == (0, len(number))


@pytest.mark.parametrize("number", ["1.5", "1e-7", "4111", "1e999999", "0x1f", "1.2.3"])
def test_other_numbers_have_no_other_reading(number: str) -> None:
    assert readings(number) == []


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\\u0034%x&#;=\n\u200b"), max_size=80))
def test_spans_stay_inside_the_text(text: str) -> None:
    for reading in readings(text):
        for at in range(len(reading.text)):
            start, end = reading.span(at, at + 1)
            assert 0 <= start <= end <= len(text)


@pytest.mark.parametrize(
    "text",
    ["A" * 500_000, "ab " * 200_000, "%41" * 200_000, "&#52;" * 100_000, "\\u0034" * 100_000, "é\u200b" * 200_000,
     "\u202e" * 100_000, "=\n" * 200_000, "a1 " * 200_000, ("A" * 30 + "\n") * 20_000,
     "12 " * 100_000 + "123-45-6789", "4(" * 100_000, "4111(" * 50_000,
     "a @ b." * 50_000, "one " * 100_000, "'+'" * 100_000, "<a>" * 100_000, "GB82 " * 50_000, "abcd " * 100_000],
)  # fmt: skip
def test_hostile_texts_take_linear_time(text: str) -> None:
    assert timeit.timeit(lambda: readings(text), number=1, timer=time.process_time) < 5.0


def test_every_module_of_the_package_is_a_view() -> None:
    assert {view.__module__.rpartition(".")[2] for view in views()} >= {"escapes", "numbers", "runs", "unicode"}
