"""The engine as inspection uses it: profiles, context, overlaps, memo, batches, failures."""

import threading
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.snapshot import DlpPolicy, DlpRule
from proxy.model import Finding
from proxy.recognizers import discover
from proxy.recognizers.base import Recognizer, RecognizerFailed
from proxy.recognizers.engine import Engine, LeafMemo
from proxy.recognizers.profiles import PROFILES
from proxy.recognizers.resolve import resolve

SENTENCE = (
    "Please charge card 4111 1111 1111 1111, my SSN is 536-22-8176, "
    "email jane.roe@example-corp.com, iban GB82 WEST 1234 5698 7654 32."
)


def _marker(name: str, needle: str, score: float = 1.0, **more: object) -> Recognizer:
    def find(text: str) -> Iterable[Finding]:
        start = text.find(needle)
        if start >= 0:
            yield Finding("SECRET", start, start + len(needle), score, name)

    return Recognizer(name=name, entities=frozenset({"SECRET"}), layer="pattern", find=find, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_all_profiles_find_the_structured_four(engine: Engine, profile: str) -> None:
    found = {finding.entity for finding in engine.detect([SENTENCE], profile)[0]}
    assert {"CREDIT_CARD", "US_SSN", "EMAIL_ADDRESS", "IBAN_CODE"} <= found


def test_findings_are_disjoint_and_in_order(engine: Engine) -> None:
    findings = engine.detect([SENTENCE], "paranoid")[0]
    assert all(left.end <= right.start for left, right in pairwise(findings))


def test_unknown_profile_is_an_error_not_a_default(engine: Engine) -> None:
    with pytest.raises(KeyError):
        engine.detect(["x"], "lenient")


def test_one_result_per_text_in_order_with_repeats(engine: Engine) -> None:
    texts = ["4111 1111 1111 1111", "nothing", "", "4111 1111 1111 1111"]
    assert [len(found) for found in engine.detect(texts)] == [1, 0, 0, 1]


def test_url_is_found_only_where_a_rule_names_it(engine: Engine) -> None:
    text = "see https://example.com/path"
    rule = DlpRule(frozenset({"URL"}), "redact")
    assert engine.detect([text]) == [[]]
    named = engine.naming(DlpPolicy("balanced", (rule,), "redact")).detect([text])
    assert [finding.entity for finding in named[0]] == ["URL"]
    assert engine.detect([text]) == [[]]  # the memo keeps the two questions apart


def test_context_raises_a_score_over_the_threshold() -> None:
    item = _marker("m", "zz", 0.25, context=frozenset({"secret word"}))
    engine = Engine([item])
    assert engine.detect(["plain zz"]) == [[]]
    (found,) = engine.detect(["the secret word: zz"])
    assert found[0].score == pytest.approx(0.6)


def test_context_is_a_whole_word_and_near() -> None:
    engine = Engine([_marker("m", "zz", 0.25, context=frozenset({"ssn"}))])
    assert engine.detect(["assns zz"]) == [[]]
    assert engine.detect(["ssn" + " " * 100 + "zz"]) == [[]]
    assert engine.detect(["ssn_zz"])[0]


def test_memo_answers_without_asking_again() -> None:
    asked: list[str] = []

    def find(text: str) -> Iterable[Finding]:
        asked.append(text)
        return ()

    engine = Engine([Recognizer("m", frozenset({"SECRET"}), "pattern", find)])
    engine.detect(["a", "b", "a"])
    engine.detect(["b"])
    assert asked == ["a", "b"]


def test_memo_is_bounded_and_keyed() -> None:
    memo = LeafMemo(max_entries=2)
    digests = [memo.digest(text, "balanced") for text in "abc"]
    for digest in digests:
        memo.put(digest, ())
    assert [memo.get(digest) is not None for digest in digests] == [False, True, True]
    assert LeafMemo().digest("a", "balanced") != memo.digest("a", "balanced")
    assert memo.digest("a", "balanced") != memo.digest("a", "strict")


def test_a_failing_recogniser_fails_the_detection() -> None:
    def find(text: str) -> Iterable[Finding]:
        raise RecognizerFailed("out of time")

    engine = Engine([_marker("good", "zz"), Recognizer("bad", frozenset({"SECRET"}), "pattern", find)])
    with pytest.raises(RecognizerFailed):
        engine.detect(["zz"])


def test_batches_are_bounded_and_keep_their_order() -> None:
    sizes: list[int] = []

    def find_many(texts: Sequence[str]) -> list[list[Finding]]:
        sizes.append(sum(map(len, texts)))
        return [[Finding("SECRET", 0, len(text), 1.0, "m")] for text in texts]

    engine = Engine([Recognizer("m", frozenset({"SECRET"}), "pattern", find_many=find_many)])
    texts = [f"{number:05d}" + "x" * (number * 10) for number in range(100)]
    assert [found[0].end for found in engine.detect(texts)] == [len(text) for text in texts]
    assert len(sizes) > 1
    assert max(sizes) <= 16_384


def test_threads_share_one_engine(engine: Engine) -> None:
    results: dict[int, list[list[Finding]]] = {}

    def work(number: int) -> None:
        results[number] = engine.detect([f"{number} Jane Roe of Paris. " * 20 + SENTENCE])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: results[number][0][-1].entity for number in results} == dict.fromkeys(range(6), "IBAN_CODE")


