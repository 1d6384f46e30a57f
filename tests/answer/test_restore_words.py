"""Stand-ins that look like ordinary text: whole tokens only, in any pieces, at every level of JSON."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dataplane.websocket import restore_text
from proxy.restore import JsonRestorer, Placeholders, TextRestorer
from proxy.restore_words import Words
from tests.answer.test_streams import DIALECTS, parsed
from tests.providers.kit import SSE, call_of, pour, response_head, tap_for

CARD, NAME, PHONE = "4929 1234 5678 9012", "Alma K. Berg", "1 415-555-0123"
RESTORE = {
    CARD: "4111 1111 1111 1111",
    NAME: 'Jane "JR" Roe',
    PHONE: "49 30 1234567",
    "alma.berg.k3fq@example.org": "jane@corp.com",
    "<PERSON_abcdefgh>": "John",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"pay {CARD}.", "pay 4111 1111 1111 1111."),
        (CARD, "4111 1111 1111 1111"),
        (f"+{PHONE}", "+49 30 1234567"),
        (f"({NAME})", '(Jane "JR" Roe)'),
        (f"{NAME}s", f"{NAME}s"),
        (f"x{CARD}", f"x{CARD}"),
        (f"{CARD}0", f"{CARD}0"),
        (f"_{CARD}", f"_{CARD}"),
        ("4929123456789012", "4929123456789012"),
        (f"联系{NAME}吧", '联系Jane "JR" Roe吧'),
        (f"{NAME}, {NAME} and <PERSON_abcdefgh>", 'Jane "JR" Roe, Jane "JR" Roe and John'),
        ("mail alma.berg.k3fq@example.org.", "mail jane@corp.com."),
    ],
)
def test_whole_tokens_only_whatever_the_cut(text: str, expected: str) -> None:
    data = text.encode()
    for cut in range(len(data) + 1):
        restorer = TextRestorer(Placeholders(RESTORE))
        out = restorer.feed(data[:cut]) + restorer.feed(data[cut:]) + restorer.finish()
        assert out.decode() == expected


@pytest.mark.parametrize("ascii_only", [True, False])
def test_in_json_the_original_is_escaped_and_escapes_before_it_are_no_letters(ascii_only: bool) -> None:
    answer = {"a": f"line\n{NAME}\tand\u00e9{CARD}", "b": [f"{NAME}x", NAME], NAME: 1}
    expected = {"a": 'line\nJane "JR" Roe\tand\u00e94111 1111 1111 1111', "b": [f"{NAME}x", 'Jane "JR" Roe'],
                'Jane "JR" Roe': 1}  # fmt: skip
    data = json.dumps(answer, ensure_ascii=ascii_only).encode()
    for cut in range(len(data) + 1):
        restorer = JsonRestorer(Placeholders(RESTORE))
        out = restorer.feed(data[:cut]) + restorer.feed(data[cut:]) + restorer.finish()
        assert json.loads(out) == expected


def test_in_json_within_json_the_original_is_escaped_twice() -> None:
    data = json.dumps({"arguments": json.dumps({"name": NAME, "n": f"\n{CARD}"})}).encode()
    for cut in range(len(data) + 1):
        restorer = JsonRestorer(Placeholders(RESTORE), nested=frozenset({"arguments"}))
        out = restorer.feed(data[:cut]) + restorer.feed(data[cut:]) + restorer.finish()
        inner = json.loads(json.loads(out)["arguments"])
        assert inner == {"name": 'Jane "JR" Roe', "n": "\n4111 1111 1111 1111"}


def test_a_string_that_never_ends_is_restored_as_far_as_it_goes() -> None:
    restorer = JsonRestorer(Placeholders(RESTORE))
    assert restorer.feed(b'{"a": "' + NAME.encode()) + restorer.finish() == b'{"a": "Jane \\"JR\\" Roe'


WORDS = ["ab", "ab ab", "b a", "a", "ba b", "aab a"]


@given(st.text("ab \\n", max_size=30), st.lists(st.integers(0, 30), max_size=4), st.sets(st.sampled_from(WORDS)))
def test_any_pieces_give_what_the_whole_gives(text: str, cuts: list[int], chosen: set[str]) -> None:
    placeholders = Placeholders({word: f"[{number}]" for number, word in enumerate(sorted(chosen))})
    whole = placeholders.replace(text.encode(), 0)
    restorer = TextRestorer(placeholders)
    out, position = b"", 0
    for cut in sorted(min(cut, len(text)) for cut in cuts):
        out += restorer.feed(text[position:cut].encode())
        position = cut
    assert out + restorer.feed(text[position:].encode()) + restorer.finish() == whole


def test_text_that_begins_no_word_is_given_out_at_once() -> None:
    words = Words([NAME.encode()])
    assert words.split(b"Hello Al", b"") == len(b"Hello ")
    assert words.split(b"Hello all", b"") == len(b"Hello all")
    assert words.split(b"Alma", b"x") == len(b"Alma")


@pytest.mark.parametrize(
    ("payload", "expected"),
    [(f"to {NAME}", 'to Jane "JR" Roe'), (f'{{"a":"\\n{NAME}"}}', '{"a":"\\nJane \\"JR\\" Roe"}'), ("none", "none")],
)
def test_websocket_messages(payload: str, expected: str) -> None:
    assert restore_text(payload.encode(), RESTORE).decode() == expected


@given(
    st.sampled_from(list(DIALECTS)),
    st.sampled_from(["text", "tool"]),
    st.lists(st.sampled_from([NAME, "Alma K. Ber", "x", " ", "\n", CARD, "<PERSON_abcdefgh>", "1"]), max_size=7),
    st.lists(st.integers(0, 10**6), max_size=8),
)
def test_streamed_over_any_events(path: str, kind: str, parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    value = text if kind == "text" else json.dumps({"a": text})
    edges = [0, *sorted(at % (len(value) + 1) for at in cuts), len(value)]
    make, collect = DIALECTS[path]
    events = make([value[start:end] for start, end in pairwise(edges)], kind)
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    call = call_of(b'{"model":"m","stream":true,"max_tokens":5}', "h.test", path)
    out = pour(tap_for(call, RESTORE, response_head(SSE)), [stream])
    got = collect(list(parsed(out)), kind)
    wanted = Placeholders(RESTORE).replace(text.encode(), 0).decode()
    assert (got if kind == "text" else json.loads(got)) == (wanted if kind == "text" else {"a": wanted})
