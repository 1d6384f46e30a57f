"""The record: what gets in, in which form, and that nothing else does."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.audit import (
    ENVELOPE,
    FIELDS,
    MAX_LINE_BYTES,
    body_json,
    clean_fields,
    for_terminal,
    instant,
    safe_host,
    safe_method,
    safe_model,
    safe_path,
    safe_text,
)
from proxy.model import AuditRecord

SSN = "123-45-6789"


def _line(fields: dict[str, Any], **more: Any) -> bytes:
    record = AuditRecord(more.get("id", "x1"), more.get("kind", "terminal"), more.get("time_s", 1.5e9), fields)
    return body_json(record, writer="w0", seq=1, prev="0" * 64)


def _fields(line: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line + b"}")
    return found


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("api.openai.com", "api.openai.com"),
        ("s3.eu-west-1.amazonaws.com", "s3.eu-west-1.amazonaws.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("localhost", "localhost"),
        ("203.0.113.5", "203.0.113.5"),
        ("fd00::66", "fd00::66"),
        ("4a6f686e446f65.53656372657431.allowed.test", "*.*.allowed.test"),
        (f"{SSN}.evil.test", "*.evil.test"),
        ("john@example.com", "*.com"),
        ("a" * 26 + ".evil.test", "*.evil.test"),
        ("qwrtpsdfghjk.evil.test", "*.evil.test"),
        ("a..b", "a.*.b"),
        ("UPPER.test", "*.test"),
        ("evil\x1b[31m.test", "*.test"),
        ("a." * 200 + "b", "*"),
        ("", ""),
        ("1.pool.ntp.org", "1.pool.ntp.org"),
        ("123.45.6789.evil.test", "*.45.*.evil.test"),
        ("123.45.6789", "*.45.*"),
        ("123456789", "*"),
    ],
)
def test_safe_host(host: str, shown: str) -> None:
    """Names stay readable; labels with room for data do not."""
    assert safe_host(host) == shown


def test_safe_host_keeps_what_policy_already_says() -> None:
    """A known suffix is not the client's data; labels before it still are."""
    assert safe_host("db-0001-2345.corp.example", "db-0001-2345.corp.example") == "db-0001-2345.corp.example"
    assert safe_host(f"{SSN}.db-0001-2345.corp", "db-0001-2345.corp") == "*.db-0001-2345.corp"
    assert safe_host("xdb-0001-2345.corp", "db-0001-2345.corp") == "*.corp"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/", "/"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1beta/models/gemini-2.0-flash:generateContent", "/v1beta/models/*"),
        ("/v1/files/file-abc123", "/v1/files/*"),
        ("/api/embeddings/", "/api/embeddings/"),
        (f"/users/{SSN}/x", "/users/*/x"),
        ("/users/john@example.com", "/users/*"),
        ("/users/%6a%6f", "/users/*"),
        ("/search?q=" + SSN, "/search"),
        ("/" + "a/" * 30, "/" + "a/" * 12 + "*"),
        ("/a b", "/*"),
        ("/\x1b[31m/x", "/*/x"),
        ("/\u202egnp.exe", "/*"),
        ("/sk-proj-abcdefghijklmnopqrstuvwxyz0123", "/*"),
        ("/thisisaverylongwordthatholdsmorethanawordshould", "/*"),
        ("*", "*"),
        ("", ""),
    ],
)
def test_safe_path(path: str, shown: str) -> None:
    """Words and versions stay, everything else is a star; never a query."""
    assert safe_path(path) == shown


@given(st.text())
def test_safe_forms_are_stable_and_plain(text: str) -> None:
    """Cleaning twice is cleaning once (the record cleans again), and no odd character gets through."""
    for clean in (safe_path, safe_method, safe_model):
        once = clean(text)
        assert clean(once) == once or clean is safe_model
        assert once.isascii()
        assert once.isprintable()
    path, host = safe_path(text), safe_host(text)
    again = clean_fields({"path": path, "host": host})
    assert again == {"path": path, "host": host}


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-2024-08-06", "gpt-4o-2024-08-06"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet-20241022"),
        ("meta-llama/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.3-70B-Instruct"),
        ("ft:gpt-4o-mini:acme::9aBc", "ft:gpt-4o-mini:acme::9aBc"),
        (f"a{SSN}", "*"),
        ("card4111111111111111", "*"),
        ("john doe", "*"),
        ("m" * 101, "*"),
        ("", "*"),
    ],
)
def test_safe_model(model: str, shown: str) -> None:
    """Dates stay, other numbers do not."""
    assert safe_model(model) == shown


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"host {SSN}.evil.test is not allowed", "6789"),
        ("call +49 (30) 1234-5678 now", "1234"),
        ("card 4111 1111 1111 1111", "1111"),
        ("mail john.doe@example.com please", "john"),
        ("key sk-proj-abcdefghijklmnopqrstuvwxyz0123", "abcdefgh"),
        ("a\x1b[31mb\r\nc\u202ed", "\x1b"),
    ],
)
def test_safe_text(text: str, hidden: str) -> None:
    """Our sentences survive, a client's numbers, addresses and keys in them do not."""
    assert hidden not in safe_text(text)
    assert "*" in safe_text(text) or "\ufffd" in safe_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "POST https://api.openai.com/v1/chat/completions is not allowed; the entry allows GET",
        "gpt-4o is not one of gpt-4o-mini, gpt-4.1-nano",
        "port 8443 is not one of 443",
        "10.20.30.40 is in no app's network",
    ],
)
def test_safe_text_leaves_sentences_alone(text: str) -> None:
    """The near misses."""
    assert safe_text(text) == text