@pytest.mark.parametrize(
    "text",
    ["\ud800 Jane", "\ud800 5 Main Street", "\x00" * 50, "\u202e4111 1111 1111 1111", "a" * 100_000, "\n" * 10_000],
)
def test_odd_texts_are_no_error(engine: Engine, text: str) -> None:
    assert len(engine.detect([text])) == 1


def test_more_than_a_million_characters(engine: Engine) -> None:
    text = "lorem ipsum dolor " * 60_000 + SENTENCE
    findings = engine.detect([text])[0]
    assert {"CREDIT_CARD", "US_SSN", "EMAIL_ADDRESS", "IBAN_CODE"} <= {finding.entity for finding in findings}
    assert all(finding.start >= len(text) - len(SENTENCE) for finding in findings if finding.entity != "PERSON")


@given(st.text(alphabet=st.sampled_from("4111 -@.:/=abGB82WEST_+\n\"'{}()"), max_size=300))
def test_any_text_gives_valid_disjoint_spans(text: str) -> None:
    local = Engine([item for item in discover() if item.layer != "model" and not item.name.startswith("presidio")])
    for findings in local.detect([text], "paranoid"):
        position = 0
        for finding in findings:
            assert position <= finding.start < finding.end <= len(text)
            position = finding.end


def _finding(entity: str, start: int, end: int, score: float = 1.0) -> Finding:
    return Finding(entity, start, end, score, "t")


def test_overlap_the_checksum_layer_keeps_its_span_and_the_rest_stays_found() -> None:
    text = "Main Street 4111 1111 1111 1111"
    kept = resolve(text, [(2, _finding("LOCATION", 0, 31)), (0, _finding("CREDIT_CARD", 12, 31))])
    assert [(item.entity, item.start, item.end) for item in kept] == [("LOCATION", 0, 12), ("CREDIT_CARD", 12, 31)]


def test_overlap_scraps_are_dropped() -> None:
    kept = resolve("x 4111", [(2, _finding("PERSON", 0, 6)), (0, _finding("CREDIT_CARD", 2, 6))])
    assert [item.entity for item in kept] == ["CREDIT_CARD"]


def test_overlap_keys_beat_everything() -> None:
    kept = resolve("k" * 30, [(0, _finding("IBAN_CODE", 5, 20)), (1, _finding("SECRET", 0, 30))])
    assert [(item.entity, item.start, item.end) for item in kept] == [("SECRET", 0, 30)]


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(1, 20), st.sampled_from("AB")), max_size=20)
)
def test_resolution_covers_every_claimed_character(spans: list[tuple[int, int, int, str]]) -> None:
    text = "x" * 64
    ranked = [(layer, _finding(entity, start, start + size)) for layer, start, size, entity in spans]
    kept = resolve(text, ranked)
    claimed = {place for _, item in ranked for place in range(item.start, item.end)}
    covered = [place for item in kept for place in range(item.start, item.end)]
    assert len(covered) == len(set(covered))
    missing = claimed - set(covered)
    assert all(len(run) < 3 for run in _runs(missing))


def _runs(places: set[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs
