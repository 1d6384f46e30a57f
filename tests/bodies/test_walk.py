"""From bodies to leaves: which decoder reads what, and decoders inside decoders."""

import gzip
import json
import time
import timeit

import pytest

from proxy.bodies.layers import ByteLayer
from proxy.bodies.limits import DEFAULT_LIMITS, Limits
from proxy.bodies.walk import Walk
from proxy.errors import Denied


def walked(body: bytes, label: str, limits: Limits = DEFAULT_LIMITS, **options: object) -> Walk:
    walk = Walk(limits, **options)  # type: ignore[arg-type]
    walk.body(ByteLayer(body), 0, body, label)
    return walk


def leaves(body: bytes, label: str) -> list[tuple[str, str]]:
    return [(leaf.where(str), leaf.text) for leaf in walked(body, label).leaves]


PART = b'--B\r\nContent-Disposition: form-data; name="f"\r\nContent-Type: %s\r\n\r\n%s\r\n--B--\r\n'


@pytest.mark.parametrize(
    ("body", "label", "expected"),
    [
        (b'{"a":"x"}', "application/json", [("body $.a (key)", "a"), ("body $.a", "x")]),
        (b'{"a":"x"}', "application/vnd.api+json", [("body $.a (key)", "a"), ("body $.a", "x")]),
        (b'{"a":"x"}', "text/plain", [("body $.a (key)", "a"), ("body $.a", "x")]),
        (b'{"a":"x"}', "", [("body $.a (key)", "a"), ("body $.a", "x")]),
        (b' \n["x"]', "text/plain", [("body $[0]", "x")]),
        (b'"x"', "application/json", [("body $", "x")]),
        (b"hello", "text/plain", [("body", "hello")]),
        (b"a=b", "application/x-www-form-urlencoded", [("body form (name)", "a"), ("body form a", "b")]),
        (b"a=b", "text/plain", [("body", "a=b")]),
        (b'{"a": "{\\"b\\": [\\"x\\"]}"}', "application/json",
         [("body $.a (key)", "a"), ("body $.a $.b (key)", "b"), ("body $.a $.b[0]", "x")]),
        (b'{"a": "{not json}"}', "application/json", [("body $.a (key)", "a"), ("body $.a", "{not json}")]),
        (b'{"a":1', "application/json", [("body $.a (key)", "a"), ("body $.a", "1"), ("body", '{"a":1')]),
        (b'{"a":1}\n{"b":2}\n', "application/x-ndjson",
         [("body $.a (key)", "a"), ("body $.a", "1"), ("body $[1].b (key)", "b"), ("body $[1].b", "2")]),
        (PART % (b"text/plain", b"x"), "multipart/form-data; boundary=B",
         [("body part header", 'Content-Disposition: form-data; name="f"\r\nContent-Type: text/plain'), ("body", "x")]),
        (gzip.compress(b'["x"]', mtime=0), "application/json", [("body $[0]", "x")]),
        (b"", "application/json", []),
    ],
)  # fmt: skip
def test_leaves_and_places(body: bytes, label: str, expected: list[tuple[str, str]]) -> None:
    assert leaves(body, label) == expected


def test_the_notes_of_a_coding_are_leaves() -> None:
    plain = gzip.compress(b"hello", mtime=0)
    body = plain[:3] + b"\x08" + plain[4:10] + b"123-45-6789\0" + plain[10:]
    assert ("body", "123-45-6789") in leaves(body, "text/plain")


def test_media_are_listed_with_their_place() -> None:
    walk = walked(PART % (b"image/png", b"\x89PNG\r\n\x1a\n" + bytes(20)), "multipart/form-data; boundary=B")
    assert [(medium.kind, medium.name, medium.layer.where(str)) for medium in walk.media] == [
        ("image", "image", "body")
    ]


def test_nesting_is_capped() -> None:
    text = '["x"]'
    for _ in range(9):
        text = json.dumps([text])
    with pytest.raises(Denied, match="too_large"):
        walked(text.encode(), "application/json")


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"v": list(range(100_000))}),
        json.dumps(["[" * 100] * 5_000),
        json.dumps(["{}"] * 20_000),
        "[" + ",".join(['"\\u0041"'] * 50_000) + "]",
    ],
)
def test_big_bodies_take_linear_time(text: str) -> None:
    assert timeit.timeit(lambda: walked(text.encode(), "application/json"), number=1, timer=time.process_time) < 3.0


def test_ten_kilobytes_of_chat_take_well_under_a_millisecond() -> None:
    """The bar is about 0.3 ms on an idle core; ten times that tells a change of order from a busy machine."""
    content = 'The quarterly report shows receipts that were filed late.\nPlease "group" them. ' * 7
    body = json.dumps({"messages": [{"role": "user", "content": content} for _ in range(18)]}).encode()
    assert len(body) > 10_000
    assert (
        min(timeit.repeat(lambda: walked(body, "application/json"), number=10, repeat=5, timer=time.process_time)) / 10
        < 0.003
    )
