"""Server-sent events: cutting, line ends, and writing back."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bodies.sse import EventSplitter, EventTooLarge, parse_event

STREAM = (
    b"\xef\xbb\xbfevent: a\ndata: 1\n\n: note\n\ndata:2\r\ndata: 3\r\nid: 7\r\n\r\n\r\ndata\r\rdata: [DONE]\n\n"
    b"data: x\r\n\ndata: y\n\r\nretry: 5"
)
DATA = [b"1", None, b"2\n3", None, b"", b"[DONE]", b"x", b"y"]


def split(pieces: list[bytes], limit: int = 1000) -> tuple[list[bytes], list[bytes | None], bytes]:
    splitter = EventSplitter(limit)
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return [event.raw for event in events], [event.data for event in events], splitter.rest()


def test_every_byte_is_kept_and_every_framing_understood() -> None:
    """Events joined are the input; data lines are joined by LF."""
    raw, data, rest = split([STREAM])
    assert b"".join(raw) + rest == STREAM
    assert rest == b"retry: 5"
    assert [text for text in data if text is not None] == [text for text in DATA if text is not None]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_small_pieces(size: int) -> None:
    """Cut into pieces the data are the same."""
    raw, data, rest = split([STREAM[at : at + size] for at in range(0, len(STREAM), size)])
    assert b"".join(raw) + rest == STREAM
    assert [text for text in data if text] == [text for text in DATA if text]


lines = st.sampled_from([b"data: a", b"data:", b"event: x", b":", b"", b"data: b", b"id"])
ends = st.sampled_from([b"\n", b"\r\n"])


@given(st.lists(st.tuples(lines, ends), max_size=20), st.lists(st.integers(0, 400), max_size=5))
def test_any_cut_gives_the_same_data(rows: list[tuple[bytes, bytes]], places: list[int]) -> None:
    """Whole or in pieces, with mixed line ends, the same events carry the same data."""
    stream = b"".join(line + end for line, end in rows)
    edges = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    assert split(pieces)[1:] == split([stream])[1:]


@pytest.mark.parametrize(
    ("raw", "data", "out"),
    [
        (b"event: a\ndata: 1\n\n", b"22", b"event: a\ndata: 22\n\n"),
        (b"data:1\r\n\r\n", b"22", b"data:22\r\n\r\n"),
        (b"id: 1\ndata: 1\n\n", b"22", b"id: 1\ndata: 22\n\n"),
        (b"data: 1\nid: 9\ndata: 2\n\n", b"x\ny", b"data: x\nid: 9\ndata: y\n\n"),
        (b"\xef\xbb\xbfdata: 1\ndata\n\n", b"z\n", b"\xef\xbb\xbfdata: z\ndata\n\n"),
    ],
)
def test_with_data(raw: bytes, data: bytes, out: bytes) -> None:
    """Only data change: other lines and line ends stay."""
    assert parse_event(raw).with_data(data) == out


def test_an_endless_event_is_refused() -> None:
    """What is kept of an unfinished event is bounded."""
    splitter = EventSplitter(100)
    splitter.feed(b"data: " + b"x" * 90)
    with pytest.raises(EventTooLarge, match="100 bytes"):
        splitter.feed(b"x" * 90)


def test_long_events_in_small_pieces_take_linear_time() -> None:
    """A large event is joined once."""
    import time

    splitter = EventSplitter(1 << 24)
    started = time.process_time()
    for _ in range(20_000):
        assert splitter.feed(b"x" * 200) == []
    assert len(splitter.feed(b"\n\n")) == 1
    assert time.process_time() - started < 2
