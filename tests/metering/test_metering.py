"""From a tally to usage: what is reported counts, what is not is estimated and says so."""

from typing import Any

import pytest

from proxy.metering import usage_of
from proxy.providers import Tally
from tests.providers.kit import call_of

CALL = call_of(b'{"model":"gpt-4o-mini","messages":[]}')


def tally(**facts: Any) -> Tally:
    return Tally(**{"ended": True, "model": "m", **facts})


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"input_tokens": 5, "output_tokens": 7}, (5, 7, False)),
        ({"input_tokens": 5, "output_tokens": 7, "text_bytes": 3000}, (5, 7, False)),
        ({}, (19, 0, True)),
        ({"input_tokens": 5, "text_bytes": 10}, (5, 4, True)),
        ({"input_tokens": 5, "output_tokens": 0, "text_bytes": 10}, (5, 4, True)),
        ({"input_tokens": 5, "output_tokens": 0}, (5, 0, False)),
        ({"input_tokens": 0, "output_tokens": 7}, (19, 7, True)),
        ({"input_tokens": 5, "output_tokens": 1, "text_bytes": 30, "ended": False}, (5, 10, True)),
        ({"input_tokens": 5, "output_tokens": 50, "text_bytes": 30, "ended": False}, (5, 50, True)),
        (
            {"input_tokens": 5, "output_tokens": 8, "text_bytes": 30, "ended": False, "finishes": {0: "stop"}},
            (5, 8, False),
        ),
    ],
)
def test_usage(facts: dict[str, Any], expected: tuple[int, int, bool]) -> None:
    """Reported, missing, zero, and cut-short counts."""
    usage = usage_of(CALL, tally(**facts))
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == expected
    assert (usage.provider, usage.operation, usage.request_model, usage.response_model) == (
        "openai",
        "chat",
        "gpt-4o-mini",
        "m",
    )


def test_parts_never_exceed_their_totals() -> None:
    """Cached tokens are within input, reasoning within output, whatever a server claims."""
    usage = usage_of(
        CALL,
        tally(
            input_tokens=10,
            output_tokens=3,
            cache_read_input_tokens=8,
            cache_creation_input_tokens=8,
            reasoning_tokens=9,
        ),
    )
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens, usage.reasoning_tokens) == (8, 2, 3)
