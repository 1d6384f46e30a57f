"""Rules over findings: severity, thresholds, trials, exceptions; and what stands in place of a value."""

import time
import timeit
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.actions.mask import masked
from proxy.config.snapshot import DlpException, DlpRule
from proxy.model import DLP_ACTIONS, DlpAction
from proxy.redaction import SEVERITY, Hit, Replacer, Ruled, json_paths, rule_on, spans, summary

KEY = b"k" * 32


def hit(entity: str = "EMAIL_ADDRESS", value: str = "a@x.com", at: int = 0, **more: object) -> Hit:
    facts: dict[str, object] = {"leaf": 0, "start": at, "end": at + len(value), "score": 1.0, "recognizer": "r", **more}
    return Hit(entity=entity, value=value, **facts)  # type: ignore[arg-type]


def rule(action: DlpAction, *entities: str, **more: object) -> DlpRule:
    return DlpRule(frozenset(entities), action, **more)  # type: ignore[arg-type]


def actions(hits: list[Hit], rules: list[DlpRule], otherwise: DlpAction = "redact", **more: object) -> list[DlpAction]:
    exceptions = more.get("exceptions", ())
    return [r.action for r in rule_on(hits, rules, otherwise, exceptions, 100.0)]  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(sorted(SEVERITY)), min_size=1, max_size=5))
def test_the_severest_wins_in_any_order(listed: list[DlpAction]) -> None:
    rules = [rule(action, "EMAIL_ADDRESS") for action in listed]
    assert actions([hit()], rules, "block") == [max(listed, key=lambda action: SEVERITY[action])]


def test_the_order_of_severity_is_the_documented_one() -> None:
    assert sorted(SEVERITY, key=lambda action: SEVERITY[action]) == list(reversed(DLP_ACTIONS))


def test_otherwise_is_for_entities_without_a_matching_rule() -> None:
    hits = [hit(), hit("PERSON", "Jane", 20)]
    assert actions(hits, [rule("allow", "EMAIL_ADDRESS")]) == ["allow", "redact"]
    assert actions(hits, [rule("allow", "EMAIL_ADDRESS")], "block") == ["allow", "block"]


@pytest.mark.parametrize(("count", "expected"), [(1, "tokenize"), (2, "tokenize"), (3, "block"), (4, "block")])
def test_at_least_counts_distinct_values(count: int, expected: str) -> None:
    hits = [hit("PERSON", f"Name {n % count}", 10 * n, leaf=n) for n in range(12)]
    rules = [rule("tokenize", "PERSON"), rule("block", "PERSON", at_least=3)]
    assert set(actions(hits, rules)) == {expected}


def test_at_least_counts_over_all_entities_of_the_rule_and_knows_spellings() -> None:
    rules = [rule("block", "EMAIL_ADDRESS", "PERSON", at_least=2)]
    assert actions([hit(), hit("PERSON", "Jane", 20)], rules) == ["block", "block"]
    assert actions([hit(), hit(value="A@X.com", at=20)], rules) == ["redact", "redact"]


def test_a_rule_on_trial_is_recorded_and_not_applied() -> None:
    ruled = rule_on([hit()], [rule("block", "EMAIL_ADDRESS", mode="report", at="a.yaml:3:5")], "redact", (), 0.0)
    assert [(r.action, r.trial, r.where) for r in ruled] == [("allow", "block", "a.yaml:3:5")]


def test_a_threshold_on_trial_does_not_lift_the_default() -> None:
    ruled = rule_on([hit()], [rule("block", "EMAIL_ADDRESS", mode="report", at_least=1 + 1)], "redact", (), 0.0)
    assert [(r.action, r.trial) for r in ruled] == [("redact", None)]
    two = [hit(), hit(value="b@x.com", at=20)]
    ruled = rule_on(two, [rule("block", "EMAIL_ADDRESS", mode="report", at_least=2)], "redact", (), 0.0)
    assert [(r.action, r.trial) for r in ruled] == [("redact", "block")] * 2


