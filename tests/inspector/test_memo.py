"""Verdicts remembered: everything that matters is in the key, bytes are bounded, the oldest goes first."""

from dataclasses import replace

import pytest

from proxy.config.snapshot import DlpException, DlpPolicy, DlpRule
from proxy.head_memo import HeadMemo
from proxy.inspector.memo import JobDigests, PolicyDigests, VerdictMemo
from proxy.model import Inspection, InspectJob

POLICY = DlpPolicy("balanced", (), "redact", digest="same")
JOB = InspectJob("app", POLICY, "POST", "/", ((b"a", b"b"),), b"body", b"k" * 32, "openai", frozenset({"x"}))
CHANGES = {
    "app": "other", "method": "PUT", "target": "/x", "headers": ((b"a", b"c"),), "body": b"body2",
    "placeholder_key": b"j" * 32, "provider": None, "skip_headers": frozenset({"y"}), "direction": "response",
    "trailers": ((b"t", b"1"),), "tier": "trusted", "dlp": DlpPolicy("strict", (), "redact", digest="same"),
}  # fmt: skip


def _digests() -> JobDigests:
    return JobDigests(PolicyDigests())


def test_every_field_is_in_the_table() -> None:
    # A memo only makes the key faster, as the next but one test shows.
    assert set(CHANGES) | {"memo"} == set(InspectJob.__dataclass_fields__)


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_every_field_changes_the_key(field: str) -> None:
    digests = _digests()
    assert digests.of(JOB, 0) != digests.of(replace(JOB, **{field: CHANGES[field]}), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_a_memo_changes_no_key_whatever_job_it_saw_before(field: str) -> None:
    digests, memo = _digests(), HeadMemo()
    changed = replace(JOB, **{field: CHANGES[field]})  # type: ignore[arg-type]
    for job in (JOB, JOB, changed, changed, JOB):
        assert digests.of(replace(job, memo=memo), 0) == digests.of(job, 0)
    other = _digests()
    assert other.of(replace(JOB, memo=memo), 0) == other.of(JOB, 0)


def test_trailers_are_not_kept_with_the_head_that_they_came_after() -> None:
    digests, memo = _digests(), HeadMemo()
    digests.of(replace(JOB, trailers=((b"x-a", b"b" * 1000),), memo=memo), 0)
    assert memo.digest is None
    digests.of(replace(JOB, trailers=(), memo=memo), 0)
    assert memo.digest is not None


def test_equal_jobs_share_a_key_within_a_process_only() -> None:
    digests = _digests()
    assert digests.of(JOB, 0) == digests.of(replace(JOB, dlp=replace(POLICY)), 5)
    assert digests.of(JOB, 0) != _digests().of(JOB, 0)


def test_fields_do_not_run_into_each_other() -> None:
    digests = _digests()
    left = replace(JOB, headers=((b"ab", b"c"),))
    assert digests.of(left, 0) != digests.of(replace(JOB, headers=((b"a", b"bc"),)), 0)
    assert digests.of(replace(JOB, headers=(), trailers=((b"a", b"b"),)), 0) != digests.of(JOB, 0)


def test_an_expired_exception_changes_the_key() -> None:
    digests = _digests()
    dlp = replace(POLICY, exceptions=(DlpException("PERSON", frozenset({"Jane"}), expires_at_s=100.0),))
    job = replace(JOB, dlp=dlp)
    assert digests.of(job, 99.9) == digests.of(job, 0)
    assert digests.of(job, 100.0) != digests.of(job, 99.9)


@pytest.mark.parametrize(
    "other",
    [
        replace(POLICY, mode="report"),
        replace(POLICY, rules=(DlpRule(frozenset({"PERSON"}), "block"),)),
        replace(POLICY, uninspectable={"image": "allow"}),
        replace(POLICY, response_rules=(DlpRule(frozenset({"PERSON"}), "block"),)),
    ],
)
def test_policies_are_told_apart_by_content_not_by_their_digest_field(other: DlpPolicy) -> None:
    policies = PolicyDigests()
    assert policies.of(other) != policies.of(POLICY)
    assert policies.of(replace(other)) == policies.of(other)


def test_memo_is_bounded_by_bytes() -> None:
    memo = VerdictMemo(max_bytes=20_000)
    for number in range(100):
        memo.put(b"%d" % number, Inspection("transform", body=b"x" * 1500))
    assert memo.size_bytes <= 20_000
    assert memo.get(b"0") is None
    assert memo.get(b"99") is not None


def test_memo_drops_the_least_recently_used() -> None:
    memo = VerdictMemo(max_bytes=9 * 1024)
    for name in (b"a", b"b", b"c", b"d"):
        memo.put(name, Inspection("transform", body=b"x" * 512))
    for number in range(6):
        assert memo.get(b"a") is not None
        memo.put(b"n%d" % number, Inspection("transform", body=b"x" * 512))
    assert memo.get(b"a") is not None
    assert memo.get(b"b") is None


def test_memo_does_not_keep_what_would_fill_it() -> None:
    memo = VerdictMemo(max_bytes=8_000)
    memo.put(b"small", Inspection("allow"))
    memo.put(b"huge", Inspection("transform", body=b"x" * 4_000))
    assert memo.get(b"huge") is None
    assert memo.get(b"small") is not None


def test_putting_twice_counts_once() -> None:
    memo = VerdictMemo(max_bytes=100_000)
    memo.put(b"a", Inspection("allow"))
    before = memo.size_bytes
    memo.put(b"a", Inspection("allow"))
    assert (memo.size_bytes, len(memo)) == (before, 1)
    memo.clear()
    assert (memo.size_bytes, len(memo)) == (0, 0)
