"""A stream that is held whole: values that were spread over events stand in one place, and nothing else changes."""

import orjson
import pytest

from proxy.collected_events import CollectedEvents
from proxy.errors import Denied
from proxy.model import Authority, RequestHead
from proxy.providers import Call, match

HEAD = RequestHead("POST", "/v1/messages", Authority("https", "api.anthropic.com", 443), ())
BODY = b'{"model":"claude-sonnet-4-5","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"hi"}]}'


def anthropic_call() -> Call:
    provider = match(HEAD.authority, HEAD.method, HEAD.path)
    assert provider is not None
    return provider.parse_call(HEAD, BODY)


def delta(index: int, kind: str, name: str, text: str) -> bytes:
    value = {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: text}}
    return b"event: content_block_delta\ndata: " + orjson.dumps(value) + b"\n\n"


def test_channels_are_put_together_each_for_itself() -> None:
    stream = b"".join(
        [
            delta(0, "text_delta", "text", "jane."),
            delta(1, "input_json_delta", "partial_json", '{"mail": "jo'),
            delta(0, "text_delta", "text", "roe"),
            delta(1, "input_json_delta", "partial_json", 'e"}'),
            b'event: ping\ndata: {"type": "ping"}\n\n',
        ]
    )
    events = CollectedEvents.read(stream, anthropic_call())
    deltas = [orjson.loads(line).get("delta", {}) for line in events.document.split(b"\n")]
    assert [one.get("text", one.get("partial_json")) for one in deltas] == ["jane.roe", '{"mail": "joe"}', "", "", None]
    assert events.rendered(None) == stream
    changed = events.rendered(events.document.replace(b"jane.roe", b"<PERSON>"))
    assert changed.count(b"event: content_block_delta\n") == 4
    assert b'"text":"<PERSON>"' in changed


@pytest.mark.parametrize(
    ("stream", "document", "rendered"),
    [
        (b"data: [DONE]\n\n", b'"[DONE]"', b"data: [DONE]\n\n"),
        (b"data: two\ndata: lines\n\n", b'"two\\nlines"', b"data: two\ndata: lines\n\n"),
        (b'data: {"a":\ndata: 1}\n\n', b'{"a": 1}', b'data: {"a": 1}\n\n'),
        (b'data: "text"\n\n', b'"text"', b'data: "text"\n\n'),
        (b": a comment\nid: 7\nretry: 1\n\n", b"", b""),
        (b": c\r\nid: 7\r\ndata: 1\r\n\r\n", b"1", b"data: 1\n\n"),
        (b"event: jane@example.com\ndata: 1\n\n", b"1", b"data: 1\n\n"),
        (b"data: cut", b'"cut"', b"data: cut\n\n"),
        (b'data: {"text":"caf\xc3\n\n', b'"{\\"text\\":\\"caf\xef\xbf\xbd"', b'data: {"text":"caf\xef\xbf\xbd\n\n'),
    ],
)
def test_what_is_shown_to_the_inspector_and_given_to_the_client(
    stream: bytes, document: bytes, rendered: bytes
) -> None:
    events = CollectedEvents.read(stream, None)
    assert events.document == document
    assert events.rendered(None) == rendered


def test_a_document_with_other_lines_is_refused() -> None:
    events = CollectedEvents.read(b"data: 1\n\ndata: 2\n\n", None)
    with pytest.raises(Denied, match="response_blocked"):
        events.rendered(b"1")