def test_a_trial_beside_an_enforced_rule() -> None:
    rules = [rule("tokenize", "EMAIL_ADDRESS"), rule("block", "EMAIL_ADDRESS", mode="report")]
    assert [(r.action, r.trial) for r in rule_on([hit()], rules, "redact", (), 0.0)] == [("tokenize", "block")]


def test_a_place_that_cannot_be_rewritten_blocks() -> None:
    for action in ("tokenize", "mask", "redact", "block"):
        assert actions([hit(editable=False)], [rule(action, "EMAIL_ADDRESS")]) == ["block"]  # type: ignore[arg-type]
    assert actions([hit(editable=False)], [rule("allow", "EMAIL_ADDRESS")]) == ["allow"]


def test_an_encoded_run_is_redacted_whole() -> None:
    assert actions([hit(whole=True)], [rule("tokenize", "EMAIL_ADDRESS")]) == ["redact"]
    assert actions([hit(whole=True)], [rule("mask", "EMAIL_ADDRESS")]) == ["redact"]


EXCEPTION = DlpException("EMAIL_ADDRESS", frozenset({"a@x.com"}), None, 200.0, "a.yaml:9:3")


@pytest.mark.parametrize(
    ("found", "now_s", "expected"),
    [
        (hit(), 100.0, "allow"),
        (hit(), 199.9, "allow"),
        (hit(), 200.0, "block"),
        (hit(value="A@x.com"), 100.0, "block"),
        (hit(value="a@x.com "), 100.0, "block"),
        (hit("PERSON", "a@x.com"), 100.0, "allow"),  # same span: lies inside of what the admin has read
    ],
)
def test_value_exceptions(found: Hit, now_s: float, expected: str) -> None:
    hits = [found] if found.entity != "PERSON" else [hit(), found]
    assert rule_on(hits, [], "block", [EXCEPTION], now_s)[-1].action == expected


def test_an_exception_shields_what_lies_inside_it_and_nothing_else() -> None:
    hits = [hit(), hit("URL", "x.com", 2), hit("URL", "x.com/path", 2), hit("URL", "x.com", 2, leaf=1)]
    assert actions(hits, [], exceptions=[EXCEPTION]) == ["allow", "allow", "redact", "redact"]


def ruled(start: int, end: int, action: DlpAction, entity: str = "E", score: float = 1.0) -> Ruled:
    return Ruled(Hit(0, start, end, entity, "v", score, "r"), action)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], []),
        ([ruled(0, 5, "allow")], []),
        ([ruled(4, 6, "mask", "B"), ruled(0, 2, "redact", "A")], [(0, 2, "redact", "A"), (4, 6, "mask", "B")]),
        ([ruled(0, 5, "tokenize", "A"), ruled(3, 9, "redact", "B")], [(0, 9, "redact", "B")]),
        ([ruled(0, 9, "tokenize", "A"), ruled(3, 5, "tokenize", "B")], [(0, 9, "tokenize", "A")]),
        ([ruled(0, 9, "tokenize", "A", 0.5), ruled(0, 9, "tokenize", "B", 0.9)], [(0, 9, "tokenize", "B")]),
        ([ruled(0, 3, "mask", "A"), ruled(2, 5, "mask", "B"), ruled(4, 8, "redact", "C")], [(0, 8, "redact", "C")]),
        ([ruled(0, 3, "mask", "A"), ruled(3, 5, "mask", "B")], [(0, 3, "mask", "A"), (3, 5, "mask", "B")]),
        ([ruled(0, 9, "allow", "A"), ruled(3, 5, "redact", "B")], [(3, 5, "redact", "B")]),
    ],
)
def test_overlaps(items: list[Ruled], expected: list[tuple[int, int, str, str]]) -> None:
    assert [span[:4] for span in spans(items)] == expected


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10), st.sampled_from(sorted(SEVERITY))), max_size=12))
def test_spans_cover_every_finding_and_never_overlap(items: list[tuple[int, int, DlpAction]]) -> None:
    found = spans(ruled(start, start + size, action) for start, size, action in items)
    assert all(left.end <= right.start for left, right in pairwise(found))
    covered = {at for span in found for at in range(span.start, span.end)}
    wanted = {
        at for start, size, action in items if action not in ("allow", "block") for at in range(start, start + size)
    }
    assert covered == wanted


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("4111 1111 1111 1111", "**** **** **** 1111"),
        ("536-22-8176", "***-**-8176"),
        ("a@x.com", "*@*.***"),
        ("1234567", "*******"),
        ("12345678", "****5678"),
        ("Jürgen Müller", "****** **ller"),
        ("你好你好你好你好你", "*********"),
    ],
)
def test_masks(value: str, expected: str) -> None:
    assert masked(value) == expected


