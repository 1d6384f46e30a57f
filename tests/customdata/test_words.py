"""One spelling for cells and texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.customdata.words import KINDS, Kind, Text, joined, spelled


@pytest.mark.parametrize(
    ("kind", "cell", "expected"),
    [
        ("name", "Jane Roe", "jane roe"),
        ("name", "ROE, Jane", "jane roe"),
        ("name", "Jane A. Roe", "jane roe"),
        ("name", "Jürgen Müller-Lüdenscheidt", "jurgen ludenscheidt muller"),
        ("name", "Bo", None),
        ("name", "J. R.", None),
        ("name", "", None),
        ("name", "one two three four five six seven", None),
        ("text", "12 Long Street", "12 long street"),
        ("text", "Straße 5", "strasse 5"),
        ("email", " Jane.Roe@Corp.Example ", "jane.roe@corp.example"),
        ("email", "none", None),
        ("phone", "+49 (30) 1234567", "301234567"),
        ("phone", "030/1234567", "301234567"),
        ("phone", "0049301234567", "301234567"),
        ("phone", "123456", None),
        ("number", "de89 3704-0044.0532 0130 00", "DE89370400440532013000"),
        ("number", "1234", None),
        ("number", "ABCDEF", None),
        ("number", "1" * 41, None),
    ],
)
def test_cells(kind: Kind, cell: str, expected: str | None) -> None:
    assert spelled(kind, cell) == expected


cells = st.text(
    st.characters(codec="utf-8", categories=["L", "Nd", "Zs", "Po", "Pd"]), min_size=1, max_size=30
) | st.from_regex(r"\+?[0-9]{2,4}[ /-]?[0-9]{4,9}|[A-Z]{2}[0-9]{2}( [0-9]{4}){3}|[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8}){0,3}", fullmatch=True)  # fmt: skip # noqa: E501


@given(cells, st.sampled_from(["", "x, ", "see: ", "\n"]), st.sampled_from(["", ".", " and so on", "\n"]))
def test_a_cell_is_found_in_a_text_that_holds_it_as_it_is(cell: str, before: str, after: str) -> None:
    text = Text(before + cell + after)
    everything = [2**8 - 1] * len(text.words)
    for kind in KINDS:
        value = spelled(kind, cell)
        if value is None or cell.strip() != cell:
            continue
        if kind == "number" and (
            len(text.spans) > 10 or "," in cell or ";" in cell or any(c.isspace() and c != " " for c in cell)
        ):
            continue
        found = {
            "name": lambda: text.rows_of_words("name", [reach & 63 for reach in everything]),
            "text": lambda: text.rows_of_words("text", everything),
            "email": text.mails,
            "phone": text.phones,
            "number": lambda value=value: text.numbers(frozenset({len(value)})),
        }[kind]()
        values = [one.value for one in found]
        if kind in ("name", "text", "email"):
            assert value in values


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("call 030 1234567 20240101", "phone", "301234567"),
        ("42 030 1234567", "phone", "301234567"),
        ("pay DE89 3704 0044 0532 0130 00 now", "number", "DE89370400440532013000"),
        ("no 3 KD-12345", "number", "KD12345"),
        ("kd 12345", "number", "KD12345"),
        ("<a href='mailto:jane@corp.example'>", "email", "jane@corp.example"),
    ],
)
def test_what_stands_around_a_value_does_not_hide_it(text: str, kind: Kind, expected: str) -> None:
    cut = Text(text)
    found = {"phone": cut.phones, "number": lambda: cut.numbers(frozenset({len(expected)})), "email": cut.mails}[kind]()
    assert expected in [one.value for one in found]


def test_words_that_stand_in_no_cell_are_not_tried() -> None:
    text = Text("the quick brown fox jumps over Jane Roe")
    reaches = [0] * len(text.words)
    reaches[6] = reaches[7] = 0b10
    assert [one.value for one in text.rows_of_words("name", reaches)] == ["jane roe"]
    assert joined("name", ["x"]) is None
