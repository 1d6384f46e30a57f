"""The chain: every way of tampering is noticed, and named."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audit_chain import (
    GENESIS,
    SUPERVISOR,
    Chain,
    ChainReport,
    Head,
    Segment,
    Vouched,
    check_heads,
    segment_key,
    split_lines,
    verify_chain,
)
from proxy.model import AuditRecord

KEY = b"k" * 32
KEYS = {"k1": KEY}
COUNT = 12


def _record(number: int, kind: str = "terminal") -> AuditRecord:
    return AuditRecord(f"id{number}", kind, 1.7e9 + number, {"app": "a", "outcome": "denied", "code": "host_denied"})  # type: ignore[arg-type]


def _header(number: int = 1, **fields: object) -> AuditRecord:
    return AuditRecord("-", "event", 1.7e9, {"event": "segment", "segment": number, **fields})


def _lines(count: int = COUNT, writer: str = "w0", key: bytes = KEY) -> list[bytes]:
    chain = Chain(writer, key)
    return [chain.append(_header()), *(chain.append(_record(number)) for number in range(2, count + 1))]


def _segment(number: int, data: bytes) -> Segment:
    return Segment(number, f"w0/{number:06d}.jsonl", data[:8193], lambda: data)


def _verify(*contents: bytes, keys: dict[str, bytes] | None = None, want: frozenset[int] = frozenset()) -> ChainReport:
    segments = [_segment(number, data) for number, data in enumerate(contents, 1)]
    return verify_chain("w0", segments, KEYS if keys is None else keys, want=want)


def test_an_untouched_chain_is_good() -> None:
    """All records counted, the head at the end."""
    lines = _lines()
    report = _verify(b"".join(lines))
    assert (report.problem, report.notes, report.records) == (None, [], COUNT)
    assert report.head == Head(COUNT, re.search(rb'"mac":"(\w+)"', lines[-1])[1].decode())  # type: ignore[index]


def _named_line(report: ChainReport) -> int:
    assert report.problem is not None
    return int(re.findall(r":(\d+)", report.problem.where)[0])


@pytest.mark.parametrize("target", range(1, COUNT + 1))
def test_a_flipped_bit_is_named(target: int) -> None:
    """AUD-01: any bit of any byte of record n, its newline included, points at n."""
    lines = _lines()
    for position in range(0, len(lines[target - 1]), 7):
        changed = bytearray(lines[target - 1])
        changed[position] ^= 1 << (position % 8)
        report = _verify(b"".join([*lines[: target - 1], bytes(changed), *lines[target:]]))
        assert _named_line(report) == target, position


Tamper = Callable[[list[bytes], int], list[bytes]]
TAMPERS: dict[str, tuple[Tamper, int]] = {
    # what is done at line n, and how far after n the first wrong line stands
    "deletion": (lambda lines, n: lines[: n - 1] + lines[n:], 0),
    "deletion of two": (lambda lines, n: lines[: n - 1] + lines[n + 1 :], 0),
    "duplicate": (lambda lines, n: lines[:n] + lines[n - 1 :], 1),
    "swap": (lambda lines, n: [*lines[: n - 1], lines[n], lines[n - 1], *lines[n + 1 :]], 0),
    "insertion of an older record": (lambda lines, n: [*lines[: n - 1], lines[0], *lines[n - 1 :]], 0),
    "insertion under another key": (
        lambda lines, n: [*lines[: n - 1], _lines(n, key=b"x" * 32)[-1], *lines[n - 1 :]],
        0,
    ),
    "insertion from another writer": (lambda lines, n: [*lines[: n - 1], _lines(n, "w1")[-1], *lines[n - 1 :]], 0),
    "empty line": (lambda lines, n: [*lines[: n - 1], b"\n", *lines[n - 1 :]], 0),
    "junk line": (lambda lines, n: [*lines[: n - 1], b"{}\n", *lines[n - 1 :]], 0),
}


@pytest.mark.parametrize("tamper", TAMPERS)
@pytest.mark.parametrize("target", [2, 3, COUNT // 2, COUNT - 2])
def test_tampering_is_named(tamper: str, target: int) -> None:
    """AUD-02: deletion, reorder, duplicate, insertion."""
    change, offset = TAMPERS[tamper]
    report = _verify(b"".join(change(_lines(), target)))
    assert _named_line(report) == target + offset


@given(st.data())
def test_no_other_arrangement_of_genuine_lines_passes(data: st.DataObject) -> None:
    """Only prefixes of the chain verify; whoever cuts the end is caught by the supervisor's heads."""
    lines = _lines(6)
    arranged = data.draw(st.lists(st.sampled_from(lines), min_size=1, max_size=8))
    report = _verify(b"".join(arranged))
    assert (report.problem is None) == (arranged == lines[: len(arranged)])


