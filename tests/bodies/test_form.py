"""URL-encoded fields: names, values, and edits that stay encoded."""

from urllib.parse import parse_qsl, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.bodies.form import PercentLayer, fields
from proxy.bodies.layers import Edit, TextRoot, apply, is_editable, splice
from proxy.bodies.limits import DEFAULT_LIMITS, Limits
from proxy.errors import Denied


def layers(text: str, *, fixed_names: bool = False) -> tuple[TextRoot, list[PercentLayer]]:
    root = TextRoot(text, "body")
    return root, fields(root, 0, len(text), DEFAULT_LIMITS, label="form", fixed_names=fixed_names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1&b=x+y", ["a", "1", "b", "x y"]),
        ("%61=%41%20", ["a", "A "]),
        ("a", ["a"]),
        ("&&a=&", ["a", ""]),
        ("a=b=c", ["a", "b=c"]),
        ("a=1;b=2", ["a", "1;b=2"]),
        ("a=%E4%BD%A0%zz%", ["a", "你%zz%"]),
        ("a=%ff", ["a", "\udcff"]),
    ],
)
def test_names_and_values(text: str, expected: list[str]) -> None:
    assert [layer.text for layer in layers(text)[1]] == expected


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=8)), min_size=1, max_size=4),
    st.data(),
)
def test_an_edit_changes_one_span_of_one_value(pairs: list[tuple[str, str]], data: st.DataObject) -> None:
    text = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in pairs)
    root, found = layers(text)
    assert [layer.text for layer in found] == [part for pair in pairs for part in pair]
    chosen = data.draw(st.integers(0, len(pairs) - 1))
    value = pairs[chosen][1]
    start = data.draw(st.integers(0, len(value) - 1))
    end = data.draw(st.integers(start + 1, len(value)))
    changed = splice(text, apply({found[2 * chosen + 1]: [Edit(start, end, "<A&B=+%>")]})[root])
    expected = list(pairs)
    expected[chosen] = (pairs[chosen][0], value[:start] + "<A&B=+%>" + value[end:])
    assert parse_qsl(changed, keep_blank_values=True) == expected


def test_names_of_a_query_are_fixed() -> None:
    _, found = layers("a=1", fixed_names=True)
    assert [is_editable(layer) for layer in found] == [False, True]


def test_places_name_the_field() -> None:
    _, found = layers("note=1")
    assert [layer.where(str) for layer in found] == ["body form (name)", "body form note"]


def test_too_many_fields_are_refused() -> None:
    root = TextRoot("a&" * 20, "body")
    with pytest.raises(Denied, match="too_large"):
        fields(root, 0, len(root.text), Limits(max_leaves=10), label="form")
