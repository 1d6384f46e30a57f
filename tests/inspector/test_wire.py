"""Frames: any chunking gives the same frames, values survive the trip, nonsense is refused."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.snapshot import DlpException, DlpPolicy, DlpRule
from proxy.inspector import wire
from proxy.model import Finding, Inspection, InspectJob

POLICY = DlpPolicy(
    "strict",
    (DlpRule(frozenset({"PERSON", "SECRET"}), "block", 20, "report", "a.yaml:3:5"),),
    "redact",
    (DlpException("PERSON", frozenset({"Jane", "\ud800"}), None, 12.5, "a.yaml:9:1"), DlpException(json_path="$.a")),
    {"image": "allow", "unknown": "block"},
    (DlpRule(frozenset({"SECRET"}), "block"),),
    "report",
    "d1",
)
JOB = InspectJob(
    "app", POLICY, "POST", "/p?q=1", ((b"A", b"\xff\x00"), (b"a", b"2")), b"\x00body", b"k" * 32, "openai",
    frozenset({"authorization"}), "message", ((b"T", b"1"),),
)  # fmt: skip
VERDICT = Inspection(
    "transform",
    (Finding("PERSON", 1, 5, 0.85, "spacy_ner", "body $.a", "tokenize", "report"),),
    "pii", "detail", "a.yaml:1:1", "/p", ((b"X", b"\xfe"),), b"new\x00body", {"<PERSON_x>": "Jane \ud800"},
    "none:image", "pii",
)  # fmt: skip


def _decoded(buffers: list[bytes], step: int = 1 << 30) -> list[wire.Frame]:
    data = b"".join(buffers)
    decoder = wire.Decoder()
    return [frame for at in range(0, len(data), step) for frame in decoder.feed(data[at : at + step])]


def test_policy_survives() -> None:
    (frame,) = _decoded(wire.encode({"t": "policy", "policy": wire.policy_fields(POLICY)}))
    assert wire.policy_from(frame.header["policy"]) == POLICY


def test_job_survives() -> None:
    (frame,) = _decoded(wire.encode({"t": "job", **wire.job_fields(JOB)}, JOB.placeholder_key, JOB.body))
    assert wire.job_from(frame, POLICY) == JOB


@pytest.mark.parametrize("verdict", [VERDICT, Inspection("allow"), Inspection("transform", body=b"")])
def test_verdict_survives(verdict: Inspection) -> None:
    (frame,) = _decoded(wire.verdict_frame(7, verdict, keep=True))
    assert wire.verdict_from(frame) == verdict
    assert (frame.header["id"], frame.header["keep"]) == (7, True)


@given(st.integers(1, 40))
def test_any_chunking_gives_the_same_frames(step: int) -> None:
    buffers = [
        *wire.encode({"t": "ping"}),
        *wire.verdict_frame(1, VERDICT, keep=False),
        *wire.encode({"t": "x"}, b"", b"ab"),
    ]
    assert _decoded(buffers, step) == _decoded(buffers)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">II", wire.MAX_HEADER_BYTES + 1, 0),
        struct.pack(">II", 2, wire.MAX_ATTACHMENTS_BYTES + 1),
        struct.pack(">II", 2, 0) + b"{}",
        struct.pack(">II", 2, 0) + b"[]",
        struct.pack(">II", 4, 0) + b"nope",
        struct.pack(">II", 11, 1) + b'{"att":[2]}x',
        struct.pack(">II", 12, 1) + b'{"att":[-1]}x',
        struct.pack(">II", 14, 1) + b'{"att":[true]}x',
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        list(wire.Decoder().feed(data))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        list(wire.Decoder().feed(data))
    except wire.WireError as error:
        assert data.hex() not in str(error)


@pytest.mark.parametrize("change", [{"action": "shrug"}, {"findings": [["X"]]}, {"headers": [["a"]]}])
def test_a_broken_verdict_is_refused(change: dict[str, Any]) -> None:
    (frame,) = _decoded(wire.verdict_frame(1, VERDICT, keep=True))
    broken = wire.Frame({**frame.header, **change}, frame.attachments)
    with pytest.raises((KeyError, TypeError, ValueError)):
        wire.verdict_from(broken)


def test_a_frame_over_the_limit_is_not_sent() -> None:
    with pytest.raises(wire.WireError):
        wire.encode({"t": "job", "x": "a" * wire.MAX_HEADER_BYTES})
