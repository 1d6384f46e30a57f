"""Refusals over a budget say what was too much, and how much would have been taken."""

from proxy.bodies.limits import refuse_size


def test_the_refusal_says_what_and_how_much() -> None:
    refusal = refuse_size("the JSON body", 200, "values")
    assert refusal.code == "too_large"
    assert refusal.detail == "the JSON body exceeds the inspection limit of 200 values"
    assert "Send less" in refusal.remedy
