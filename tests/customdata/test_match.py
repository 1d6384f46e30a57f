"""Rows in messages: columns, distance, counts, and texts made to be slow."""

import time
from dataclasses import replace

import pytest

from proxy.config.snapshot import DlpPolicy, DlpRule
from proxy.customdata import match
from proxy.customdata.detector import CustomDetector, with_custom_data
from proxy.inspection import inspect
from proxy.model import InspectJob
from tests.customdata.kit import ROWS, Nothing, found, loaded, rule

INDEX = loaded()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["Jane Roe, jane.roe@corp.example"], ["Jane Roe", "jane.roe@corp.example"]),
        (["roe jane at 030/1234567"], ["roe jane", "030/1234567"]),
        (["JÜRGEN MÜLLER: GB82WEST12345698765432"], ["JÜRGEN MÜLLER", "GB82WEST12345698765432"]),
        (["Juergen Muller: GB82WEST12345698765432"], []),
        (["John Smith, +1 415.555.2671"], ["John Smith", "415.555.2671", "1 415.555.2671"]),
        (["Jane Roe"], []),
        (["Jane Roe, jm@corp.example"], []),
        (["Jane", "Roe", "jane.roe@corp.example"], []),
        (["Jane Roe", "some note", "030 1234567"], ["Jane Roe", "030 1234567"]),
        (["Jane Roe" + " word" * 18, "jane.roe@corp.example"], ["Jane Roe", "jane.roe@corp.example"]),
        (["Jane Roe" + " word" * 19, "jane.roe@corp.example"], []),
        (["Jane Roe and Jane Roe again and Jane Roe"], []),
        ([], []),
        ([""], []),
    ],
)
def test_two_of_four_columns_within_twenty_words(texts: list[str], expected: list[str]) -> None:
    assert sorted(set(found(INDEX, texts))) == sorted(set(expected))


def test_only_the_named_columns_count() -> None:
    texts = ["Jane Roe, jane.roe@corp.example, 030 1234567"]
    assert found(INDEX, texts, rule(2, ["email", "phone"])) == ["jane.roe@corp.example", "030 1234567"]
    assert found(INDEX, texts, rule(3, ["email", "phone"])) == []
    assert found(INDEX, texts, rule(1, ["email"])) == ["jane.roe@corp.example"]


def test_at_least_counts_rows() -> None:
    texts = [f"{row[0]}; {row[1]}" for row in ROWS]
    assert len(found(INDEX, texts, rule(at_least=3))) == 6
    assert found(INDEX, texts, rule(at_least=4)) == []


def test_rows_that_share_their_values_are_one_mention() -> None:
    index = loaded([("Anna Berg", "Berlin")] * 30, (("name", "name"), ("city", "text")))
    assert found(index, ["Anna Berg from Berlin"]) == ["Anna Berg", "Berlin"]
    assert found(index, ["Anna Berg from Berlin"], rule(at_least=2)) == []


def test_a_whole_column_is_bounded_work_and_finds_rather_more(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"Anna{chr(97 + n % 26)} Berg{chr(97 + n // 26 % 26)}", f"City{n % 50}") for n in range(20_000)]
    index = loaded(rows, (("name", "name"), ("city", "text")))
    texts = [" ".join(name for name, _ in rows[:676]), " ".join(f"City{n}" for n in range(50))]
    begun_s = time.process_time()
    near = found(index, texts, rule(within=5))
    assert time.process_time() - begun_s < 3.0
    monkeypatch.setattr(match, "MAX_STEPS", 10)
    assert set(near) < set(found(index, texts, rule(within=5)))


def _inspected(body: bytes, dlp: DlpPolicy) -> tuple[str, bytes | None, list[str]]:
    job = InspectJob("a", dlp, "POST", "/", ((b"content-type", b"application/json"),), body, b"k" * 32)
    verdict = inspect(job, CustomDetector(Nothing(), dlp, lambda _: INDEX), now_s=0.0)
    return verdict.action, verdict.body, [finding.entity for finding in verdict.findings]


DLP = DlpPolicy("balanced", (DlpRule(frozenset({"CUSTOMER_RECORD"}), "redact"),), "allow", exact_match=(rule(),))


def test_a_record_spread_over_the_leaves_of_a_body() -> None:
    body = b'{"rows":[{"who":"Jane Roe","mail":"JANE.ROE@corp.example","n":1},{"who":"Jim Poe"}]}'
    changed = b'{"rows":[{"who":"<CUSTOMER_RECORD>","mail":"<CUSTOMER_RECORD>","n":1},{"who":"Jim Poe"}]}'
    assert _inspected(body, DLP) == ("transform", changed, ["CUSTOMER_RECORD"] * 2)


def test_equal_leaves_keep_their_places() -> None:
    """The second Jane stands beside her address, the first does not."""
    filler = '"' + "x " * 40 + '"'
    body = f'["Jane Roe",{filler},"Jane Roe","jane.roe@corp.example"]'.encode()
    _, changed, findings = _inspected(body, DLP)
    assert changed == f'["Jane Roe",{filler},"<CUSTOMER_RECORD>","<CUSTOMER_RECORD>"]'.encode()
    assert len(findings) == 2


def test_a_few_rows_may_pass_and_a_list_may_not() -> None:
    dlp = replace(DLP, rules=(DlpRule(frozenset({"CUSTOMER_RECORD"}), "block"),), exact_match=(rule(at_least=3),))
    lines = [f'{{"n":"{name}","m":"{mail}"}}' for name, mail, _, _ in ROWS]
    assert _inspected(f"[{','.join(lines[:2])}]".encode(), dlp)[0] == "allow"
    assert _inspected(f"[{','.join(lines)}]".encode(), dlp)[0] == "block"


def test_a_policy_without_data_of_its_own_costs_nothing() -> None:
    inner = Nothing()
    assert with_custom_data(inner, DlpPolicy("balanced", (), "redact"), lambda _: INDEX) is inner


@pytest.mark.parametrize(
    "text",
    ["1 " * 10_000, "12 " * 7000, "a1-" * 7000, "a.a" * 7000 + "@", "a@a." * 5000, "Jane Roe " * 2500, "é" * 20_000],
)
def test_the_cost_is_linear_whatever_the_text(text: str) -> None:
    def cost_s(many: str) -> float:
        begun_s = time.process_time()
        found(INDEX, [many])
        return time.process_time() - begun_s

    cost_s(text[:100])
    assert min(cost_s(text) for _ in range(2)) < 12 * max(min(cost_s(text[: len(text) // 4]) for _ in range(3)), 0.002)
