"""The index: nothing to be read from it, nothing to be changed in it, nothing to be tried without its key."""

import hashlib

import pytest

from proxy.customdata.build import Builder
from proxy.customdata.index import FIRST_LINE_BYTES, BadIndex, Index, Tagger, index_key, read_header
from tests.customdata.kit import COLUMNS, KEY_ID, MASTER, ROWS, SALT, built, loaded


def test_the_header_tells_columns_and_counts_and_the_arrays_begin_aligned() -> None:
    data, digest = built()
    claimed, header, start = read_header(data)
    assert (claimed, start % 64) == (digest, 0)
    assert (header.rows, header.cells, header.columns) == (3, 12, COLUMNS)
    assert header.number_lengths == (22, 27)
    assert hashlib.sha256(data[FIRST_LINE_BYTES:]).hexdigest() == digest


def test_no_value_stands_in_the_file() -> None:
    data, _ = built()
    for row in ROWS:
        for cell in row:
            for word in [cell, *cell.split()]:
                assert len(word) < 4 or word.encode() not in data
                assert len(word) < 4 or word.lower().encode() not in data
                assert hashlib.blake2b(word.lower().encode(), digest_size=8).digest() not in data


def test_two_keys_and_two_salts_have_nothing_in_common() -> None:
    tags = [set(loaded().tags.tolist())]
    for master, salt in ((b"o" * 32, SALT), (MASTER, "6b" * 16)):
        builder = Builder(COLUMNS, master, KEY_ID, salt)
        for row in ROWS:
            builder.add(row)
        data = b"".join(builder.finish())
        digest = read_header(data)[0]
        tags.append(set(Index.load(data, digest, {KEY_ID: master}).tags.tolist()))
    assert len(set.union(*tags)) == sum(map(len, tags))


def test_kinds_are_kept_apart() -> None:
    tagger = Tagger(index_key(MASTER, SALT))
    assert tagger.cell("phone", "123456789") != tagger.cell("number", "123456789")


@pytest.mark.parametrize("at", [0, 20, FIRST_LINE_BYTES + 5, -1])
def test_an_altered_index_is_refused(at: int) -> None:
    data, digest = built()
    changed = bytearray(data)
    changed[at] ^= 1
    with pytest.raises(BadIndex):
        Index.load(bytes(changed), digest, {KEY_ID: MASTER})


@pytest.mark.parametrize("length", [0, 10, FIRST_LINE_BYTES, FIRST_LINE_BYTES + 40])
def test_a_cut_index_is_refused(length: int) -> None:
    data, digest = built()
    with pytest.raises(BadIndex):
        Index.load(data[:length], digest, {KEY_ID: MASTER})


def test_an_index_that_lies_about_its_counts_is_refused() -> None:
    data, _ = built()
    rest = data[FIRST_LINE_BYTES:].replace(b'"cells":12', b'"cells":99')
    digest = hashlib.sha256(rest).hexdigest()
    with pytest.raises(BadIndex, match="too early"):
        Index.load(b"egress-edm-1 " + digest.encode() + b"\n" + rest, digest, {KEY_ID: MASTER})


def test_another_digest_or_an_unknown_key_is_refused() -> None:
    data, digest = built()
    with pytest.raises(BadIndex, match="altered"):
        Index.load(data, "0" * 64, {KEY_ID: MASTER})
    with pytest.raises(BadIndex, match="root key"):
        Index.load(data, digest, {"other": MASTER})


def test_what_says_too_little_is_left_out_and_counted() -> None:
    builder = Builder(COLUMNS, MASTER, KEY_ID, SALT)
    builder.add(("Jane Roe", "", "12", "n/a"))
    assert builder.left_out == [0, 1, 1, 1]
    with pytest.raises(BadIndex, match="no cell"):
        Builder(COLUMNS, MASTER, KEY_ID, SALT).finish()
    with pytest.raises(BadIndex, match="one to 16"):
        Builder((), MASTER, KEY_ID, SALT)


def test_one_value_in_two_columns_of_a_row_is_one_fact() -> None:
    index = loaded([("030 1234567", "+49 30 1234567")], (("work", "phone"), ("home", "phone")))
    assert len(index.tags) == 1
