"""A policy's own words and patterns, and stand-ins that look like ordinary text, over the whole product."""

import json

import pytest

from tests.full_stack.kit import CARD, EMAIL, House, say

TEXT = f"On bluebird: {CARD}, write to {EMAIL} about ACME-123456."


def _sent(house: House) -> str:
    return str(house.lab.api.requests[-1].json()["messages"][0]["content"])


@pytest.mark.parametrize("stream", [False, True])
def test_stand_ins_leave_and_the_values_come_back(house: House, stream: bool) -> None:
    answer = house.openai("own-data").chat.completions.create(**say(TEXT), stream=stream)
    if stream:
        read = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
    else:
        read = answer.choices[0].message.content
    sent = _sent(house)
    assert not any(value in sent for value in (CARD, EMAIL, "bluebird", "ACME-123456"))
    assert "@example.org" in sent
    assert "<CODE_NAME#" in sent
    for value in (CARD, EMAIL, "ACME-123456"):
        assert value in read
    assert "bluebird" not in read
    record = house.one(app="own-data")
    found = json.dumps(record)
    assert "CODE_NAME" in found
    assert EMAIL not in found