@pytest.mark.parametrize("cut", range(1, COUNT))
def test_truncation_shows_against_the_supervisor(cut: int) -> None:
    """AUD-03: whole records missing at the end."""
    lines = _lines()
    full = _verify(b"".join(lines))
    report = _verify(b"".join(lines[:-cut]), want=frozenset({full.head.seq}))
    assert report.problem is None
    problem = check_heads(report, Vouched(heads={full.head.seq: full.head.mac}))
    assert problem is not None
    assert f"the last {cut} records were cut off" in problem.what


def test_a_rewritten_chain_shows_against_the_supervisor() -> None:
    """Even somebody with the key cannot replace what was witnessed."""
    seen = _verify(b"".join(_lines()))
    other = Chain("w0", KEY)
    forged = [other.append(_header()), *(other.append(_record(number)) for number in range(100, 99 + COUNT))]
    report = _verify(b"".join(forged), want=frozenset({COUNT}))
    assert report.problem is None
    assert check_heads(report, Vouched(heads={seen.head.seq: seen.head.mac})) is not None


def test_heads_that_stand_are_fine() -> None:
    """Near miss: the witness saw an earlier record, and the beginning."""
    seen = _verify(b"".join(_lines()[:5]))
    report = _verify(b"".join(_lines()), want=frozenset({5, 0}))
    assert check_heads(report, Vouched(heads={5: seen.head.mac, 0: GENESIS})) is None


@pytest.mark.parametrize("keep", [1, 40, 100, 200])
def test_a_torn_last_line_is_a_note(keep: int) -> None:
    """AUD-04: the writer died within a line; nothing that was acknowledged is lost."""
    lines = _lines()
    report = _verify(b"".join(lines[:-1]) + lines[-1][:keep])
    assert report.problem is None
    assert report.head.seq == COUNT - 1
    assert report.notes == [f"w0/000001.jsonl: torn tail at line {COUNT}, after seq {COUNT - 1}"]


def test_a_whole_line_without_its_newline_is_torn_too() -> None:
    """The newline is part of the write."""
    report = _verify(b"".join(_lines())[:-1])
    assert (report.problem, report.head.seq) == (None, COUNT - 1)


def _two_segments(torn: bytes = b"") -> tuple[bytes, bytes]:
    chain = Chain("w0", KEY)
    first = chain.append(_header()) + b"".join(chain.append(_record(number)) for number in range(4))
    linked = _header(2, prev_segment=1, prev_bytes=len(first))
    second = chain.append(linked) + b"".join(chain.append(_record(number)) for number in range(10, 14))
    return first + torn, second


def test_segments_are_one_chain() -> None:
    """A torn end of the first is told, not held against it."""
    assert _verify(*_two_segments()).records == 10
    report = _verify(*_two_segments(b'{"v":1,"wri'))
    assert report.problem is None
    assert report.notes == ["w0/000001.jsonl: torn tail of 11 bytes after seq 5"]


def test_a_segment_cannot_be_cut_lengthened_dropped_or_swapped() -> None:
    """What the next file vouches for must be there, and nothing forged behind it."""
    first, second = _two_segments()
    for contents in (
        (first[:-10], second),
        (first[: first.index(b"\n") + 1], second),
        (first + b'{"v":1}\n', second),
        (second, first),
        (first, first),
        (first, b"", second),
    ):
        report = _verify(*contents)
        assert report.problem is not None or report.notes, contents
    assert _verify(first[:-10], second).problem is not None
    assert _verify(first + b'{"v":1}\n', second).problem is not None
    assert _verify(second).problem is not None
    missing = verify_chain("w0", [_segment(2, second)], KEYS)
    assert missing.problem is not None
    assert "segment 1" in missing.problem.what


