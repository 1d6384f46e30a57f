"""No input makes a recogniser slow: four times the text costs about four times the time (a ratio, never seconds)."""

import time

import pytest

from loadtests.hostile import HOSTILE, hostile
from proxy.recognizers import discover
from proxy.recognizers.base import Recognizer

SMALL = 4_000
GROWTH = 4
WORST = 2.5
"""A quadratic recogniser takes four times the linear time at GROWTH 4; noise on a shared machine stays below this."""
LEAST_S = 0.02
"""Below this, timings say nothing (and nobody is hurt)."""


def _seconds(recognizer: Recognizer, text: str) -> float:
    best = float("inf")
    for _ in range(2):
        begun = time.process_time()
        list(recognizer.find(text))
        best = min(best, time.process_time() - begun)
    return best


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_time_is_linear(kind: str) -> None:
    unit = HOSTILE[kind]
    small, large = hostile(unit, SMALL), hostile(unit, GROWTH * SMALL)
    for recognizer in discover():
        recognizer.load()
        slow = _seconds(recognizer, large)
        if slow > LEAST_S:
            ratio = slow / max(_seconds(recognizer, small), LEAST_S / GROWTH) / GROWTH
            assert ratio < WORST, f"{recognizer.name} on {kind}: {ratio:.1f} times the linear cost"
