"""Values split over several texts: found over any seam, taken out of every piece, and never made up."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from proxy.bodies import joins
from proxy.bodies.json_spans import scan_text
from tests.inspection.kit import CARD, MAIL, SSN, policy, run

IBAN = "GB82 WEST 1234 5698 7654 32"
VALUES = [("US_SSN", SSN), ("CREDIT_CARD", CARD), ("EMAIL_ADDRESS", MAIL), ("IBAN_CODE", IBAN)]


def turns(pieces: list[str]) -> Any:
    out = []
    for piece in pieces:
        out += [{"role": "user", "content": piece}, {"role": "assistant", "content": "go on"}]
    return {"model": "m", "messages": out}


PLACES: dict[str, Any] = {
    "parts of a message": lambda p: {
        "messages": [{"role": "user", "content": [{"type": "text", "text": piece} for piece in p]}]
    },
    "turns of a user": turns,
    "items of an array": lambda p: {"notes": p},
    "fields of an object": lambda p: {f"f{number}": piece for number, piece in enumerate(p)},
    "fields of rows": lambda p: {"rows": [{"id": "x", "note": piece} for piece in p]},
    "JSON in a string": lambda p: {"arguments": json.dumps({"notes": p})},
}


def cut(value: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(set(cuts)), len(value)]
    return [value[first:last] for first, last in pairwise(bounds) if first < last]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("entity", "value"), VALUES)
@given(data=st.data())
@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_no_value_is_lost_at_any_seam(place: str, entity: str, value: str, data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(1, len(value) - 1), min_size=1, max_size=3))
    pieces = cut(value, cuts)
    pieces[0] = data.draw(st.sampled_from(["", "my number is ", "word " * 60])) + pieces[0]
    pieces[-1] += data.draw(st.sampled_from(["", " and so on", " word" * 60]))
    body = json.dumps(PLACES[place](pieces)).encode()
    if entity == "EMAIL_ADDRESS" and any("@" in p and "." in p.rpartition("@")[2].strip(".") for p in pieces):
        return  # one piece holds an address of its own, and that is what is found
    verdict = run(body)
    assert entity in {finding.entity for finding in verdict.findings}, pieces
    redacted = run(body, dlp=policy(otherwise="redact"))
    assert redacted.body is not None
    assert run(redacted.body).findings == ()


@pytest.mark.parametrize("value", [CARD, SSN, IBAN])
def test_a_number_in_single_characters(value: str) -> None:
    assert run(json.dumps({"ssn": list(value)}).encode()).action == "block"


def test_numbers_of_an_array() -> None:
    assert run(b'{"card":[4111,1111,1111,1111]}').action == "block"


def test_a_form() -> None:
    verdict = run(b"a=4111+1111&b=1111+1111", "application/x-www-form-urlencoded")
    assert [finding.entity for finding in verdict.findings] == ["CREDIT_CARD"]


def test_parts_of_a_multipart_body() -> None:
    part = b'--BB\r\nContent-Disposition: form-data; name="%d"\r\n\r\n%s\r\n'
    body = part % (1, b"4111 1111") + part % (2, b"1111 1111") + b"--BB--\r\n"
    assert run(body, "multipart/form-data; boundary=BB").code == "pii"


def test_header_fields() -> None:
    assert run(b"", None, headers=[("X-A", "jane.roe@exam"), ("X-B", "ple-corp.com")]).code == "pii"


def test_tokenized_pieces_come_back_as_one() -> None:
    verdict = run(b'{"a":["4111 1111 ","1111 1111"]}', dlp=policy(otherwise="tokenize"))
    assert verdict.body is not None
    first, second = json.loads(verdict.body)["a"]
    assert first.startswith("<CREDIT_CARD_")
    assert second == ""
    assert verdict.restore[first] == "4111 1111 1111 1111" or verdict.restore[first] == "4111111111111111"


def test_masked_pieces_keep_their_form() -> None:
    verdict = run(b'{"a":["4111 1111 ","1111 1111"]}', dlp=policy(otherwise="mask"))
    assert verdict.body is not None
    assert "4111" not in verdict.body.decode()


def test_one_finding_per_value() -> None:
    verdict = run(b'{"a":["4111 1111 ","1111 1111"]}')
    assert len(verdict.findings) == 1
    assert verdict.detail.startswith("CREDIT_CARD in ")


@pytest.mark.parametrize(
    "body",
    [
        {"to": ["a.b@example.com", "c.d@example.com"]},
        {"ids": ["1234567", "7654321", "2345678", "8765432"]},
        {"n": [100, 20, 3000], "m": [1, 2, 3, 4, 5, 6, 7]},
        {"rows": [{"id": "10023", "t": "2024-01-02"}, {"id": "10024", "t": "2024-01-03"}]},
        {"module": "os.path", "file": "main.py"},
        {"a": "see you at 10", "b": "4 of us", "c": "11 1"},
    ],
)
def test_nothing_is_made_up(body: Any) -> None:
    found = {finding.entity for finding in run(json.dumps(body).encode()).findings}
    assert found <= {"EMAIL_ADDRESS"}
    chained = [r for chain in joins.chains(scan_text(json.dumps(body))) for r in joins.readings(chain)]
    assert not any("@" in r.text and ".com" not in r.text for r in chained)


@pytest.mark.parametrize("size", [2000])
@pytest.mark.parametrize("item", ["4111", "1", "a@b.com", "GB82 WEST 1234", "sk-abc", "jane.roe", "12-34"])
def test_long_arrays_stay_cheap(item: str, size: int) -> None:
    leaves = scan_text(json.dumps([item] * size))
    found = sum(1 for chain in joins.chains(leaves) for _ in joins.readings(chain))
    assert found <= 3 * size
