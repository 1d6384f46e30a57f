"""What may reach the HTTP/2 parser: whole frames, few at a time, and no more of the cheap kinds than work explains."""

import pytest
from h2.errors import ErrorCodes
from hypothesis import given
from hypothesis import strategies as st

from proxy.dataplane.h2_frames import (
    CLIENT_BUDGETS,
    CLIENT_FRAME_BYTES,
    MAX_HEAD_BYTES,
    MOST_EARNED_BURSTS,
    PREFACE,
    TURN_BYTES,
    TURN_FRAMES,
    Flood,
    FrameGuard,
)

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 1) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def guard(clock: Clock | None = None, **changes: bool) -> FrameGuard:
    return FrameGuard(CLIENT_BUDGETS, CLIENT_FRAME_BYTES, clock or Clock(), **changes)


def swallow(guard: FrameGuard, data: bytes) -> bytes:
    """What the parser would be given."""
    buffer, passed = bytearray(data), bytearray()
    while size := guard.turn(buffer):
        passed += buffer[:size]
        del buffer[:size]
    return bytes(passed)


CHEAP = {
    "reset": frame(RST_STREAM, b"\0\0\0\x08"),
    "settings": frame(SETTINGS, b"\0\4\0\0\xff\xff", stream=0),
    "ping": frame(PING, b"12345678", stream=0),
    "window": frame(WINDOW_UPDATE, b"\0\0\0\1"),
    "empty": frame(DATA),
    "other": frame(PRIORITY, b"\0\0\0\0\x10"),
}
LOOK_ALIKES = [
    ("empty", frame(DATA, b"\x05" + b"\0" * 5, PADDED)),
    ("other", frame(PING, b"12345678", ACK, stream=0)),
    ("other", frame(SETTINGS, b"", ACK, stream=0)),
    ("other", frame(16, b"\0\0\0\1u=1", stream=0)),
    ("other", frame(0xFE, b"whatever")),
    ("other", frame(GOAWAY, b"\0" * 8, stream=0)),
]


@pytest.mark.parametrize(("kind", "one"), [*CHEAP.items(), *LOOK_ALIKES])
def test_a_cheap_frame_passes_until_its_budget_is_spent(kind: str, one: bytes) -> None:
    burst = int(CLIENT_BUDGETS[kind].burst)
    watched = guard()
    assert swallow(watched, one * burst) == one * burst
    with pytest.raises(Flood) as caught:
        swallow(watched, one)
    assert caught.value.error == ErrorCodes.ENHANCE_YOUR_CALM
    assert caught.value.denied is not None
    assert caught.value.denied.code == "rate_limited"


@pytest.mark.parametrize(
    "one",
    [
        frame(HEADERS, b"x", END_HEADERS),
        frame(DATA, b"", END_STREAM),
        frame(DATA, b"1"),
        frame(DATA, b"\x01a\0", PADDED),
    ],
)
def test_frames_that_are_work_themselves_have_no_budget(one: bytes) -> None:
    assert swallow(guard(), one * 5000) == one * 5000


@pytest.mark.parametrize("kind", CHEAP)
def test_time_refills_a_budget_up_to_its_burst(kind: str) -> None:
    clock, budget = Clock(), CLIENT_BUDGETS[kind]
    watched = guard(clock)
    swallow(watched, CHEAP[kind] * int(budget.burst))
    clock.now_s += 4.5 / budget.per_s
    swallow(watched, CHEAP[kind] * 4)
    with pytest.raises(Flood):
        swallow(watched, CHEAP[kind])
    rested = guard(clock)
    clock.now_s += 1_000_000
    with pytest.raises(Flood):
        swallow(rested, CHEAP[kind] * (int(budget.burst) + 1))


def test_work_earns_the_frames_that_go_with_it() -> None:
    watched = guard()
    answer = frame(HEADERS, b"x", END_HEADERS) + frame(DATA, b"x" * 1024) * 500 + frame(DATA, b"", END_STREAM)
    watched.sent(answer * 3)
    assert watched.sent_bytes == 3 * 500 * 1024
    swallow(watched, CHEAP["ping"] * 1500 + CHEAP["window"] * 8000 + CHEAP["reset"] * 203)
    with pytest.raises(Flood):
        swallow(watched, CHEAP["reset"])


