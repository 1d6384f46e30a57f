"""Issue bullet 6: what reaches the upstream, byte by byte, for every form a body can take."""

import gzip
import json
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from tests.full_stack.kit import CARD, EMAIL, House, say

CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "deflate": zlib.compress,
}
# Odd on purpose: spaces, key order, a duplicate key, numbers that no float keeps, escapes, an unknown field.
ODD_JSON = (
    b'{ "z":1,"a" : 1.10, "big":12345678901234567890.000, "u":"\\u00e9\\/",\n'
    b'"to":"write to %s please","z":2 , "list":[1e2,null,true] }\n'
)


def _post(house: House, body: bytes, kind: str, app: str = "strict", **headers: str) -> bytes:
    with house.product.httpx(app) as client:
        answer = client.post(house.url() + "/v1/x", content=body, headers={"Content-Type": kind, **headers})
    assert answer.status_code == 200, answer.text
    (received,) = house.lab.api.requests
    return received.body


def test_only_the_found_span_changes(house: House) -> None:
    sent = ODD_JSON % EMAIL.encode()
    received = _post(house, sent, "application/json")
    before, after = ODD_JSON.split(b"%s")
    assert received.startswith(before)
    assert received.endswith(after)
    placeholder = received[len(before) : -len(after)]
    assert placeholder.startswith(b"<EMAIL_ADDRESS_")
    record = house.one()
    assert record["transformed"] is True
    assert record["findings"] == {"EMAIL_ADDRESS:tokenize": 1}
    assert record["inspected"] == "full"
    assert EMAIL not in json.dumps(record)


def test_what_has_no_finding_leaves_untouched(house: House) -> None:
    sent = ODD_JSON % b"nobody"
    assert _post(house, sent, "application/json") == sent
    assert "transformed" not in house.one()


@pytest.mark.parametrize("coding", CODINGS)
def test_a_compressed_body_with_a_finding_goes_out_plain_and_redacted(house: House, coding: str) -> None:
    sent = CODINGS[coding](ODD_JSON % EMAIL.encode())
    received = _post(house, sent, "application/json", **{"Content-Encoding": coding})
    assert received.startswith(ODD_JSON.split(b"%s")[0])
    (request,) = house.lab.api.requests
    assert request.header("content-encoding") is None
    assert request.header("content-length") == str(len(received))
    assert EMAIL.encode() not in house.lab.api.raw


@pytest.mark.parametrize("coding", CODINGS)
def test_a_compressed_body_without_a_finding_leaves_as_it_was(house: House, coding: str) -> None:
    sent = CODINGS[coding](ODD_JSON % b"nobody")
    assert _post(house, sent, "application/json", **{"Content-Encoding": coding}) == sent
    assert house.lab.api.requests[0].header("content-encoding") == coding


@pytest.mark.parametrize("coding", [*CODINGS, "gzip, br", None])
def test_a_card_is_blocked_under_every_coding(house: House, coding: str | None) -> None:
    body = b'{"note": "card %s"}' % CARD.encode()
    for name in (coding or "").split(", "):
        body = CODINGS[name](body) if name else body
    headers = {"Content-Encoding": coding} if coding else {}
    with house.product.httpx("strict") as client:
        answer = client.post(house.url() + "/v1/x", content=body, headers={"Content-Type": "text/plain", **headers})
    assert (answer.status_code, answer.json()["code"]) == (403, "pii")
    assert house.lab.api.raw == b""
    assert house.one()["code"] == "pii"


@pytest.mark.parametrize(
    ("coding", "body", "status", "code"),
    [
        ("rot13", b"x", 415, "encoding"),
        ("gzip", b"not gzip", 415, "encoding"),
        ("gzip", gzip.compress(b"x", mtime=0) + b"tail", 415, "encoding"),
        ("gzip", gzip.compress(b"0" * (64 << 20), mtime=0), 413, "too_large"),
    ],
)
def test_what_cannot_be_decoded_is_refused(house: House, coding: str, body: bytes, status: int, code: str) -> None:
    with house.product.httpx("strict") as client:
        answer = client.post(house.url(), content=body, headers={"Content-Encoding": coding})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert house.lab.api.raw == b""


