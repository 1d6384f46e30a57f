"""Texts outside the body: what is shown to the detector, what has no room for data."""

import base64
import time
import timeit

import pytest

from proxy.bodies.head import JoinedText, header_texts, target_texts, trailer_texts
from proxy.bodies.layers import is_editable
from proxy.bodies.limits import DEFAULT_LIMITS


def shown(name: str, value: str) -> list[str]:
    return [layer.text for layer in header_texts(((name.encode(), value.encode()),), frozenset())]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "api.openai.com"),
        ("Host", "[2001:db8::1]:8443"),
        ("Content-Length", "190"),
        ("Content-Type", "application/json; charset=utf-8"),
        ("Content-Encoding", "gzip, br"),
        ("Accept", "application/json, text/plain;q=0.9, */*"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Accept-Language", "en-GB,en;q=0.8,de;q=0.5"),
        ("Connection", "keep-alive"),
        ("Expect", "100-continue"),
        ("User-Agent", "OpenAI/Python 3.54.0"),
        ("User-Agent", "curl/8.5.0"),
        (
            "User-Agent",
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML) Chrome/131.0.6778.86 Safari/537.36",
        ),
        ("X-Stainless-Lang", "python"),
        ("X-Stainless-Runtime-Version", "3.13.0"),
        ("anthropic-version", "2023-06-01"),
        ("Proxy-Authorization", "Basic eHg6eXk="),
    ],
)
def test_plain_fields_are_left_out(name: str, value: str) -> None:
    assert shown(name, value) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Length", "4111111111111111"),
        ("Content-Type", "text/plain; note=123-45-6789"),
        ("Accept", "jane@example.com"),
        ("Accept", "x/4111-1111-1111-1111"),
        ("User-Agent", "app/123.45.6789"),
        ("User-Agent", "Chrome/123.45.6789.1"),
        ("X-Stainless-Lang", "123-45-6789"),
        ("User-Agent", "app ghp_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGhIj"),
        ("X-Stainless-Lang", "AKIAQWERTYUIOPASDFGH"),
        ("Accept-Language", "AKIAQWERTYUIOPASDFGH"),
        ("Accept", "text/AKIAQWERTYUIOPASDFGH"),
        ("Transfer-Encoding", "123-45-6789"),
        ("X-Note", "hello"),
        ("Cookie", "a=b"),
        ("Authorization", "Bearer abc"),
        ("Host", "api.openai.com/jane@example.com"),
    ],
)
def test_everything_else_is_shown(name: str, value: str) -> None:
    assert shown(name, value) == [value]


def test_credentials_of_the_entry_are_left_out() -> None:
    assert header_texts(((b"Authorization", b"Bearer abc"),), frozenset({"authorization"})) == []


def test_basic_credentials_are_decoded() -> None:
    coded = base64.b64encode(b"jane@example.com:pw").decode()
    assert shown("Authorization", f"Basic {coded}") == [f"Basic {coded}", "jane@example.com:pw"]
    assert shown("X-Auth", f"BASIC {coded.rstrip('=')}")[1] == "jane@example.com:pw"


def test_odd_names_are_shown() -> None:
    assert shown("X-123-45-6789", "a")[0] == "X-123-45-6789"
    assert shown("X-Request-Id", "a") == ["a"]


def test_what_frames_the_message_is_never_rewritten() -> None:
    fields = ((b"Content-Type", b"text/plain; note=123-45-6789"), (b"X-Note", b"hello"))
    assert [is_editable(layer) for layer in header_texts(fields, frozenset())] == [False, True]


def test_values_are_also_read_on_end() -> None:
    fields = ((b"X-A", b"id 123-45"), (b"Accept", b"*/*"), (b"X-B", b"-6789"), (b"X-C", b"4111"))
    joined = header_texts(fields, frozenset())[-1]
    assert isinstance(joined, JoinedText)
    assert joined.text == "id 123-45-67894111"
    assert not is_editable(joined)
    assert [joined.counts(*span) for span in ((3, 14), (3, 9), (9, 14), (10, 18), (0, 12))] == [
        True,
        False,
        False,
        False,
        False,
    ]


def test_two_urls_on_end_are_no_finding() -> None:
    fields = ((b"Origin", b"https://app.example.com"), (b"Referer", b"https://app.example.com/1-2"), (b"X-A", b"3-4"))
    joined = header_texts(fields, frozenset())[-1]
    assert isinstance(joined, JoinedText)
    assert not joined.counts(0, len(joined.text))


def test_trailers() -> None:
    assert not any(is_editable(layer) for layer in trailer_texts(((b"X-A", b"b"),)))


def test_the_target_is_taken_apart() -> None:
    _, leaves = target_texts("/a%20b/c?q=x%40y&z", DEFAULT_LIMITS)
    assert [(leaf.text, is_editable(leaf), leaf.where(str)) for leaf in leaves] == [
        ("/a b/c", False, "path"),
        ("q", False, "query (name)"),
        ("x@y", True, "query q"),
        ("z", False, "query (name)"),
    ]


@pytest.mark.parametrize("value", ["1 " * 50_000, "a" * 100_000, "(" * 100_000, "Chrome/1" * 10_000])
def test_long_values_take_linear_time(value: str) -> None:
    assert timeit.timeit(lambda: shown("User-Agent", value), number=1, timer=time.process_time) < 0.5


@pytest.mark.parametrize("name", ["Accept", "Accept-Language", "Cache-Control", "Content-Type", "Priority", "Trailer"])
def test_a_sentence_is_no_list(name: str) -> None:
    assert shown(name, "John Smith lives in Elm Street") == ["John Smith lives in Elm Street"]


def test_a_plain_field_that_stands_twice_is_looked_at() -> None:
    fields = ((b"Accept", b"text/html"), (b"Accept", b"john, smith"), (b"accept", b"elm, street"))
    texts = [layer.text for layer in header_texts(fields, frozenset())]
    assert {"john, smith", "elm, street"} <= set(texts)
    assert "text/html" not in texts


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("X-Note", []),
        ("Access-Control-Request-Headers", []),
        ("anthropic-dangerous-direct-browser-access", []),
        ("X-AKIAQWERTYUIOPASDFGH", ["X-AKIAQWERTYUIOPASDFGH", "AKIAQWERTYUIOPASDFGH"]),
        ("AKIAQWERTYUIOPASDFGH", ["AKIAQWERTYUIOPASDFGH"]),
        ("X-123-45-6789", ["X-123-45-6789", "123-45-6789"]),
    ],
)
def test_a_name_with_room_for_data_is_shown_with_and_without_its_prefix(name: str, seen: list[str]) -> None:
    assert shown(name, "a") == [*seen, "a"]