def test_a_flip_then_a_restart_is_still_a_problem() -> None:
    """A resumed writer links before the flipped line; the flipped line itself must not pass for a torn tail."""
    chain = Chain("w0", KEY)
    good = chain.append(_header()) + chain.append(_record(2))
    head = chain.head
    flipped = bytearray(chain.append(_record(3)))
    flipped[30] ^= 1
    chain.head = head
    second = chain.append(_header(2, prev_segment=1, prev_bytes=len(good))) + chain.append(_record(4))
    report = _verify(good + bytes(flipped), second)
    assert report.problem is not None
    assert "changed" in report.problem.what


def test_an_abandoned_first_line_is_a_note() -> None:
    """The writer died as it began a file; the next one goes on from the file before."""
    first, _ = _two_segments()
    chain = Chain("w0", KEY, Head(5, _verify(first).head.mac))
    third = chain.append(_header(3, prev_segment=1, prev_bytes=len(first))) + chain.append(_record(20))
    for torn in (b"", b'{"v":1,"writer":"w0"'):
        report = _verify(first, torn, third)
        assert report.problem is None
        assert report.head.seq == 7
        assert "torn tail at line 1" in report.notes[0]


def test_another_key_is_named() -> None:
    """Which keys were tried stands in the message, the keys themselves do not."""
    report = _verify(b"".join(_lines(key=b"x" * 32)))
    assert report.problem is not None
    assert "k1" in report.problem.what
    assert _verify(b"".join(_lines()), keys={"k0": b"y" * 32, "k1": KEY}).problem is None


def test_a_chain_crosses_a_key_rotation() -> None:
    """Each segment says by its own MAC which generation made it."""
    first, _ = _two_segments()
    chain = Chain("w0", b"n" * 32, _verify(first).head)
    second = chain.append(_header(2, prev_segment=1, prev_bytes=len(first), key_id="k2")) + chain.append(_record(9))
    assert _verify(first, second, keys={"k1": KEY, "k2": b"n" * 32}).records == 7
    assert segment_key(second, {"k1": KEY, "k2": b"n" * 32}) == b"n" * 32


def test_an_exchange_that_ends_twice_is_a_problem() -> None:
    """AUD-09."""
    chain = Chain("w0", KEY)
    data = chain.append(_header()) + chain.append(_record(2)) + chain.append(_record(2))
    report = _verify(data)
    assert report.problem is not None
    assert "ended twice" in report.problem.what


def test_open_exchanges_are_counted() -> None:
    """A terminal record closes its open one."""
    chain = Chain("w0", KEY)
    data = b"".join(
        [
            chain.append(_header()),
            chain.append(_record(2, "open")),
            chain.append(_record(3, "open")),
            chain.append(_record(2)),
        ]
    )
    assert set(_verify(data).opened) == {"id3"}


def test_the_supervisor_vouches() -> None:
    """Births, ends and heads are read from its own verified chain only."""
    chain = Chain(SUPERVISOR, KEY)
    events = [
        {"event": "writer_birth", "subject": "w0", "subject_seq": 0, "subject_mac": GENESIS},
        {"event": "writer_head", "subject": "w0", "subject_seq": 5, "subject_mac": "a" * 64},
        {"event": "writer_end", "subject": "w0", "subject_seq": 9, "subject_mac": "b" * 64},
    ]
    data = chain.append(_header()) + b"".join(chain.append(AuditRecord("-", "event", 1.0, each)) for each in events)
    told = verify_chain(SUPERVISOR, [_segment(1, data)], KEYS).told
    assert told == {"w0": Vouched(1, 1, {0: GENESIS, 5: "a" * 64, 9: "b" * 64})}
    assert verify_chain("w0", [_segment(1, data)], KEYS).told == {}


@given(st.binary(max_size=400))
def test_any_bytes_are_judged_without_an_error(data: bytes) -> None:
    """Fuzz; splitting loses no byte."""
    _verify(data)
    _verify(b"".join(_lines(3)) + data)
    joined = b"".join(line.data + (b"\n" if line.ended else b"") for line in split_lines("f", data))
    assert joined == data