def test_a_form_field_is_tokenized_in_place(house: House) -> None:
    received = _post(house, b"a=1&to=jane.doe%40example.com&b=%20x+y", "application/x-www-form-urlencoded")
    assert received.startswith(b"a=1&to=")
    assert received.endswith(b"&b=%20x+y")
    assert b"EMAIL_ADDRESS_" in received
    assert b"jane" not in received


def test_a_multipart_part_is_tokenized_in_place(house: House) -> None:
    def part(text: str) -> bytes:
        return (
            '--XX\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
            '--XX\r\nContent-Disposition: form-data; name="f"; filename="n.txt"\r\n'
            f"Content-Type: text/plain\r\n\r\n{text}"
            "\r\n--XX--\r\n"
        ).encode()

    received = _post(house, part(f"to {EMAIL}."), 'multipart/form-data; boundary="XX"')
    before, after = part("to |.").split(b"|")
    assert received.startswith(before)
    assert received.endswith(after)
    assert EMAIL.encode() not in received


@pytest.mark.parametrize("where", ["query", "path", "header", "header name", "chunked"])
def test_a_card_is_blocked_wherever_it_stands(house: House, where: str) -> None:
    digits = CARD.replace(" ", "")
    with house.product.httpx("strict") as client:
        answer = client.post(
            house.url() + (f"/files/{digits}" if where == "path" else "/files"),
            params={"q": CARD} if where == "query" else None,
            headers={"X-Note": CARD} if where == "header" else {f"X-{digits}": "1"} if where == "header name" else {},
            content=iter([b"card 4111 11", b"11 1111 1111"]) if where == "chunked" else b"",
        )
    assert (answer.status_code, answer.json()["code"]) == (403, "pii")
    assert digits not in answer.text
    assert house.lab.api.raw == b""
    assert digits not in json.dumps(house.one())


def test_openai_plain_and_streamed_answers_are_restored(house: House) -> None:
    client = house.openai("strict")
    text = f"Write to {EMAIL} and copy {EMAIL}."
    plain = client.chat.completions.create(**say(text))
    assert plain.choices[0].message.content == f"You said: {text}"
    stream = client.chat.completions.create(**say(text), stream=True)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(parts) == f"You said: {text}"
    assert len(parts) > 4
    assert EMAIL.encode() not in house.lab.api.raw
    first, second = (request.json()["messages"][0]["content"] for request in house.lab.api.requests)
    assert first == second, "the same value gives the same text in every call"
    assert first.count("<EMAIL_ADDRESS_") == 2
    assert {record["gen_ai.operation.name"] for record in house.new(2)} == {"chat"}


def test_anthropic_plain_and_streamed_answers_are_restored(house: House) -> None:
    client = house.anthropic("strict")
    call = {"model": "claude-haiku-4-5", "max_tokens": 200, "messages": [{"role": "user", "content": f"to {EMAIL}"}]}
    plain = client.messages.create(**call)  # type: ignore[call-overload]
    assert plain.content[0].text == f"You said: to {EMAIL}"
    with client.messages.stream(**call) as stream:  # type: ignore[arg-type]
        assert "".join(stream.text_stream) == f"You said: to {EMAIL}"
    assert EMAIL.encode() not in house.lab.api.raw
    assert house.lab.api.raw.count(b"<EMAIL_ADDRESS_") == 2
    for record in house.new(2):
        assert record["gen_ai.usage.output_tokens"] > 0


def test_a_stream_reaches_the_client_while_it_is_made(house: House) -> None:
    """The upstream sends its next part only after the client has the one before it."""
    import threading

    seen = threading.Semaphore(0)
    house.llm.before_part = lambda: seen.acquire(timeout=10)
    stream = house.openai("strict").chat.completions.create(**say("one two three four five six"), stream=True)
    text = ""
    for chunk in stream:
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
        seen.release()
    assert text == "You said: one two three four five six"


def test_a_key_for_the_provider_travels_and_the_same_key_elsewhere_does_not(house: House) -> None:
    house.openai("strict").chat.completions.create(**say("hi"))
    assert (house.lab.api.requests[0].header("authorization") or "").startswith("Bearer sk-proj-")
    house.lab.api.forget()
    with house.product.httpx("strict") as client:
        answer = client.post(house.url(), json={"key": "sk-proj-" + "Ab1" * 14})
    assert answer.json()["code"] == "pii"
    assert house.lab.api.raw == b""
