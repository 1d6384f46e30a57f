"""Indexes by digest: wherever they lie, whole or not at all."""

from pathlib import Path

import pytest

from proxy.errors import Denied
from proxy.inspector.indexes import Indexes
from tests.customdata.kit import KEY_ID, MASTER, built

DATA, DIGEST = built()


def test_an_index_is_found_by_what_it_holds_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "a.edm").write_bytes(built([("Other Person", "", "", "")])[0])
    (tmp_path / "z.edm").write_bytes(DATA)
    indexes = Indexes([tmp_path / "missing", tmp_path], {KEY_ID: MASTER})
    assert indexes.of(DIGEST).header.rows == 3
    assert indexes.of(DIGEST) is indexes.of(DIGEST)


@pytest.mark.parametrize("name", ["missing", "altered", "cut", "key"])
def test_without_it_messages_are_denied_and_with_it_they_are_not(tmp_path: Path, name: str) -> None:
    changed = {"missing": b"", "altered": DATA[:-1] + b"x", "cut": DATA[:400], "key": DATA}[name]
    if changed:
        (tmp_path / "c.edm").write_bytes(changed)
    indexes = Indexes([tmp_path], {} if name == "key" else {KEY_ID: MASTER})
    with pytest.raises(Denied) as denied:
        indexes.of(DIGEST)
    assert denied.value.code == "inspector_unavailable"
    (tmp_path / "c.edm").write_bytes(DATA)
    indexes.trust({KEY_ID: MASTER})
    assert indexes.of(DIGEST).header.rows == 3
