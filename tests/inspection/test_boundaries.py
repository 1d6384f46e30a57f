"""Where a message is cut on its way makes no difference to what is found in it."""

import gzip
import json
from itertools import pairwise

import pytest
import zstandard
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from proxy.bodies.sse import EventSplitter
from tests.inspection.kit import CARD, MAIL, SSN, run

BODY = json.dumps({"messages": [{"role": "user", "content": f"my ssn is {SSN}, card {CARD}, mail {MAIL}"}]}).encode()
FOUND = {"US_SSN", "CREDIT_CARD", "EMAIL_ADDRESS"}


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(set(cuts)), len(data)]
    return [data[first:last] for first, last in pairwise(bounds)]


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("zstd", zstandard.compress)])
@given(cuts=st.lists(st.integers(1, len(BODY) - 1), max_size=6))
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_members_and_frames_cut_anywhere(coding: str, pack: object, cuts: list[int]) -> None:
    coded = b"".join(pack(piece) for piece in pieces(BODY, cuts))  # type: ignore[operator]
    verdict = run(coded, headers=[("Content-Encoding", coding)])
    assert {finding.entity for finding in verdict.findings} == FOUND


@given(cuts=st.lists(st.integers(1, 400), max_size=12))
@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_events_cut_anywhere(cuts: list[int]) -> None:
    stream = b"".join(b"event: delta\r\ndata: " + BODY + b"\r\n\r\n: keep-alive\n\ndata: [DONE]\n\n" for _ in range(2))
    splitter = EventSplitter(1 << 20)
    events = [event for piece in pieces(stream, cuts) for event in splitter.feed(piece)]
    assert b"".join(event.raw for event in events) + splitter.rest() == stream
    assert [event.data for event in events if event.data not in (None, b"[DONE]")] == [BODY, BODY]


@given(at=st.integers(0, 20_000), padding=st.sampled_from(["word ", "12 ", "x", "é ", "\\n", '\\"', "a@ "]))
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_a_value_at_any_place_of_a_long_text(at: int, padding: str) -> None:
    filler = padding * (at // len(padding)) + " "
    body = b'{"a": "' + f"{filler}{SSN} and {MAIL} {padding * 20}".encode() + b'"}'
    found = {finding.entity for finding in run(body).findings}
    assert {"US_SSN", "EMAIL_ADDRESS"} <= found


@given(at=st.integers(0, 3000))
@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_a_disguised_value_at_any_place_of_a_text_with_other_escapes(at: int) -> None:
    """Readings show only what stands around escapes: where a stretch ends, nothing is lost."""
    words = "word " * 600
    hidden = "".join(f"&#{ord(char)};" for char in SSN)
    text = f"{words[:at]} {hidden} {words[at:]}"
    assert "US_SSN" in {finding.entity for finding in run(json.dumps({"a": text}).encode()).findings}
    half = f"{words[:at]} {SSN[:5]}&#{ord(SSN[5])};{SSN[6:]} {words[at:]}"
    assert "US_SSN" in {finding.entity for finding in run(json.dumps({"a": half}).encode()).findings}