@pytest.mark.parametrize("kind", ["ping", "window"])
def test_a_large_download_earns_no_flood(kind: str) -> None:
    watched = guard()
    for _ in range(100):
        watched.sent(frame(DATA, b"x" * 16384) * 100)
    most = int(CLIENT_BUDGETS[kind].burst) * MOST_EARNED_BURSTS
    for _ in range(most // 100):
        swallow(watched, CHEAP[kind] * 100)
    with pytest.raises(Flood):
        swallow(watched, CHEAP[kind])


def test_windows_opened_by_octets_are_not_earned_by_the_frames_that_they_cause() -> None:
    watched = guard()
    watched.sent(frame(DATA, b"x") * 2000)
    with pytest.raises(Flood, match="WINDOW_UPDATE"):
        swallow(watched, CHEAP["window"] * 2000)


def test_resets_that_the_peer_causes_count_as_its_own() -> None:
    watched = guard()
    ours = frame(RST_STREAM, b"\0\0\0\3")
    watched.sent(ours * 150)
    swallow(watched, CHEAP["reset"] * 50)
    watched.sent(ours)
    with pytest.raises(Flood, match="resets"):
        watched.turn(bytearray())


@given(st.lists(st.integers(0, 400), max_size=30), st.integers(0, 3000))
def test_nothing_is_lost_or_doubled_wherever_the_bytes_are_split(sizes: list[int], split: int) -> None:
    whole = PREFACE + b"".join(frame(HEADERS, b"x" * size, END_HEADERS) for size in sizes)
    watched = guard(preface=True)
    buffer, passed = bytearray(), bytearray()
    for part in (whole[:split], whole[split:]):
        buffer += part
        while size := watched.turn(buffer):
            passed += buffer[:size]
            del buffer[:size]
    assert bytes(passed) == whole
    assert not buffer
    assert not watched.unfinished(buffer)
    assert watched.ended == len(sizes)


def test_a_turn_is_short() -> None:
    assert guard().turn(bytearray(frame(DATA, b"1") * 1000)) == TURN_FRAMES * 10
    large = frame(DATA, b"x" * CLIENT_FRAME_BYTES)
    assert guard().turn(bytearray(large * 10)) <= TURN_BYTES


def test_a_wrong_preface_is_left_to_the_parser() -> None:
    watched = guard(preface=True)
    assert watched.turn(bytearray(b"PRI * HT")) == 0
    assert watched.unfinished(bytearray(b"PRI * HT"))
    assert watched.turn(bytearray(b"GET / HTTP/1.1\r\n")) == 16


def test_a_frame_over_the_announced_size_is_refused_at_its_first_bytes() -> None:
    with pytest.raises(Flood) as caught:
        guard().turn(bytearray((CLIENT_FRAME_BYTES + 1).to_bytes(3) + bytes([DATA, 0, 0, 0, 0, 1])))
    assert caught.value.error == ErrorCodes.FRAME_SIZE_ERROR


@pytest.mark.parametrize("first", [HEADERS, CONTINUATION])
def test_a_head_in_pieces_has_a_size(first: int) -> None:
    watched = guard()
    piece = b"x" * 1000
    passed = swallow(watched, frame(first, piece) + frame(CONTINUATION, piece) * (MAX_HEAD_BYTES // 1000 - 1))
    assert passed
    assert watched.unfinished(bytearray())
    assert watched.ended == 0
    with pytest.raises(Flood) as caught:
        swallow(watched, frame(CONTINUATION, piece, END_HEADERS))
    assert caught.value.denied is not None
    assert caught.value.denied.code == "header_too_large"


def test_each_head_has_its_own_size() -> None:
    watched = guard()
    head = frame(HEADERS, b"x" * 16000) + frame(CONTINUATION, b"x" * 16000) + frame(CONTINUATION, b"", END_HEADERS)
    swallow(watched, head * 10)
    assert watched.ended == 10
    assert not watched.unfinished(bytearray())


def test_a_head_begun_with_nothing_is_begun() -> None:
    watched = guard()
    swallow(watched, frame(HEADERS))
    assert watched.unfinished(bytearray())