def test_replacements() -> None:
    replacer = Replacer(KEY)
    assert replacer.text("redact", "PERSON", "Jane", "Jane") == "<PERSON>"
    first = replacer.text("tokenize", "PERSON", "Jane  Roe", "Jane  Roe")
    assert replacer.text("tokenize", "PERSON", "Jane Roe", "Jane Roe") == first
    assert replacer.restore == {first: "Jane  Roe"}


def test_two_values_with_one_stand_in_are_not_restorable() -> None:
    replacer = Replacer(KEY)
    seen: dict[str, str] = {}
    for number in range(100_000):
        phone = f"212-555-{number:05}"
        stand_in = Replacer(KEY).text("synthesize", "PHONE_NUMBER", phone, phone)
        if stand_in in seen:
            break
        seen[stand_in] = phone
    assert replacer.text("synthesize", "PHONE_NUMBER", seen[stand_in], seen[stand_in]) == stand_in
    assert replacer.text("synthesize", "PHONE_NUMBER", phone, phone) == "<PHONE_NUMBER>"
    assert replacer.restore == {stand_in: seen[stand_in]}


def test_the_summary_names_entities_only() -> None:
    assert summary([ruled(0, 1, "block", "B"), ruled(0, 1, "block", "A"), ruled(2, 3, "block", "B")]) == "A, 2 x B"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("$.metadata.request_id", "$.metadata.request_id", True),
        ("$.metadata.request_id", "$.metadata.request_id2", False),
        ("$.metadata.request_id", "$.metadataXrequest_id", False),
        ("$.items[*].id", "$.items[12].id", True),
        ("$.items[*].id", "$.items[1].x.id", False),
        ("$.items[0]", "$.items[0]", True),
        ("$.items[0]", "$.items[1]", False),
        ("$.meta.*", "$.meta.anything", True),
        ("$.meta.*", '$.meta["any thing"]', True),
        ("$.meta.*", "$.meta.a.b", False),
        ("$.meta.*", '$.meta["a"].b["c"]', False),
    ],
)
def test_path_exceptions(pattern: str, path: str, expected: bool) -> None:
    test = json_paths([DlpException(json_path=pattern)], 0.0)
    assert test is not None
    assert test(path) is expected


def test_expired_path_exceptions_are_gone() -> None:
    assert json_paths([DlpException(json_path="$.a", expires_at_s=10.0)], 10.0) is None
    assert json_paths([EXCEPTION], 0.0) is None


def test_many_findings_take_linear_time() -> None:
    hits = [hit(value="a@x.com", at=10 * n) for n in range(50_000)]
    exception = DlpException("EMAIL_ADDRESS", frozenset({"a@x.com"}))
    assert timeit.timeit(lambda: rule_on(hits, [], "redact", [exception], 0.0), number=1, timer=time.process_time) < 3.0
    assert timeit.timeit(lambda: spans(rule_on(hits, [], "redact", [], 0.0)), number=1, timer=time.process_time) < 3.0
