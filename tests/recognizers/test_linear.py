"""No input makes a recogniser slow: four times the text costs about four times the time (a ratio, never seconds)."""

import time

import pytest

from proxy.recognizers import discover
from proxy.recognizers.base import Recognizer

SMALL = 4_000
GROWTH = 4
WORST = 2.5
"""A quadratic recogniser takes four times the linear time at GROWTH 4; noise on a shared machine stays below this."""
LEAST_S = 0.02
"""Below this, timings say nothing (and nobody is hurt)."""

HOSTILE = {
    "dots": "a.a.",
    "numbers": "1.1.",
    "digits": "1",
    "digit pairs": "1 ",
    "cards": "4111 1111 ",
    "at signs": "a@",
    "long at": "a" * 63 + "@",
    "domains": "a@a.a.a.a.",
    "colons": "1:",
    "hex colons": "ab::",
    "plus": "+1",
    "brackets": "((",
    "phones": "(415) 555-2671 ",
    "dashes": "1-",
    "begin": "-----BEGIN PRIVATE KEY-----",
    "base58": "5K" + "z" * 48 + " ",
    "prefixes": "sk-AKIAghp_xoxb-",
    "jwt": "eyJa.",
    "jwt long": "eyJ" + "a" * 200 + ".",
    "keyword": "password=",
    "keyword space": "token is ",
    "quotes": "password='",
    "urls": "http://a:b",
    "scheme": "a://",
    "iban": "GB82 ",
    "iban letters": "G B 8 2 W ",
    "punctuation": "!?",
    "parens": "(",
    "names": "Jane Roe ",
    "blank": " ",
    "newlines": "\n",
    "letters": "a",
    "wide": "\u4e00",
    "addresses": "12 Main Street ",
}


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
    small = (unit * (SMALL // len(unit) + 1))[:SMALL]
    large = (unit * (GROWTH * SMALL // len(unit) + 1))[: GROWTH * SMALL]
    for recognizer in discover():
        recognizer.load()
        slow = _seconds(recognizer, large)
        if slow > LEAST_S:
            ratio = slow / max(_seconds(recognizer, small), LEAST_S / GROWTH) / GROWTH
            assert ratio < WORST, f"{recognizer.name} on {kind}: {ratio:.1f} times the linear cost"