HOSTILE = [
    '\r\n{"v":1}',
    "\x1b[31m",
    "\u202e",
    "\ud800",
    "\x00",
    "\u2028",
    "\x85",
    "é",
    '"',
    "\\",
    "\x7f",
    "A" * 1_000_000,
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("field", [each.name for each in FIELDS] + ["not_a_field", "\r\nx"])
def test_no_value_breaks_the_line(field: str, hostile: str) -> None:
    """AUD-06: one JSON line of ASCII, 8 KiB at most, without control characters."""
    line = _line({field: hostile, "app": "a"}, id=hostile)
    assert len(line) <= MAX_LINE_BYTES - 75
    assert all(0x20 <= byte < 0x7F for byte in line)
    assert _fields(line)["app"] == "a"


@example({"findings": {"": -(1 << 63) - 1, "a": 1 << 64}})
@given(st.dictionaries(st.sampled_from([each.name for each in FIELDS]) | st.text(max_size=20), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)))  # fmt: skip
def test_any_value_makes_a_line(fields: dict[str, Any]) -> None:
    """Fuzz: whatever a caller puts in, a parsable line comes out."""
    line = _line(fields)
    assert len(line) <= MAX_LINE_BYTES - 75
    assert _fields(line)["seq"] == 1


def test_undocumented_fields_do_not_reach_the_disk() -> None:
    """Only their names do: a new field needs a row in the table first."""
    shown = clean_fields({"prompt": "secret text", "app": "a"})
    assert shown == {"app": "a", "unknown_fields": ["prompt"]}


def test_a_line_is_shortened_by_whole_fields() -> None:
    """Never half a value, and the record says which were given up."""
    findings = {f"ENTITY_{'X' * 70}{number}:block": number for number in range(200)}
    ids = ["i" * 40] * 100
    found = _fields(
        _line({"findings": findings, "open_ids": ids, "detail": "d " * 200, "remedy": "é " * 200, "app": "a"})
    )
    assert found["shortened"]
    assert not set(found["shortened"]) & set(found)
    assert found["app"] == "a"


def test_many_findings_keep_their_sum() -> None:
    """The most frequent by name, the rest as one number."""
    counts = clean_fields({"findings": {f"E{number}:redact": number for number in range(1, 101)}})["findings"]
    assert len(counts) == 41
    assert sum(counts.values()) == 5050
    assert counts["E100:redact"] == 100


def test_the_exchange_uses_only_documented_fields() -> None:
    """Every name that the trail writes has a row here."""
    import ast
    from pathlib import Path

    import proxy.trail

    names = {field.name for field in FIELDS}
    written: set[str] = set()
    for node in ast.walk(ast.parse(Path(proxy.trail.__file__).read_text())):
        if isinstance(node, ast.Dict):
            written |= {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            written.add(str(node.slice.value))
    assert written <= names


def test_the_table_is_fit_for_a_reference_page() -> None:
    """Each field once, each with a sentence."""
    rows = ENVELOPE + FIELDS
    assert len({row.name for row in rows}) == len(rows)
    assert all(len(row.meaning) > 6 for row in rows)


@pytest.mark.parametrize(
    ("time_s", "text"),
    [(0.0, "1970-01-01T00:00:00.000Z"), (1.5e9 + 0.25, "2017-07-14T02:40:00.250Z"), (1e30, "*"), (float("nan"), "*")],
)
def test_instant(time_s: float, text: str) -> None:
    """RFC 3339, or a star."""
    assert instant(time_s) == text


def test_for_terminal() -> None:
    """Escape sequences are shown, not obeyed."""
    assert for_terminal("a\x1b[31m\u202e\n") == "a\\u001b[31m\\u202e\\u000a"
