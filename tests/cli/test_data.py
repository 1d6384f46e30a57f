"""`egress data`: a CSV file in, an index out, and mistakes that say what to do."""

import json
import re
from pathlib import Path

import pytest

from proxy.cli import main
from proxy.inspector.indexes import Indexes
from proxy.keys.root import RootKey
from tests.customdata.kit import found, rule

CSV = 'id,name,mail,iban,phone\n1,Jane Roe,jane@corp.example,DE89 3704 0044 0532 0130 00,030 1234567\n2,"Poe, Jim",,,\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "c.csv").write_text(CSV)
    RootKey.load_or_create(tmp_path / "state" / "root.key")
    return tmp_path


def run(place: Path, *more: str, file: str = "c.csv", columns: str = "name mail iban phone") -> int:
    out = ["--out", str(place / "c.edm"), "--state", str(place / "state")]
    return main(["data", "index", str(place / file), "--columns", *columns.split(), *out, *more])


def test_what_is_indexed_is_found_with_the_installations_own_key(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rows"], facts["cells"], facts["left_out"]["mail"]) == (2, 5, 1)
    root = RootKey.load(place / "state" / "root.key")
    index = Indexes([place], root.exact_match_keys()).of(facts["digest"])
    assert found(index, ["roe, jane: jane@corp.example"], rule()) == ["roe, jane", "jane@corp.example"]
    assert (place / "c.edm").stat().st_mode & 0o077 == 0
    assert [path.name for path in place.glob(".*")] == []


def test_show_tells_what_an_index_holds(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(place)
    capsys.readouterr()
    assert main(["data", "show", str(place / "c.edm")]) == 0
    said = capsys.readouterr().out
    assert re.search(r"2 rows, 5 cells", said)
    assert "iban    number" in said
    assert "Jane" not in said


def test_an_index_outlives_a_rotation_until_its_key_is_retired(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(place, "--json")
    digest = json.loads(capsys.readouterr().out)["digest"]
    root = RootKey.load(place / "state" / "root.key")
    rotated = root.rotated(1.0)
    assert Indexes([place], rotated.exact_match_keys()).of(digest).header.key_id == root.id
    assert root.id not in rotated.retired(root.id).exact_match_keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": "name nothing:name"}, "no one column 'nothing'"),
        ({"columns": "name id:what"}, "of what kind"),
        ({"columns": "name name"}, "stands twice"),
        ({"columns": "name", "more": ["--delimiter", ";"]}, "no one column 'name'"),
        ({"columns": "name", "more": ["--encoding", "none"]}, "row 2 cannot be read"),
        ({"columns": "name", "more": ["--out", "c.txt"]}, "by their ending"),
        ({"columns": "name", "file": "bad.csv"}, "row 2 cannot be read: other bytes"),
        ({"columns": "name", "file": "empty.csv"}, "no one column"),
    ],
)
def test_mistakes(place: Path, capsys: pytest.CaptureFixture[str], arguments: dict[str, object], message: str) -> None:
    (place / "bad.csv").write_bytes(b"name\nJ\xfcrgen\n")
    (place / "empty.csv").write_bytes(b"")
    more = arguments.pop("more", [])
    assert run(place, *more, **arguments) == 2  # type: ignore[misc,arg-type]
    said = capsys.readouterr().err
    assert message in said
    assert "fix:" in said
    assert not (place / "c.edm").exists()
